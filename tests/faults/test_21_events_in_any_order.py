"""Late, duplicate, out-of-order and same-millisecond events: however they come, the marts are the same."""

from __future__ import annotations

import json
import random
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dbt.marts import DAY, build, events_of_days, loads, marts
from tests.shops import T0, event, land, run_dbt, write_source


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), repeats=st.integers(1, 3))
def test_backfilling_days_twice_and_in_any_order_gives_the_marts_of_one_orderly_load(
    tmp_path_factory: pytest.TempPathFactory, seed: int, repeats: int
) -> None:
    chance, folder = random.Random(seed), tmp_path_factory.mktemp("order")
    log = events_of_days(chance, days=4, count=90)
    # A machine that never rests, for three days.
    log += [event("restless", f"p{n % 5}", T0 + n * 1_500_000) for n in range(chance.randrange(3 * 57))]
    orderly = loads(folder / "one.duckdb", folder / "one", folder / "target", [sorted(log)])
    by_day: dict[str, list[str]] = defaultdict(list)
    for line in log:
        by_day[str(int(line.split(",")[4]) // DAY)].append(line)
    # Each day as a file of its own, in any order, some of them again with a late event of another day.
    batches = list(by_day.values())
    batches += [[*chance.choice(batches), chance.choice(log)] for _ in range(repeats)]
    chance.shuffle(batches)
    # Every kind of disorder is there: in a file, between files, twice, and at the same moment.
    assert any(batch != sorted(batch) for batch in batches)
    moments = [line.split(",")[4] for line in log]
    assert len(set(moments)) < len(moments)
    path = folder / "days.duckdb"
    # One size for all of them: dbt parses the project anew for every other value of a variable.
    size = json.dumps({"rows_per_batch": chance.choice([1, 30, 10**6])})
    for number, batch in enumerate(batches):
        land(path, write_source(folder / "days" / str(number), batch))
        build(path, folder / "target", "--vars", size)
    assert marts(path) == orderly
    assert run_dbt(path, folder / "target", "run", "--full-refresh").success
    assert marts(path) == orderly

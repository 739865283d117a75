"""Loads and dbt runs on a DuckDB file, and the marts that they make."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.shops import T0, event, land, rows, run_dbt, write_source

SESSIONS = "select * exclude (built_from) from shop.sessions order by tenant, session_id"


DAILY = "select * from shop.daily_statistics order by tenant, event_date"


DAY = 86_400_000


def marts(path: Path) -> list[list[tuple[Any, ...]]]:
    return [rows(path, SESSIONS), rows(path, DAILY), rows(path, "select * from shop.products order by 1, 2")]


def build(path: Path, target: Path, *options: str) -> None:
    result = run_dbt(path, target, "run", *options)
    assert result.success, result.exception


def loads(path: Path, folder: Path, target: Path, batches: Sequence[Sequence[str]]) -> list[Any]:
    """Lands batches one after the other, with a dbt run after each."""
    for number, batch in enumerate(batches):
        land(path, write_source(folder / str(number), batch))
        build(path, target)
    return marts(path)


def events_of_days(chance: random.Random, days: int, count: int) -> list[str]:
    """A log of sessions that pause, cross midnight and end at the same millisecond."""
    lines = []
    for number in range(count):
        action = chance.choice(["detail", "detail", "add", "remove", "purchase", ""])
        lines.append(
            event(
                f"s{number % 7}",
                f"p{chance.randrange(5)}" if action else "",
                T0
                + DAY * chance.randrange(days)
                + chance.choice([0, 5, 5, 900_000, 2_400_000, DAY - 600_000]),
                action,
                "event_product" if action else "pageview",
                f"u{chance.randrange(3)}",
            )
        )
    return lines

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlfluff

from include.warehouse.dialect import Statement
from tests.shops import (
    DBT_PROJECT,
    SMALL,
    T0,
    event,
    land,
    open_file,
    rows,
    run_dbt,
    transformed_shop,
    write_source,
)

SESSIONS = "select * from shop.sessions order by tenant, session_id"
DAILY = "select * from shop.daily_statistics order by tenant, event_date"
DAY = 86_400_000


def marts(path: Path) -> list[list[tuple[Any, ...]]]:
    return [rows(path, SESSIONS), rows(path, DAILY), rows(path, "select * from shop.products order by 1, 2")]


def build(path: Path, target: Path) -> None:
    result = run_dbt(path, target, "run")
    assert result.success, result.exception


def loads(path: Path, folder: Path, target: Path, batches: Sequence[Sequence[str]]) -> list[Any]:
    """Lands batches one after the other, with a dbt run after each."""
    for number, batch in enumerate(batches):
        land(path, write_source(folder / str(number), batch))
        build(path, target)
    return marts(path)


def test_the_shop_builds_and_every_test_passes_and_the_marts_are_right(tmp_path: Path) -> None:
    path = transformed_shop(tmp_path)
    found = rows(path, "select session_id, skus, actions, event_times, is_bot, n_steps from shop.sessions")
    raw = [json.loads(row[0]) for row in rows(path, "select raw_data from raw.shopping_events")]
    ranks = {"detail": 1, "add": 2, "purchase": 4}
    wanted: dict[str, set[tuple[int, int, str, str, str]]] = {}
    for row in raw:
        action = row["product_action"]
        if action in ranks and row["product_sku_hash"]:
            moment = int(row["server_timestamp_epoch_ms"])
            wanted.setdefault(row["session_id_hash"], set()).add(
                (moment, ranks[action], row["product_sku_hash"], row["hashed_url"], action)
            )
    assert {row[0] for row in found} == wanted.keys()
    for session_id, skus, actions, times, is_bot, steps in found:
        interactions = sorted(wanted[session_id])[:300]
        assert skus == [row[2] for row in interactions]
        assert actions == [row[4] for row in interactions]
        assert times == [row[0] for row in interactions]
        assert is_bot == (len(wanted[session_id]) > 300)
        assert steps == sum(n == 0 or skus[n - 1] != sku for n, sku in enumerate(skus))
    assert rows(path, "select count(*) from shop.products") == [(SMALL.products,)]
    distinct = Counter(tuple(row.values()) for row in raw)
    assert rows(path, "select sum(n_events) from shop.daily_statistics") == [(len(distinct),)]
    assert len(raw) > len(distinct), "the shop holds duplicates"


def test_empty_raw_tables_build_to_empty_marts_twice(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    with open_file(path) as warehouse:
        warehouse.create_raw_tables()
    for _ in range(2):
        result = run_dbt(path, tmp_path / "target", "build")
        assert result.success, result.exception
    assert marts(path) == [[], [], []]


def test_late_repeated_and_disordered_loads_give_the_marts_of_one_orderly_load(tmp_path: Path) -> None:
    chance = random.Random(3)
    log = [
        event(
            f"s{n % 7}",
            f"p{chance.randrange(5)}",
            T0 + DAY * chance.randrange(4) + chance.randrange(4),
            action,
        )
        for n in range(120)
        for action in (chance.choice(["detail", "add", "remove", "purchase"]),)
    ] + [event("s1", "", T0 + n, "", "pageview", f"u{n}") for n in range(5)]
    orderly = loads(tmp_path / "one.duckdb", tmp_path / "one", tmp_path / "target", [sorted(log)])
    shuffled = log + chance.sample(log, 30)
    chance.shuffle(shuffled)
    # Every part touches every day, and the last one repeats what came before.
    parts = [shuffled[:50], shuffled[50:120], shuffled[120:] + shuffled[:20]]
    again = loads(tmp_path / "three.duckdb", tmp_path / "three", tmp_path / "target", parts)
    assert again == orderly
    full = run_dbt(tmp_path / "three.duckdb", tmp_path / "target", "run", "--full-refresh")
    assert full.success
    assert marts(tmp_path / "three.duckdb") == orderly


def test_an_incremental_run_leaves_untouched_dates_alone(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    land(path, write_source(tmp_path / "a", [event("old", moment=T0), event("old", "b", T0 + 1)]))
    build(path, target)
    with open_file(path) as warehouse:
        warehouse.execute(
            Statement("update raw.shopping_events set etl_timestamp = etl_timestamp - to_days(30)")
        )
        # A trace that would go if the date were rebuilt.
        warehouse.execute(Statement("update shop.int_shopping_events_deduplicated set page_url = 'trace'"))
    land(path, write_source(tmp_path / "b", [event("new", moment=T0 + DAY)]))
    build(path, target)
    traces = rows(
        path, "select session_id, page_url from shop.int_shopping_events_deduplicated order by 1, 2"
    )
    assert traces == [("new", None), ("old", "trace"), ("old", "trace")]


@pytest.mark.parametrize(
    ("spoil", "model"),
    [
        ("update raw.shopping_events set event_type = 'click'", "stg_shopping_events"),
        ("update raw.shopping_events set raw_data = '{}'", "stg_shopping_events"),
        ("alter table raw.shopping_events rename raw_data to payload", "stg_shopping_events"),
    ],
    ids=["strange event type", "session id gone", "column renamed"],
)
def test_drifted_raw_data_stop_the_build_before_the_marts(tmp_path: Path, spoil: str, model: str) -> None:
    path = tmp_path / "w.duckdb"
    land(path, write_source(tmp_path / "in", [event(), event(sku="b")]))
    with open_file(path) as warehouse:
        warehouse.execute(Statement(spoil))
    result = run_dbt(path, tmp_path / "target", "build")
    assert not result.success
    status = {r.node.name: str(r.status) for r in result.result.results if r.node.resource_type == "model"}
    assert status.get("sessions", "skipped") == "skipped"
    failed = [r for r in result.result.results if str(r.status) in {"error", "fail", "runtime error"}]
    assert any(model in r.node.name for r in failed)


def test_the_project_parses_for_snowflake_without_a_connection(tmp_path: Path) -> None:
    result = run_dbt(
        tmp_path / "unused.duckdb", tmp_path, "parse", "--target", "snowflake", "--no-partial-parse"
    )
    assert result.success, result.exception
    columns = result.result.nodes["model.post_modern_stack.sessions"].columns
    assert columns["skus"].data_type == "array"


def test_models_compile_to_snowflake_without_a_connection(tmp_path: Path) -> None:
    # Only the incremental model asks the warehouse something while it compiles.
    offline = ["--no-populate-cache", "--no-introspect", "--exclude", "int_shopping_events_deduplicated"]
    result = run_dbt(tmp_path / "unused.duckdb", tmp_path, "compile", "--target", "snowflake", *offline)
    assert result.success, result.exception
    compiled = {path.stem: path.read_text() for path in (tmp_path / "compiled").rglob("models/*/*.sql")}
    assert compiled.keys() >= {
        "stg_shopping_events",
        "stg_products",
        "sessions",
        "products",
        "daily_statistics",
    }
    for name, text in compiled.items():
        sqlfluff.parse(text, dialect="snowflake")
        for word in ("epoch_ms(", "json_extract_string", "len("):
            assert word not in text, name
    assert "array_agg(product_sku) within group (order by interaction_number)" in compiled["sessions"]
    assert "get(raw_data, 'session_id_hash')::varchar" in compiled["stg_shopping_events"]


def test_every_model_has_its_yml_beside_it_and_describes_every_column(tmp_path: Path) -> None:
    models = sorted((DBT_PROJECT / "models").rglob("*.sql"))
    assert [path for path in models if not path.with_suffix(".yml").exists()] == []
    result = run_dbt(tmp_path / "unused.duckdb", tmp_path, "parse", "--no-partial-parse")
    nodes = [node for node in result.result.nodes.values() if node.resource_type == "model"]
    assert len(nodes) == len(models)
    tested = {test.model.split(".")[-1] for test in result.result.unit_tests.values()}
    for node in nodes:
        assert node.description and node.name in tested
        assert all(column.description for column in node.columns.values()), node.name
        if node.fqn[1] == "marts":
            assert node.config.contract.enforced


def test_vendor_words_stay_in_the_macros() -> None:
    for path in (DBT_PROJECT / "models").rglob("*.sql"):
        text = path.read_text()
        for word in ("epoch_ms(", "json_extract", "within group", "array_agg", "flatten", "unnest", "::"):
            assert word not in text, (path.name, word)

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import sqlfluff

from include.warehouse.dialect import Statement
from include.warehouse.loading import find_source
from tests.dbt.marts import DAY, build, events_of_days, loads, marts
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


def test_the_shop_builds_and_every_test_passes_and_the_marts_are_right(tmp_path: Path) -> None:
    path = transformed_shop(tmp_path)
    found = rows(
        path, "select shop_session_id, skus, actions, event_times, is_bot, n_steps from shop.sessions"
    )
    raw = [json.loads(row[0]) for row in rows(path, "select raw_data from raw.shopping_events")]
    ranks = {"detail": 1, "add": 2, "purchase": 4}
    wanted: dict[str, set[tuple[int, int, str, str]]] = {}
    for row in raw:
        action = row["product_action"]
        if action in ranks and row["product_sku_hash"]:
            moment = int(row["server_timestamp_epoch_ms"])
            wanted.setdefault(row["session_id_hash"], set()).add(
                (moment, ranks[action], row["product_sku_hash"], action)
            )
    assert {row[0] for row in found} == wanted.keys()
    for session_id, skus, actions, times, is_bot, steps in found:
        interactions = sorted(wanted[session_id])[:300]
        assert skus == [row[2] for row in interactions]
        assert actions == [row[3] for row in interactions]
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


def test_small_batches_give_what_one_batch_gives(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    whole = loads(path, tmp_path / "in", target, [events_of_days(random.Random(5), days=6, count=200)])
    result = run_dbt(path, target, "run", "--full-refresh", "--vars", "{rows_per_batch: 1}")
    assert result.success, result.exception
    assert marts(path) == whole


def test_an_incremental_run_leaves_untouched_days_alone(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    land(path, write_source(tmp_path / "a", [event("old", moment=T0), event("old", "b", T0 + 1)]))
    build(path, target)
    with open_file(path) as warehouse:
        # Traces that go where a day is rebuilt.
        warehouse.execute(Statement("update shop.int_shopping_events_deduplicated set funnel_rank = 9"))
        warehouse.execute(Statement("update shop.sessions set n_events = 99"))
    land(path, write_source(tmp_path / "b", [event("new", moment=T0 + 3 * DAY)]))
    build(path, target)
    ranks = "select session_id, funnel_rank from shop.int_shopping_events_deduplicated order by 1"
    assert rows(path, ranks) == [("new", 1), ("old", 9), ("old", 9)]
    assert rows(path, "select n_events from shop.sessions order by 1") == [(1,), (99,)]


def test_a_day_of_one_tenant_does_not_touch_another_tenants(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    with open_file(path) as warehouse:
        for tenant in ("mine", "it's theirs"):
            source = find_source(write_source(tmp_path / tenant, [event("same", tenant[:2])]))
            warehouse.land(source, tenant=tenant)
    build(path, target)
    with open_file(path) as warehouse:
        warehouse.execute(Statement("update shop.sessions set n_events = 99"))
        warehouse.land(
            find_source(write_source(tmp_path / "more", [event("same", "x", T0 + 1)])), tenant="mine"
        )
    build(path, target)
    found = rows(path, "select tenant, shop_session_id, skus, n_events from shop.sessions order by 1")
    assert found == [("it's theirs", "same", ["it"], 99), ("mine", "same", ["mi", "x"], 2)]


def test_a_build_killed_between_batches_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    whole = loads(path, tmp_path / "in", target, [events_of_days(random.Random(7), days=5, count=120)])
    with open_file(path) as warehouse:
        # What a kill leaves: the batches before it, committed, and nothing of the later ones.
        for table, day in (("int_shopping_events_deduplicated", "event_date"), ("sessions", "session_date")):
            warehouse.execute(Statement(f"delete from shop.{table} where {day} > date '2026-01-02'"))
        kept = "update shop.int_shopping_events_deduplicated set first_loaded_at = timestamp '2020-01-01'"
        warehouse.execute(Statement(kept))
    build(path, target)
    assert marts(path) == whole
    again = (
        "select distinct event_date from shop.int_shopping_events_deduplicated "
        "where first_loaded_at > timestamp '2021-01-01'"
    )
    assert min(str(row[0]) for row in rows(path, again)) == "2026-01-03"


def test_a_withdrawn_load_and_a_corrected_one_of_as_many_rows_reach_the_marts(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    loads(path, tmp_path / "in", target, [[event("s"), event("s", "wrong", T0 + 1)]])
    with open_file(path) as warehouse:
        warehouse.execute(Statement("delete from raw.loads"))
    land(path, write_source(tmp_path / "mended", [event("s"), event("s", "right", T0 + 1)]))
    build(path, target)
    assert rows(path, "select skus from shop.sessions") == [(["a", "right"],)]


@pytest.mark.parametrize("change", ["a variable", "the SQL of a view"])
def test_a_changed_rule_reaches_days_that_were_built_before(tmp_path: Path, change: str) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    loads(path, tmp_path / "in", target, [[event("s"), event("s", "b", T0 + 600_000)]])
    if change == "a variable":
        build(path, target, "--vars", "{session_idle_minutes: 5}")
        assert rows(path, "select skus from shop.sessions order by started_at") == [(["a"],), (["b"],)]
    else:
        project = shutil.copytree(
            DBT_PROJECT, tmp_path / "dbt", ignore=shutil.ignore_patterns("target", "logs")
        )
        view = project / "models" / "staging" / "stg_shopping_events.sql"
        view.write_text(view.read_text() + "\nwhere product_sku <> 'b'\n")
        build(path, target, "--project-dir", str(project), "--no-partial-parse")
        assert rows(path, "select skus from shop.sessions") == [(["a"],)]


def test_bad_rows_of_an_old_day_go_on_stopping_the_build(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    loads(path, tmp_path / "in", target, [[event("s"), event("t", moment=T0 + 90 * DAY)]])
    with open_file(path) as warehouse:
        warehouse.execute(
            Statement("insert into shop.sessions from shop.sessions where session_date < '2026-01-02'")
        )
    result = run_dbt(path, target, "build")
    failed = {r.node.name for r in result.result.results if str(r.status) == "fail"}
    assert failed == {"unique_sessions_session_id"}


def test_page_views_that_name_an_action_are_no_interactions(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    views = [event("s", "a", T0, "detail", "pageview", url) for url in ("u", "v")]
    land(path, write_source(tmp_path / "in", [event("s"), *views]))
    result = run_dbt(path, tmp_path / "target", "build")
    assert result.success, result.exception
    assert rows(path, "select skus, n_events from shop.sessions") == [(["a"], 3)]


def test_rows_of_an_unfinished_load_are_not_in_the_marts(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    done = loads(path, tmp_path / "in", target, [[event("a"), event("b")]])
    with open_file(path) as warehouse:
        warehouse.execute(
            Statement(
                "insert into raw.shopping_events select * replace ('half' as etl_id) from raw.shopping_events"
            )
        )
    build(path, target)
    assert marts(path) == done


def test_tables_of_another_shape_are_built_anew(tmp_path: Path) -> None:
    path, target = tmp_path / "w.duckdb", tmp_path / "target"
    whole = loads(path, tmp_path / "in", target, [[event("a"), event("a", "b", T0 + 1)]])
    with open_file(path) as warehouse:
        warehouse.execute(Statement("alter table shop.int_product_days drop n_adds"))
        warehouse.execute(Statement("alter table shop.sessions add column mood varchar"))
        warehouse.execute(Statement("drop table shop.int_shopping_events_deduplicated"))
        warehouse.execute(Statement("create view shop.int_shopping_events_deduplicated as select 1 as one"))
    build(path, target)
    assert marts(path) == whole


@pytest.mark.parametrize(
    ("lines", "test"),
    [
        (
            [
                event(f"s{day}-{n}", moment=T0 + day * DAY + n)
                for day in range(5)
                for n in range(3 if day < 4 else 90)
            ],
            "assert_daily_volume_is_plausible",
        ),
        ([event("a", "SKU-1"), event("b", "sku-1")], "assert_skus_differ_by_more_than_case_or_spaces"),
        ([event("a", "sku"), event("b", '" sku"')], "assert_skus_differ_by_more_than_case_or_spaces"),
    ],
    ids=[
        "a day with ten times the volume",
        "SKUs that differ only by case",
        "SKUs that differ only by spaces",
    ],
)
def test_what_looks_odd_is_a_warning_and_goes_through(tmp_path: Path, lines: list[str], test: str) -> None:
    path = tmp_path / "w.duckdb"
    land(path, write_source(tmp_path / "in", lines))
    result = run_dbt(path, tmp_path / "target", "build")
    assert result.success, result.exception
    warned = [r.node.name for r in result.result.results if str(r.status) == "warn"]
    assert warned == [test]
    assert rows(path, "select count(*) from shop.sessions") == [(len(lines),)]


def test_searches_are_counted_once_and_by_day(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    land(path, write_source(tmp_path / "in", [event()]))
    with open_file(path) as warehouse:
        [(etl_id,)] = warehouse.execute(Statement("select etl_id from raw.loads"))
        search = json.dumps({"session_id_hash": "s", "server_timestamp_epoch_ms": str(T0)})
        for _ in range(2):
            warehouse.execute(
                Statement(
                    "insert into raw.searches select etl_id, loaded_at, tenant, date '2026-01-01', "
                    f"cast('{search}' as json) from raw.loads"
                )
            )
    build(path, tmp_path / "target")
    assert rows(path, "select n_searches from shop.daily_statistics") == [(1,)]


def test_the_project_parses_for_snowflake_without_a_connection(tmp_path: Path) -> None:
    result = run_dbt(
        tmp_path / "unused.duckdb", tmp_path, "parse", "--target", "snowflake", "--no-partial-parse"
    )
    assert result.success, result.exception
    columns = result.result.nodes["model.post_modern_stack.sessions"].columns
    assert columns["skus"].data_type == "array"


def test_models_compile_to_snowflake_without_a_connection(tmp_path: Path) -> None:
    offline = ["--no-populate-cache", "--no-introspect"]
    result = run_dbt(tmp_path / "unused.duckdb", tmp_path, "compile", "--target", "snowflake", *offline)
    assert result.success, result.exception
    compiled = {path.stem: path.read_text() for path in (tmp_path / "compiled").rglob("models/*/*.sql")}
    assert compiled.keys() >= {
        "stg_shopping_events",
        "stg_products",
        "stg_searches",
        "int_shopping_events_deduplicated",
        "int_product_days",
        "sessions",
        "products",
        "daily_statistics",
    }
    for name, text in compiled.items():
        sqlfluff.parse(text, dialect="snowflake")
        for word in (" epoch_ms(", "from_json", "len(", "list_"):
            assert word not in text, name
    assert "array_agg(product_sku) within group (order by interaction_number)" in compiled["sessions"]
    assert "parsed_row:session_id_hash::varchar" in compiled["stg_shopping_events"]


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

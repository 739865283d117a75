"""Load, dbt and selection on fakesnow, beside DuckDB on the same input.

What fakesnow cannot run (the unload, the role and integration of the account) is checked as text in
`tests/warehouse/test_snowflake.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from airflow.sdk import Connection

from include.contracts import BadInputError
from include.local.shop import write_shop
from include.operators.connections import warehouse_info
from include.operators.data_prerequisites import check_warehouse
from include.settings import get_settings
from include.warehouse.connect import open_warehouse
from include.warehouse.dialect import Statement
from include.warehouse.unload import UnloadRequest
from include.window import Window
from tests.shops import (
    SCHEMA,
    SMALL,
    T0,
    TENANT,
    event,
    land,
    open_file,
    run_dbt,
    write_source,
)
from tests.snowflake.conftest import Account, context

DAY = 86_400_000
REQUEST = UnloadRequest(TENANT, date(2026, 1, 1), date(2026, 2, 1))
MARTS = ("sessions", "products", "daily_statistics")


class Pair:
    """The same shop in both warehouses."""

    def __init__(self, snowflake: Account, duckdb: Path) -> None:
        self.snowflake = snowflake
        self.duckdb = duckdb

    def query(self, sql: str) -> tuple[list[Any], list[Any]]:
        """Returns the answers of Snowflake and of DuckDB, values made comparable."""
        with self.snowflake.chosen(), open_warehouse(_info(), SCHEMA) as warehouse:
            theirs = warehouse.execute(Statement(sql))
        with open_file(self.duckdb) as warehouse:
            ours = warehouse.execute(Statement(sql))
        return _plain(theirs), _plain(ours)


def _plain(rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    """Arrays and JSON come from Snowflake as text."""
    return [
        [
            json.loads(value) if isinstance(value, str) and value[:1] in "[{" and value else value
            for value in row
        ]
        for row in rows
    ]


@pytest.fixture(scope="module")
def pair(account: Callable[[str], Account], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two loads with a dbt build after each: the second brings late rows, and some again."""
    folder = tmp_path_factory.mktemp("pair")
    write_shop(folder / "first", SMALL)
    second = [event("late", sku, T0 + n * 60_000) for n, sku in enumerate("aba")]
    second += [event("new", "a", T0 + 20 * DAY), event("new", "b", T0 + 20 * DAY + 5_000, "purchase")]
    write_source(folder / "second", second)
    both = Pair(account("RETAIL"), folder / "warehouse.duckdb")
    for source in (folder / "first", folder / "second"):
        report = both.snowflake.load(source)
        assert report == {**land(both.duckdb, source).to_xcom(), "source": str(source)}
        theirs = both.snowflake.dbt("build", unit_tests=source.name == "first")
        for result in (theirs, run_dbt(both.duckdb, folder / "target", "build")):
            assert result.success, [
                (r.node.name, r.message) for r in result.result.results if str(r.status) in {"error", "fail"}
            ]
    return both


def test_both_logs_hold_the_same_lines(pair: Pair) -> None:
    for sql in (
        "select api_key, event_type, event_date, raw_data from raw.shopping_events",
        "select api_key, product_sku, raw_data from raw.products",
        "select file, line, reason, raw_line from raw.rejected_events",
        "select tenant, source from raw.loads",
    ):
        theirs, ours = pair.query(sql)
        assert len(ours) > 1
        assert sorted(theirs, key=repr) == sorted(ours, key=repr), sql


@pytest.mark.parametrize("mart", MARTS)
def test_both_marts_hold_the_same_rows_after_an_incremental_build(pair: Pair, mart: str) -> None:
    # `built_from` holds the moments of the loads, which differ.
    columns = "* exclude (built_from)" if mart == "sessions" else "*"
    theirs, ours = pair.query(f"select {columns} from shop.{mart} order by 1, 2")
    assert len(ours) > 10
    assert theirs == ours


def test_every_model_that_dbt_sent_parses_as_snowflake(pair: Pair) -> None:
    target = pair.snowflake.folder / "target"
    models = {kind: sorted((target / kind).rglob("models/*/*.sql")) for kind in ("compiled", "run")}
    assert {path.stem for path in models["compiled"]} >= {*MARTS, "stg_shopping_events"}
    for path in [*models["compiled"], *models["run"]]:
        for statement in sqlglot.parse(path.read_text(), read="snowflake"):
            # Comments may stand behind the last semicolon.
            assert statement is None or statement.key != "command", path


def test_the_same_files_land_once(pair: Pair, tmp_path: Path) -> None:
    source = write_source(tmp_path, [event("twice"), event("twice", "b")])
    before, _ = pair.query("select count(*) from raw.shopping_events")
    assert pair.snowflake.load(source)["already_loaded"] is False
    assert pair.snowflake.load(source)["already_loaded"] is True
    after, _ = pair.query("select count(*) from raw.shopping_events")
    assert after[0][0] == before[0][0] + 2


def test_a_refused_load_leaves_nothing(pair: Pair, tmp_path: Path) -> None:
    source = write_source(tmp_path, ["bad,line", event("good")])
    before, _ = pair.query("select count(*) from raw.shopping_events")
    with pytest.raises(Exception, match="wrong_column_count"):
        pair.snowflake.load(source)
    assert pair.query("select count(*) from raw.shopping_events")[0] == before


def test_both_select_the_same_snapshot(pair: Pair) -> None:
    with pair.snowflake.chosen(), open_warehouse(_info(), SCHEMA) as warehouse, warehouse.transaction():
        theirs = warehouse.select(REQUEST)
    with open_file(pair.duckdb) as warehouse, warehouse.transaction():
        ours = warehouse.select(REQUEST)
    assert theirs.sessions > 100
    assert theirs.counts == ours.counts
    assert theirs.boundaries == ours.boundaries
    assert theirs.profile == ours.profile


def test_the_check_finds_the_raw_log(pair: Pair) -> None:
    with pair.snowflake.chosen():
        window = Window("2026-01-01", "2026-02-01")
        assert check_warehouse(get_settings(), context("dag", "check"), TENANT, window) == []


def test_an_untransformed_warehouse_is_bad_input(account: Callable[[str], Account]) -> None:
    with (
        account("EMPTY").chosen(),
        open_warehouse(_info(), SCHEMA) as warehouse,
        pytest.raises(BadInputError, match="transform"),
    ):
        warehouse.select(REQUEST)


def _info() -> Any:
    return warehouse_info(Connection.get("warehouse_default"), context("dag", "task"))

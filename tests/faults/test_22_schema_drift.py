"""A missing, renamed or retyped column stops the run before the export; an extra one is only reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowFailException

from include.contracts import BadInputError
from include.local.shop import EVENT_HEADER
from include.operators.connections import warehouse_info
from include.operators.load_events import LoadEventsOperator
from include.warehouse.base import Warehouse
from include.warehouse.connect import open_warehouse
from include.warehouse.dialect import Statement
from tests.shops import (
    SCHEMA,
    T0,
    event,
    land,
    open_file,
    rows,
    run_dbt,
    transformed_shop,
    write_source,
)
from tests.snowflake.conftest import Account, context
from tests.snowflake.conftest import account as account
from tests.snowflake.conftest import server as server
from tests.snowflake.test_end_to_end import REQUEST

EVENTS = [event("s", "a"), event("s", "b", T0 + 1)]
WITHOUT = ",".join(name for name in EVENT_HEADER.split(",") if name != "product_sku_hash")
RENAMED = EVENT_HEADER.replace("product_sku_hash", "sku_hash")
HEADERS = {
    "missing": (WITHOUT, [f"s,event_product,detail,{T0},"]),
    "renamed": (RENAMED, EVENTS),
}


# The files: nothing lands.


@pytest.mark.parametrize("drift", HEADERS)
def test_a_file_without_a_column_is_refused_by_its_name(tmp_path: Path, drift: str) -> None:
    header, lines = HEADERS[drift]
    with pytest.raises(BadInputError, match=r"column product_sku_hash missing"):
        land(tmp_path / "w.duckdb", write_source(tmp_path / "in", lines, header=header))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([event(moment="2026-01-01T00:00:00Z")] * 3, "timestamp_not_integer"),
        ([event(moment=T0 // 1000)] * 3, "timestamp_in_seconds"),
        ([event(moment=T0 + 10 * 365 * 86_400_000)] * 3, "timestamp_in_future"),
        ([event(kind="wishlist")] * 3, "unknown_event_type"),
        ([event(action="refund")] * 3, "bad_product_action"),
    ],
    ids=["retyped column", "seconds", "future", "new event type", "new action"],
)
def test_drift_of_the_whole_file_is_refused_with_its_reason(
    tmp_path: Path, lines: list[str], reason: str
) -> None:
    path = tmp_path / "w.duckdb"
    with pytest.raises(BadInputError, match=rf"3 of 4 .*{reason} \(3, first in line 3\)"):
        land(path, write_source(tmp_path / "in", [event(), *lines]), now=datetime(2026, 6, 1, tzinfo=UTC))
    for table in ("shopping_events", "rejected_events", "loads", "load_progress"):
        assert rows(path, f"select count(*) from raw.{table}") == [(0,)], table


# The raw log: dbt stops before the last mart, for which the export waits.

RAW = {
    "strange event type": ("update raw.shopping_events set event_type = 'click'", "int_product_days"),
    "session id gone": (
        "update raw.shopping_events set raw_data = '{}'",
        "int_shopping_events_deduplicated",
    ),
    "column renamed": (
        "alter table raw.shopping_events rename raw_data to payload",
        "stg_shopping_events",
    ),
}


def stopped(result: Any) -> set[str]:
    """The models and tests that failed; whatever they are, the last mart was not built."""
    assert not result.success
    status = {r.node.name: str(r.status) for r in result.result.results if r.node.resource_type == "model"}
    assert status.get("daily_statistics", "skipped") == "skipped"
    return {r.node.name for r in result.result.results if str(r.status) in {"error", "fail", "runtime error"}}


@pytest.mark.parametrize("drift", RAW)
def test_a_drifted_raw_log_stops_the_build_before_the_marts(tmp_path: Path, drift: str) -> None:
    path, (spoil, model) = tmp_path / "w.duckdb", RAW[drift]
    land(path, write_source(tmp_path / "in", [event(), event(sku="b")]))
    with open_file(path) as warehouse:
        warehouse.execute(Statement(spoil))
    assert any(model in name for name in stopped(run_dbt(path, tmp_path / "target", "build")))


# The marts: the export refuses them before it writes anything.

MARTS = {
    "table missing": ("drop table shop.sessions", "sessions"),
    "column missing": ("alter table shop.sessions drop column actions", "(?i)actions"),
    "column renamed": ("alter table shop.sessions rename column skus to items", "(?i)skus"),
    "moment as text": ("alter table shop.sessions alter started_at type varchar", "started_at is of type"),
    "times as texts": ("alter table shop.sessions alter event_times type varchar[]", "event_times is of"),
    "list as text": ("alter table shop.sessions alter skus type varchar", "skus is of type VARCHAR"),
    "price as text": ("alter table shop.products alter price_bucket type varchar", "price_bucket is of"),
}


def refuse(warehouse: Warehouse, spoil: str, said: str) -> None:
    warehouse.execute(Statement(spoil))
    with pytest.raises(BadInputError, match=said) as refusal, warehouse.transaction():
        warehouse.select(REQUEST)
    assert "Run the transform step" in str(refusal.value)


@pytest.mark.parametrize("drift", MARTS)
def test_drifted_marts_stop_the_export(tmp_path: Path, drift: str) -> None:
    with open_file(transformed_shop(tmp_path)) as warehouse:
        refuse(warehouse, *MARTS[drift])


# A column that nobody knows.

MORE = [f"{line},spring" for line in EVENTS]
MORE_HEADER = f"{EVENT_HEADER},campaign"


def test_an_extra_column_is_kept_reported_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    source = write_source(tmp_path / "in", MORE, header=MORE_HEADER, products=["a,,,,1"])
    assert land(path, source).extra_columns == ("campaign",)
    [(document,), _] = rows(path, "select raw_data from raw.shopping_events")
    assert json.loads(document)["campaign"] == "spring"
    with open_file(path) as warehouse:
        warehouse.execute(Statement("alter table raw.shopping_events add column mood varchar"))
    assert run_dbt(path, tmp_path / "target", "run").success
    assert rows(path, "select skus, n_events from shop.sessions") == [(["a", "b"], 2)]


# The same on Snowflake.


def test_on_snowflake_drift_stops_before_the_export_and_an_extra_column_does_not(
    account: Callable[[str], Account], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Mock()
    monkeypatch.setattr(LoadEventsOperator, "log", log)
    snowflake = account("DRIFT")
    header, lines = HEADERS["renamed"]
    with pytest.raises(AirflowFailException, match="column product_sku_hash missing"):
        snowflake.load(write_source(tmp_path / "renamed", lines, header=header))
    report = snowflake.load(write_source(tmp_path / "more", MORE, header=MORE_HEADER))
    assert report["extra_columns"] == ["campaign"]
    log.warning.assert_called_with("Columns that no model knows, kept in raw_data: %s.", "campaign")
    assert snowflake.dbt("run").success

    with snowflake.chosen():
        info = warehouse_info(Connection.get("warehouse_default"), context("dag", "task"))
        with open_warehouse(info, SCHEMA) as warehouse:
            assert warehouse.execute(Statement("select skus from shop.sessions"))
            with warehouse.transaction():
                assert warehouse.select(REQUEST).sessions == 1
            retyped = (
                "create or replace table shop.sessions as "
                "select * exclude (started_at), cast(started_at as varchar) as started_at from shop.sessions"
            )
            refuse(warehouse, retyped, "sessions.started_at is of type TEXT, not TIMESTAMP_NTZ")
            refuse(warehouse, "alter table shop.sessions drop column started_at", "(?i)started_at")
            warehouse.execute(Statement("alter table raw.shopping_events rename column raw_data to payload"))
    assert any("stg_shopping_events" in name for name in stopped(snowflake.dbt("build")))

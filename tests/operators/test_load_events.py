from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from include.contracts import BadInputError, LoadReport
from include.local.shop import EVENT_HEADER
from include.operators.load_events import LoadEventsOperator, optional_count
from include.settings import Settings
from include.warehouse.base import WarehouseUnavailableError
from tests.shops import event, rows, write_source


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Path:
    path = tmp_path / "warehouse.duckdb"
    connection = {"conn_type": "duckdb", "host": str(path)}
    monkeypatch.setenv(f"AIRFLOW_CONN_{settings.warehouse_conn_id.upper()}", json.dumps(connection))
    return path


def load(source: Path, **options: Any) -> dict[str, object]:
    return LoadEventsOperator(task_id="load_events", source=str(source), **options).execute({})


def test_a_load_returns_its_report_as_json(tmp_path: Path, warehouse: Path, settings: Settings) -> None:
    source = write_source(tmp_path / "in", [event(), event(sku="b"), event(moment="x")])
    report = LoadReport.model_validate(json.loads(json.dumps(load(source, max_reject_share=0.5))))
    assert report.tenant == settings.tenant
    assert (report.events_landed, report.events_rejected) == (2, 1)
    assert load(source)["already_loaded"] is True
    assert rows(warehouse, "select count(*) from raw.shopping_events") == [(2,)]


def test_templates_may_hand_over_texts(tmp_path: Path, warehouse: Path) -> None:
    source = write_source(tmp_path / "in", [event("a"), event("b")])
    assert load(source, max_sessions="1", tenant="other")["events_landed"] == 1
    assert load(source, max_sessions="None", tenant="other")["events_landed"] == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"a,b\n1,2\n", "session_id_hash"),
        (gzip.compress((EVENT_HEADER + "\n" + event()).encode())[:-9], "truncated"),
        (bytes(range(256)) * 99, "not a CSV"),
        ((EVENT_HEADER + "\n" + event(moment=5)).encode(), "timestamp_before_2000"),
        ((EVENT_HEADER + "\n" + event(sku="x" * 10_000)).encode(), "sku_too_long"),
    ],
    ids=["empty", "wrong columns", "truncated gzip", "binary", "impossible timestamp", "10 kB SKU"],
)
def test_bad_input_fails_at_once_and_lands_nothing(
    tmp_path: Path, warehouse: Path, content: bytes, said: str
) -> None:
    with pytest.raises(AirflowFailException, match=said):
        load(write_source(tmp_path / "in", content))
    if warehouse.exists():
        assert rows(warehouse, "select count(*) from raw.shopping_events") == [(0,)]
        assert rows(warehouse, "select count(*) from raw.rejected_events") == [(0,)]


def test_a_folder_that_is_not_there_fails_at_once(tmp_path: Path, warehouse: Path) -> None:
    with pytest.raises(AirflowFailException, match="not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(AirflowFailException, match="local folder"):
        LoadEventsOperator(task_id="load_events", source="s3://bucket/folder").execute({})


def test_a_locked_warehouse_is_left_to_the_retry(
    tmp_path: Path, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise WarehouseUnavailableError("held by another process")

    monkeypatch.setattr("include.operators.load_events.open_warehouse", locked)
    with pytest.raises(WarehouseUnavailableError):
        load(write_source(tmp_path / "in", [event()]))


@pytest.mark.parametrize(
    ("value", "count"), [(None, None), ("", None), ("None", None), (5, 5), ("5", 5), (" 7 ", 7)]
)
def test_counts_may_be_empty(value: int | str | None, count: int | None) -> None:
    assert optional_count("max_sessions", value) == count


@pytest.mark.parametrize("value", ["many", "1.5", "0", -3, "1; drop"])
def test_counts_that_are_none_are_refused(value: int | str) -> None:
    with pytest.raises(BadInputError, match="max_sessions"):
        optional_count("max_sessions", value)

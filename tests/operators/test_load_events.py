from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors
from botocore.exceptions import ClientError, ReadTimeoutError

from include.assets import LANDED
from include.contracts import BadInputError, LoadReport
from include.local.shop import EVENT_HEADER
from include.operators.load_events import LoadEventsOperator, optional_count
from include.settings import Settings
from tests.shops import T0, event, rows, write_source


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Path:
    path = tmp_path / "warehouse.duckdb"
    connection = {"conn_type": "duckdb", "host": str(path)}
    monkeypatch.setenv(f"AIRFLOW_CONN_{settings.warehouse_conn_id.upper()}", json.dumps(connection))
    return path


def load(source: Path | str, context: dict[str, Any] | None = None, **options: Any) -> dict[str, object]:
    task = LoadEventsOperator(task_id="load_events", source=str(source), **options)
    return task.execute(context or a_try())  # type: ignore[arg-type]


def a_try(number: int = 1) -> dict[str, Any]:
    """What the operator reads of the context of a task's first, or later, try."""
    instance = SimpleNamespace(
        dag_id="load_shopping_events", run_id="manual__1", task_id="load_events", try_number=number
    )
    return {"outlet_events": OutletEventAccessors(), "ti": instance}


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
    with pytest.raises(AirflowFailException, match=r"folder or from s3://"):
        load("gs://bucket/folder")


def announced(context: dict[str, Any]) -> dict[str, dict[str, object]]:
    """The asset events that a task would emit, by asset."""
    return {
        event.dest_asset_key.name: event.extra
        for event in context["outlet_events"][LANDED].asset_alias_events
    }


def test_each_table_that_got_rows_is_announced_and_no_other(tmp_path: Path, warehouse: Path) -> None:
    context = a_try()
    source = write_source(
        tmp_path / "in", [event(), event(sku="b", moment=T0 + 86_400_000)], products=["a,,,,1"]
    )
    report = load(source, context)
    told = {
        "tenant": "demo-shop",
        "etl_id": report["etl_id"],
        "first_event_date": "2026-01-01",
        "last_event_date": "2026-01-02",
        "newest_event_date": "2026-01-02",
    }
    assert announced(context) == {
        "raw_shopping_events": {**told, "rows": 2},
        "raw_products": {**told, "rows": 1},
    }


def test_a_load_of_nothing_new_announces_nothing(tmp_path: Path, warehouse: Path) -> None:
    source = write_source(tmp_path / "in", [event()])
    load(source)
    again = a_try()
    assert load(source, again)["already_loaded"] is True
    assert announced(again) == {}


def test_a_load_of_another_shop_never_sets_off_the_pipeline(tmp_path: Path, warehouse: Path) -> None:
    context = a_try()
    load(write_source(tmp_path / "in", [event()]), context, tenant="other")
    assert announced(context) == {}


def test_a_load_whose_worker_died_before_telling_of_it_is_announced_by_the_next_try(
    tmp_path: Path, warehouse: Path
) -> None:
    source = write_source(tmp_path / "in", [event()])
    died, retried = a_try(), a_try(2)
    load(source, died)
    assert load(source, retried)["already_loaded"] is True
    assert announced(retried) == announced(died) != {}


def test_a_backfill_is_announced_with_the_newest_day_that_its_tenant_has(
    tmp_path: Path, warehouse: Path
) -> None:
    day, context = 86_400_000, a_try()
    load(write_source(tmp_path / "june", [event(moment=T0 + 160 * day)]))
    load(write_source(tmp_path / "others", [event(moment=T0 + 170 * day)]), tenant="other")
    load(write_source(tmp_path / "january", [event(moment=T0 + 30 * day)]), context)
    told = announced(context)["raw_shopping_events"]
    assert (told["last_event_date"], told["newest_event_date"]) == ("2026-01-31", "2026-06-10")


def test_a_source_on_s3_is_read_through_the_aws_connection(
    warehouse: Path, aws: Any, settings: Settings
) -> None:
    body = "\n".join([EVENT_HEADER, event(), ""]).encode()
    aws.put_object(Bucket=settings.bucket, Key="in/browsing.csv", Body=body)
    assert load(f"s3://{settings.bucket}/in")["events_landed"] == 1


def test_a_bucket_that_is_not_there_fails_at_once(warehouse: Path, aws: Any) -> None:
    with pytest.raises(AirflowFailException, match="no bucket"):
        load("s3://nowhere-to-be-found/in")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2"),
            AirflowFailException,
        ),
        (ReadTimeoutError(endpoint_url="https://s3"), AirflowException),
    ],
    ids=["denied", "timeout"],
)
def test_faults_of_s3_fail_or_are_left_to_the_retry(
    warehouse: Path, aws: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, fault: type[Exception]
) -> None:
    def find(*_: Any) -> None:
        raise error

    monkeypatch.setattr("include.operators.load_events.find_source", find)
    with pytest.raises(fault) as caught:
        load("s3://bucket/in")
    assert type(caught.value) is fault


@pytest.mark.parametrize(
    ("value", "count"), [(None, None), ("", None), ("None", None), (5, 5), ("5", 5), (" 7 ", 7)]
)
def test_counts_may_be_empty(value: int | str | None, count: int | None) -> None:
    assert optional_count("max_sessions", value) == count


@pytest.mark.parametrize("value", ["many", "1.5", "0", -3, "1; drop"])
def test_counts_that_are_none_are_refused(value: int | str) -> None:
    with pytest.raises(BadInputError, match="max_sessions"):
        optional_count("max_sessions", value)

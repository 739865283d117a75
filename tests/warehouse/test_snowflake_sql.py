"""Reviewed texts of what fakesnow cannot run or cannot judge, in the order in which Snowflake gets them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlfluff
import sqlglot

from include.warehouse import unload
from include.warehouse.base import ConnectionInfo
from include.warehouse.loading import find_source
from include.warehouse.snowflake import SnowflakeWarehouse
from tests.shops import event, write_source

NOW = datetime(2026, 6, 1, tzinfo=UTC)
REQUEST = unload.UnloadRequest("demo-shop", date(2026, 1, 1), date(2026, 2, 1), max_sessions=5)
COUNTS = {
    "count(*), min(event_date)": [(30, date(2026, 1, 1), date(2026, 1, 1))],
    "count(*), null": [(1, None, None)],
    "select file, reason": [("browsing.csv", "wrong_column_count", 1, 32)],
}


class Recorder:
    """A session of the driver that writes down each statement as the driver would send it."""

    def __init__(self, answers: dict[str, list[tuple[Any, ...]]]) -> None:
        self.answers = answers
        self.sent: list[str] = []

    def cursor(self) -> Recorder:
        return self

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def execute(self, sql: str, values: dict[str, Any] | None) -> None:
        self.sent.append(sql % {key: f"'{value}'" for key, value in values.items()} if values else sql)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return next((rows for text, rows in self.answers.items() if text in self.sent[-1]), [])


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Everything that a load of three kinds of rows sends, one of them rejected."""
    rows = [event(f"s{n}") for n in range(30)] + ["it's,5%"]
    source = write_source(tmp_path_factory.mktemp("load"), rows, products=["a,,c,,1"])
    session = Recorder(COUNTS)
    with SnowflakeWarehouse(ConnectionInfo("snowflake"), "shop", session) as warehouse:
        warehouse.land(find_source(source), tenant="demo-shop", max_sessions=3, max_reject_share=0.5, now=NOW)
    return session.sent


@pytest.fixture(scope="module")
def export() -> list[str]:
    """Everything that an unload sends."""
    session = Recorder({})
    connection = ConnectionInfo("snowflake", extra={"storage_integration": "shop_s3"})
    with SnowflakeWarehouse(connection, "shop", session) as warehouse:
        warehouse.unload("s3://bucket/shop/snapshots/snap-1/")
    return session.sent


def selection() -> list[str]:
    """The statements that choose a snapshot's rows."""
    session = Recorder({})
    with (
        SnowflakeWarehouse(ConnectionInfo("snowflake"), "shop", session) as warehouse,
        pytest.raises((ValueError, KeyError)),  # the recorder has no sessions to tell of
    ):
        warehouse.select(REQUEST)
    return session.sent


def shape(sql: str) -> str:
    """Returns a statement on one line, with ids, times and folders left out."""
    sql = re.sub(r"etl-[0-9a-f]{16}", "<etl_id>", sql)
    sql = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?", "<moment>", sql)
    sql = re.sub(r"file://\S*/", "file://<folder>/", sql)
    return " ".join(sql.split())


def test_every_statement_parses_as_snowflake(load: list[str], export: list[str]) -> None:
    chosen = selection()
    assert len(load) > 20 and len(export) == 4 and len(chosen) > 5
    for sql in [*load, *chosen, *export]:
        assert "%(" not in sql
        sqlfluff.parse(sql + "\n", dialect="snowflake")
        if not sql.startswith("remove"):  # sqlglot knows no REMOVE
            assert sqlglot.parse_one(sql, read="snowflake").key != "command", sql


def test_a_load_puts_copies_and_commits_in_this_order(load: list[str]) -> None:
    sent = [shape(sql) for sql in load]
    verbs = [sql.split(" (")[0][:60] for sql in sent]
    begin, commit = verbs.index("begin"), verbs.index("commit")
    assert not [verb for verb in verbs[begin:commit] if verb.startswith(("create", "put", "use", "list"))], (
        "they would end the transaction, or hold the lock for the time of an upload"
    )
    assert sent[begin + 1] == "update raw.load_lock set taken_at = current_timestamp()", (
        "the lock comes first"
    )
    assert sent[commit - 1].startswith("insert into raw.loads"), (
        "the row that makes a load visible comes last"
    )
    assert sent[-1] == "remove @raw.landing/<etl_id>/", "the stage is emptied once the load is visible"
    [events, rejects, *_] = [sql for sql in sent if sql.startswith("put")][1::-1]
    assert re.fullmatch(
        r"put 'file://<folder>/events-000000_\d+_\d+_\d+\.parquet' @raw\.landing/<etl_id>/rejects/ "
        r"auto_compress = false overwrite = true",
        rejects,
    )
    assert re.fullmatch(
        r"put 'file://<folder>/000000_\d+_\d+_\d+\.parquet' @raw\.landing/<etl_id>/events/ "
        r"auto_compress = false overwrite = true",
        events,
    )


def test_the_copies_into_the_raw_log(load: list[str]) -> None:
    copies = [shape(sql) for sql in load if sql.startswith("copy into")]
    log = "'<etl_id>', '<moment>'::timestamp_ntz, 'demo-shop'"
    assert copies == [
        "copy into raw.shopping_events (etl_id, etl_timestamp, api_key, event_type, event_date, raw_data) "
        f"from (select {log}, $1:event_type::varchar, $1:event_date::date, "
        "parse_json($1:raw_data::varchar) from @raw.landing/<etl_id>/events/) "
        "file_format = (type = parquet) force = true",
        "copy into raw.products (etl_id, etl_timestamp, api_key, product_sku, raw_data) "
        f"from (select {log}, $1:product_sku::varchar, parse_json($1:raw_data::varchar) "
        "from @raw.landing/<etl_id>/products/) file_format = (type = parquet) force = true",
        "copy into raw.rejected_events (etl_id, etl_timestamp, api_key, file, line, reason, raw_line) "
        f"from (select {log}, $1:file::varchar, $1:line::bigint, $1:reason::varchar, $1:raw_line::varchar "
        "from @raw.landing/<etl_id>/rejects/) file_format = (type = parquet) force = true",
    ]


def test_the_unload_of_a_split_and_of_the_catalogue(export: list[str]) -> None:
    options = (
        "storage_integration = shop_s3 file_format = (type = parquet) header = true include_query_id = true "
        "detailed_output = true max_file_size = 268435456"
    )
    assert [shape(export[0]), shape(export[3])] == [
        "copy into 's3://bucket/shop/snapshots/snap-1/train/' from ("
        'select session_id as "session_id", started_at as "started_at", ended_at as "ended_at", '
        'to_json(skus) as "skus", to_json(actions) as "actions", to_json(event_times) as "event_times" '
        f"from snapshot_sessions where split = 'train' order by started_at, session_id) {options}",
        "copy into 's3://bucket/shop/snapshots/snap-1/catalog/' from ("
        'select product_sku as "product_sku", category as "category", price_bucket as "price_bucket" '
        f"from snapshot_catalog order by product_sku) {options}",
    ]


def test_a_known_raw_schema_is_not_created_again() -> None:
    """A role without the privilege is refused even `create schema if not exists`."""
    session = Recorder({"information_schema.schemata": [(1,)]})
    with SnowflakeWarehouse(ConnectionInfo("snowflake"), "shop", session) as warehouse:
        warehouse.create_raw_tables()
    assert not [sql for sql in session.sent if sql.startswith("create schema")]

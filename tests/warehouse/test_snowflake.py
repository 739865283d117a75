from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlfluff

from include.contracts import BadInputError, SettingsError
from include.local.shop import EVENT_HEADER
from include.warehouse import landing, profile, unload
from include.warehouse.base import ConnectionInfo, ObjectStorage, Part
from include.warehouse.dialect import SnowflakeDialect, Statement
from include.warehouse.loading import find_source, read_batches
from include.warehouse.snowflake import (
    SnowflakeWarehouse,
    copy_into_incoming,
    copy_into_location,
    put,
    write_json_lines,
)
from tests.shops import event, write_source

DIALECT = SnowflakeDialect()
NOW = datetime(2026, 6, 1, tzinfo=UTC)
LOAD = landing.Load("etl-1", "t", NOW.replace(tzinfo=None))
REQUEST = unload.UnloadRequest("t", date(2026, 1, 1), date(2026, 2, 1), max_sessions=5)


def statements(source: Path) -> dict[str, Statement]:
    """Every statement that a load and an export send to Snowflake."""
    found = find_source(source)
    assert found.catalogue is not None
    every: list[Statement] = [
        *landing.raw_tables(DIALECT),
        *copy_into_incoming(),
        landing.classify(DIALECT, "events", found.browsing, NOW),
        landing.classify(DIALECT, "products", found.catalogue, NOW),
        *landing.insert(DIALECT, LOAD, "events", "browsing.csv"),
        *landing.insert(DIALECT, LOAD, "products", "sku_to_content.csv"),
        landing.create_first_seen(DIALECT),
        landing.note_first_seen(DIALECT),
        landing.keep_first_sessions(DIALECT, LOAD, 5),
        landing.count_events(DIALECT, LOAD),
        landing.count_products(DIALECT, LOAD),
        landing.count_rejects(DIALECT, LOAD),
        landing.stored_report(DIALECT, "etl-1"),
        landing.store_report(DIALECT, LOAD, "folder", "{}"),
        *unload.selection(DIALECT, "shop", REQUEST),
        *unload.selection(DIALECT, "shop", replace(REQUEST, max_sessions=None)),
        profile.interactions(DIALECT),
        *unload.questions(DIALECT).values(),
        *(
            copy_into_location(DIALECT, query, "s3://bucket/shop/train/", "shop_integration")
            for query in unload.queries(DIALECT).values()
        ),
    ]
    return {f"{number} {statement.sql[:60]}": statement for number, statement in enumerate(every)}


def test_every_statement_parses_as_snowflake_and_binds_what_it_names(tmp_path: Path) -> None:
    source = write_source(tmp_path, [event() + ",1"], header=EVENT_HEADER + ",it's 5%", products=["a,,,,1"])
    for name, statement in statements(source).items():
        literal = {key: "'bound'" for key in statement.values}
        sql = statement.sql % literal if literal else statement.sql.replace("%%", "%")
        assert "%(" not in sql, name
        sqlfluff.parse(sql, dialect="snowflake")
        for key in statement.values:
            assert f"%({key})s" in statement.sql, (name, key)


def test_everything_after_the_copies_reads_the_copies_alone() -> None:
    """READ COMMITTED: a second look at a mart may find other rows."""
    frozen = unload.selection(DIALECT, "shop", REQUEST)
    marts = [statement.sql.count("shop.") for statement in frozen]
    assert marts == [1, 1, 0, 0]
    assert all(statement.sql.startswith("create or replace temporary table") for statement in frozen)
    after = [profile.interactions(DIALECT), *unload.questions(DIALECT).values()]
    assert not [s.sql for s in (*after, *unload.queries(DIALECT).values()) if "shop." in s.sql]


def test_unloaded_columns_are_named_in_lower_case() -> None:
    for query in unload.queries(DIALECT).values():
        for column in query.sql.removeprefix("select ").split(" from ")[0].split(", "):
            name, alias = column.split(" as ")
            assert alias == f'"{name.removeprefix("to_json(").removesuffix(")")}"'


def test_values_never_become_part_of_the_text() -> None:
    request = unload.UnloadRequest("t'; drop table x", date(2026, 1, 1), date(2026, 2, 1))
    for statement in unload.selection(DIALECT, "shop", request):
        assert "drop table" not in statement.sql


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("plain", "'plain'"), ("it's", "'it''s'"), ("a\\'b", "'a\\\\''b'"), ("5%", "'5%%'")],
)
def test_literals_are_escaped(text: str, quoted: str) -> None:
    assert DIALECT.literal(text) == quoted


def test_the_upload_quotes_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a 'b.json.gz"
    assert put(DIALECT, path).sql.startswith("put 'file:///")
    assert "' @landing_stage auto_compress = false" in put(DIALECT, path).sql


def test_staged_lines_keep_number_text_and_fields(tmp_path: Path) -> None:
    source = find_source(write_source(tmp_path, ['s,pageview,,"a\u2028{}",1,', "plain,line"]))
    [batch] = read_batches(source.browsing)
    write_json_lines(batch, tmp_path / "x.json.gz")
    with gzip.open(tmp_path / "x.json.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    assert documents == [
        {"n": 2, "l": 's,pageview,,"a\u2028{}",1,', "f": ["s", "pageview", "", "a\u2028{}", "1", ""]},
        {"n": 3, "l": "plain,line"},
    ]


class FakeSession:
    """Records statements, and answers by the first text that one of them contains."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.seen: list[str] = []
        self.rows: list[tuple[Any, ...]] = []

    def cursor(self) -> FakeSession:
        return self

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        self.seen.append("close")

    def execute(self, sql: str, values: dict[str, Any] | None) -> None:
        self.seen.append(sql)
        answer = next((answer for text, answer in self.answers.items() if text in sql), [])
        if isinstance(answer, Exception):
            raise answer
        self.rows = answer

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def place(self, text: str) -> int:
        return next(number for number, sql in enumerate(self.seen) if text in sql)


def open_fake(session: FakeSession, **extra: str) -> SnowflakeWarehouse:
    return SnowflakeWarehouse(ConnectionInfo("snowflake", extra=extra), "shop", session)


ANSWERS = {
    "select file, reason": [],
    "min(event_date)": [(1, date(2026, 1, 1), date(2026, 1, 1))],
    "select count(*) from raw.products": [(0,)],
}


def test_a_load_makes_its_tables_before_its_transaction(tmp_path: Path) -> None:
    """Creating a table ends a Snowflake transaction: none may be made inside."""
    session = FakeSession(ANSWERS)
    with open_fake(session) as warehouse:
        report = warehouse.land(find_source(write_source(tmp_path, [event()])), tenant="t", max_sessions=3)
    assert report.events_landed == report.events_read == 1
    begin, commit = session.place("begin"), session.place("commit")
    inside = session.seen[begin:commit]
    assert not [sql for sql in inside if sql.startswith(("create", "use", "put", "copy"))]
    assert [sql.split(" (")[0] for sql in inside if sql.startswith("insert into raw")] == [
        "insert into raw.shopping_events", "insert into raw.rejected_events", "insert into raw.loads",
    ]  # fmt: skip
    assert session.seen[-1] == "close"


def test_a_refused_load_is_rolled_back(tmp_path: Path) -> None:
    session = FakeSession(ANSWERS | {"select file, reason": [("browsing.csv", "missing_sku", 1, 2)]})
    with open_fake(session) as warehouse, pytest.raises(BadInputError, match="missing_sku"):
        warehouse.land(find_source(write_source(tmp_path, [event()])), tenant="t")
    assert "rollback" in session.seen and "commit" not in session.seen


def test_unloading_needs_an_integration_and_never_our_credentials() -> None:
    storage = ObjectStorage("us-east-1", "AKIACANARY", "canary")
    with pytest.raises(SettingsError, match="storage_integration"):
        open_fake(FakeSession({})).prepare_unload(storage)
    session = FakeSession({"copy into": [("data_0_0_0.snappy.parquet", 10, 7)]})
    warehouse = open_fake(session, storage_integration="shop_integration")
    warehouse.prepare_unload(storage)
    parts = warehouse.unload("s3://bucket/shop/snapshots/snap-1/")
    assert parts[0] == Part("s3://bucket/shop/snapshots/snap-1/train/data_0_0_0.snappy.parquet", 7)
    assert "canary" not in " ".join(session.seen).lower()


def test_a_missing_mart_is_bad_input_and_other_errors_are_not() -> None:
    missing = RuntimeError("Object 'SHOP.SESSIONS' does not exist")
    missing.errno = 2003  # type: ignore[attr-defined]
    with pytest.raises(BadInputError, match="transform"):
        open_fake(FakeSession({"snapshot_sessions": missing})).select(REQUEST)
    with pytest.raises(RuntimeError, match="gone"):
        open_fake(FakeSession({"snapshot_sessions": RuntimeError("gone")})).select(REQUEST)

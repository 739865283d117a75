from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pytest
import sqlfluff

from include.contracts import BadInputError, SettingsError
from include.warehouse import landing, profile, snowflake, unload
from include.warehouse.base import ConnectionInfo, ObjectStorage, Part, WarehouseUnavailableError
from include.warehouse.dialect import SnowflakeDialect, Statement
from include.warehouse.kinds import EVENTS, KINDS
from include.warehouse.loading import find_source
from include.warehouse.snowflake import (
    Chunk,
    SnowflakeWarehouse,
    copy_into_location,
    copy_rejects,
    copy_rows,
    put,
    stage_and_lock,
)
from tests.shops import event, write_source

DIALECT = SnowflakeDialect()
NOW = datetime(2026, 6, 1, tzinfo=UTC)
LOAD = landing.Load("etl-1", "t", NOW.replace(tzinfo=None))
REQUEST = unload.UnloadRequest("t", date(2026, 1, 1), date(2026, 2, 1), max_sessions=5)


def statements() -> dict[str, Statement]:
    """Every statement that a load and an export send to Snowflake."""
    every: list[Statement] = [
        *landing.raw_tables(DIALECT),
        *stage_and_lock(),
        put(DIALECT, Path("/tmp/a 'b.parquet"), LOAD, "events"),
        *(copy_rows(DIALECT, LOAD, kind) for kind in KINDS),
        copy_rejects(DIALECT, LOAD),
        *landing.keep_first_sessions(DIALECT, LOAD, 5),
        *(landing.count_rows(DIALECT, LOAD, kind) for kind in KINDS),
        landing.count_rejects(DIALECT, LOAD),
        landing.stored_report(DIALECT, "etl-1"),
        landing.store_report(DIALECT, LOAD, "folder", "{}", NOW),
        landing.loaded_dates(DIALECT, "t"),
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


def test_every_statement_parses_as_snowflake_and_binds_what_it_names() -> None:
    for name, statement in statements().items():
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


def test_the_upload_quotes_its_path_and_keeps_to_the_folder_of_its_load(tmp_path: Path) -> None:
    sql = put(DIALECT, tmp_path / "a 'b.parquet", LOAD, "events").sql
    assert sql.startswith("put 'file:///")
    assert sql.endswith("' @raw.landing/etl-1/events/ auto_compress = false overwrite = true")


def test_rows_are_copied_from_the_stage_and_never_inserted() -> None:
    assert copy_rows(DIALECT, LOAD, EVENTS).sql == (
        "copy into raw.shopping_events (etl_id, etl_timestamp, api_key, event_type, event_date, raw_data) "
        "from (select 'etl-1', '2026-06-01 00:00:00.000000'::timestamp_ntz, 't', $1:event_type::varchar, "
        "$1:event_date::date, parse_json($1:raw_data::varchar) from @raw.landing/etl-1/events/) "
        "file_format = (type = parquet) force = true"
    )


def test_the_name_of_a_chunk_says_how_far_it_reaches() -> None:
    chunk = Chunk(7, 123_456_789, 4321, 4000)
    assert Chunk.of(f"landing/etl-1/events/{chunk.name}") == chunk


class FakeSession:
    """Records statements; answers from what is on its stage, or by the first text that a statement holds."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.seen: list[str] = []
        self.rows: list[tuple[Any, ...]] = []
        self.staged: dict[str, list[tuple[Any, ...]]] = {}

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
        if sql.startswith("put "):
            self.upload(sql)
        answers = {**self.answers, **self.of_the_stage()}
        answer = next((answer for text, answer in answers.items() if text in sql), [])
        if isinstance(answer, Exception):
            raise answer
        self.rows = answer

    def upload(self, sql: str) -> None:
        """Keeps the rows of an uploaded file under the name that the stage would list, unless it has one."""
        _, source, target, *_ = sql.split(" ")
        name = unquote(source.strip("'").removeprefix("file://"))
        listed = f"landing/{target.removeprefix('@raw.landing/')}{Path(name).name}"
        if listed in self.staged and not sql.endswith(" overwrite = true"):
            return
        with duckdb.connect() as session:
            self.staged[listed] = session.execute(f"from read_parquet('{name}')").fetchall()

    def of_the_stage(self) -> dict[str, Any]:
        """Answers the questions for files, rejects and landed rows, once those are copied."""
        landed = {
            kind.table: sum(len(rows) for name, rows in self.staged.items() if f"/{kind.name}/" in name)
            for kind in KINDS
        }
        rejects = [row for name, rows in self.staged.items() if "/rejects/" in name for row in rows]
        return {
            "list @": [(name,) for name in self.staged],
            "select file, reason": [(file, reason, 1, line) for file, line, reason, _ in rejects],
            "min(event_date)": [(landed[EVENTS.table], date(2026, 1, 1), date(2026, 1, 1))],
            "null as last_date from raw.products": [(landed["products"], None, None)],
        }

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def place(self, text: str) -> int:
        return next(number for number, sql in enumerate(self.seen) if text in sql)


def open_fake(session: FakeSession, **extra: str) -> SnowflakeWarehouse:
    return SnowflakeWarehouse(ConnectionInfo("snowflake", extra=extra), "shop", session)


def test_a_load_puts_everything_on_the_stage_before_its_transaction(tmp_path: Path) -> None:
    """Creating a table ends a Snowflake transaction, and a long upload should hold no lock."""
    session = FakeSession()
    with open_fake(session) as warehouse:
        source = write_source(tmp_path, [event(), event(moment="x")], products=["a,,,,1"])
        report = warehouse.land(find_source(source), tenant="t", max_sessions=3, max_reject_share=0.5)
    assert (report.events_read, report.events_landed) == (2, 1)
    begin, commit = session.place("begin"), session.place("commit")
    inside = session.seen[begin + 1 : commit]
    assert inside[0].startswith("update raw.load_lock")
    assert not [sql for sql in inside if sql.startswith(("create", "use", "put"))]
    assert [sql.split(" (")[0] for sql in inside if sql.startswith(("copy", "insert"))] == [
        "copy into raw.shopping_events", "copy into raw.products", "copy into raw.rejected_events",
        "insert into raw.loads",
    ]  # fmt: skip
    assert session.seen[commit + 1 :] == [f"remove @raw.landing/{report.etl_id}/", "close"]


def test_staged_files_hold_rows_and_rejects_as_plain_texts(tmp_path: Path) -> None:
    session = FakeSession()
    with open_fake(session) as warehouse:
        lines = ['s,pageview,,"a\u2028{}",1767225600000,', "spoiled", event(moment=5)]
        report = warehouse.land(find_source(write_source(tmp_path, lines)), tenant="t", max_reject_share=0.7)
    rejects, rows = sorted(session.staged, reverse=True)
    folder = f"landing/{report.etl_id}"
    size = (tmp_path / "browsing.csv").stat().st_size
    assert rows == f"{folder}/events/000000_{size}_5_3.parquet"
    assert rejects == f"{folder}/rejects/events-000000_{size}_5_3.parquet"
    [(kind, day, document)] = session.staged[rows]
    assert (kind, day, json.loads(document)["product_sku_hash"]) == ("pageview", "2026-01-01", "a\u2028{}")
    assert session.staged[rejects] == [
        ("browsing.csv", 3, "wrong_column_count", "spoiled"),
        ("browsing.csv", 4, "timestamp_before_2000", event(moment=5)),
    ]


def test_a_load_broken_off_uploads_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snowflake, "_BLOCK_BYTES", 1000)
    source = find_source(write_source(tmp_path, [event(session=f"s{n}") for n in range(100)]))
    whole, first, second = FakeSession(), FakeSession(), FakeSession()
    open_fake(whole).land(source, tenant="t")
    names = list(whole.staged)
    assert len(names) > 4

    first.answers = {names[2].rpartition("/")[2]: OSError("connection lost")}
    with pytest.raises(OSError, match="lost"):
        open_fake(first).land(source, tenant="t")
    assert "begin" not in first.seen
    second.staged = {name: first.staged[name] for name in names[:2]}
    report = open_fake(second).land(source, tenant="t")
    assert list(second.staged) == names
    assert len([sql for sql in second.seen if sql.startswith("put")]) == len(names) - 2
    assert report.events_read == 100


def test_rejects_that_a_killed_try_judged_earlier_do_not_stay_beside_newer_rows(tmp_path: Path) -> None:
    tomorrow = int((NOW + timedelta(hours=30)).timestamp() * 1000)
    source = find_source(write_source(tmp_path, [event(), event(moment=tomorrow), event(moment="x")]))
    first, second = FakeSession({"/events/": OSError("killed")}), FakeSession()
    with pytest.raises(OSError, match="killed"):
        open_fake(first).land(source, tenant="t", max_reject_share=0.9, now=NOW)
    second.staged = {name: rows for name, rows in first.staged.items() if "/rejects/" in name}
    assert [len(rows) for rows in second.staged.values()] == [2]
    report = open_fake(second).land(source, tenant="t", max_reject_share=0.9, now=NOW + timedelta(days=1))
    assert report.rejected_by_reason == {"timestamp_not_integer": 1}


def test_a_warehouse_that_goes_away_while_copying_shows_nothing_and_keeps_the_stage(tmp_path: Path) -> None:
    session = FakeSession({"copy into raw.shopping_events": OSError("gone")})
    with open_fake(session) as warehouse, pytest.raises(OSError, match="gone"):
        warehouse.land(find_source(write_source(tmp_path, [event()])), tenant="t")
    assert "rollback" in session.seen and "commit" not in session.seen
    assert not [sql for sql in session.seen if sql.startswith("remove")]


def test_files_left_on_the_stage_do_not_undo_a_load(tmp_path: Path) -> None:
    session = FakeSession({"remove @": RuntimeError("no")})
    with open_fake(session) as warehouse:
        report = warehouse.land(find_source(write_source(tmp_path, [event()])), tenant="t")
    assert report.events_landed == 1 and "commit" in session.seen


def test_a_refused_load_is_rolled_back_and_its_stage_emptied(tmp_path: Path) -> None:
    session = FakeSession()
    with open_fake(session) as warehouse, pytest.raises(BadInputError, match="missing_sku"):
        warehouse.land(find_source(write_source(tmp_path, [event(sku="")])), tenant="t")
    assert "rollback" in session.seen and "commit" not in session.seen
    assert session.seen[-2].startswith("remove @raw.landing/etl-")


@pytest.mark.parametrize("lost", ["events", "products", "rejects"])
def test_chunks_that_a_refused_load_removed_meanwhile_are_missed(tmp_path: Path, lost: str) -> None:
    content = [event(), event("b"), event(moment="x")]
    source = find_source(write_source(tmp_path, content, products=["a,,,,1"]))
    session = FakeSession()
    real = session.execute

    def execute(sql: str, values: dict[str, Any] | None) -> None:
        if sql.startswith("update raw.load_lock"):
            session.staged = {name: rows for name, rows in session.staged.items() if f"/{lost}/" not in name}
        real(sql, values)

    session.execute = execute  # type: ignore[method-assign]
    with open_fake(session) as warehouse, pytest.raises(WarehouseUnavailableError, match="lines"):
        warehouse.land(source, tenant="t", max_sessions=1, max_reject_share=0.5)
    assert "rollback" in session.seen and "commit" not in session.seen
    assert session.seen[-2].startswith("remove @raw.landing/etl-"), "the next try brings everything anew"


def test_the_second_of_two_loads_at_once_finds_the_first_behind_the_lock(tmp_path: Path) -> None:
    session = FakeSession()
    source = find_source(write_source(tmp_path, [event()]))
    report = open_fake(FakeSession()).land(source, tenant="t")
    real = session.execute

    def execute(sql: str, values: dict[str, Any] | None) -> None:
        if sql.startswith("update raw.load_lock"):
            session.answers = {"select to_json(report)": [(report.model_dump_json(),)]}
        real(sql, values)

    session.execute = execute  # type: ignore[method-assign]
    assert open_fake(session).land(source, tenant="t").already_loaded
    assert not [sql for sql in session.seen if sql.startswith("copy")]


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

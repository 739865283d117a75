from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from include.contracts import BadInputError, SettingsError
from include.local.shop import EVENT_HEADER
from include.warehouse.base import ConnectionInfo, ObjectStorage
from include.warehouse.connect import open_warehouse
from tests.shops import T0, TENANT, event, land, open_file, rows, write_source


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("s,event_product,detail,a", "wrong_column_count"),
        (event() + ",more", "wrong_column_count"),
        ('s,event_product,detail,"a,1,', "wrong_column_count"),
        (event(moment="yesterday"), "timestamp_not_integer"),
        (event(moment=""), "timestamp_not_integer"),
        (event(moment="1767225600000.5"), "timestamp_not_integer"),
        (event(moment="-1767225600000"), "timestamp_not_integer"),
        (event(moment="9" * 30), "timestamp_not_integer"),
        (event(moment=T0 // 1000), "timestamp_in_seconds"),
        (event(moment=12), "timestamp_before_2000"),
        (event(moment=T0 * 1000), "timestamp_in_future"),
        (event(moment=10**18 - 1), "timestamp_in_future"),
        (event(session=""), "missing_session_id"),
        (event(session="  "), "missing_session_id"),
        (event(session="x" * 513), "session_id_too_long"),
        (event(kind="click"), "unknown_event_type"),
        (event(kind=""), "unknown_event_type"),
        (event(action="steal"), "bad_product_action"),
        (event(sku=""), "missing_sku"),
        (event(sku="x" * 10_000), "sku_too_long"),
        (event(sku="a\x00b"), "binary_rubbish"),
    ],
)
def test_each_rule_rejects_its_row_with_file_line_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "w.duckdb"
    folder = write_source(tmp_path / "in", [event(), line, event(sku="b")])
    report = land(path, folder, max_reject_share=0.5, now=datetime(2026, 6, 1, tzinfo=UTC))
    assert report.rejected_by_reason == {reason: 1}
    assert (report.events_read, report.events_landed, report.events_rejected) == (3, 2, 1)
    [(file, number, found, raw)] = rows(path, "select file, line, reason, raw_line from raw.rejected_events")
    assert (file, number, found) == ("browsing.csv", 3, reason)
    assert len(raw) <= 1000


def test_page_views_need_neither_action_nor_product(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "in", [event(kind="pageview", action="", sku="")])
    assert land(tmp_path / "w.duckdb", folder).events_landed == 1


def test_hostile_column_names_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    name = "x'); drop table raw.loads; --$etl_id"
    land(path, write_source(tmp_path / "in", [event() + ",1"], header=f"{EVENT_HEADER},{name}"))
    [(document,)] = rows(path, "select raw_data from raw.shopping_events")
    assert json.loads(document)[name] == "1"


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    header = ",".join(reversed(EVENT_HEADER.split(",")))
    land(path, write_source(tmp_path / "in", [",".join(reversed(event().split(",")))], header=header))
    [(kind, day)] = rows(path, "select event_type, event_date from raw.shopping_events")
    assert (kind, str(day)) == ("event_product", "2026-01-01")


def test_the_same_files_twice_are_a_no_op(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    folder = write_source(
        tmp_path / "in", [event(), event(moment="x")] + [event(sku="b")] * 40, products=["a,,,,1.0"]
    )
    first = land(path, folder)
    again = land(path, folder)
    assert again == first.model_copy(update={"already_loaded": True})
    assert rows(path, "select count(*) from raw.shopping_events") == [(41,)]
    assert rows(path, "select count(*) from raw.rejected_events") == [(1,)]


def test_too_many_rejects_land_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    folder = write_source(
        tmp_path / "in", [event()] * 8 + [event(moment="x"), event(session="")], products=["a,,,,1"]
    )
    with pytest.raises(BadInputError, match=r"2 of 10 .* missing_session_id \(1, first in line 11\)"):
        land(path, folder, max_reject_share=0.1)
    for table in ("shopping_events", "products", "rejected_events", "loads"):
        assert rows(path, f"select count(*) from raw.{table}") == [(0,)], table
    assert land(path, folder, max_reject_share=0.2).events_landed == 8


def test_a_spoiled_catalogue_lands_nothing_either(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    with pytest.raises(BadInputError, match=r"sku_to_content.csv: 1 of 2 .*missing_sku"):
        land(path, write_source(tmp_path / "in", [event()], products=["a,,,,1", ",,,,1"]))
    assert rows(path, "select count(*) from raw.shopping_events") == [(0,)]


def test_rejects_of_the_catalogue_carry_its_name(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "in", [event()], products=["a,,,,1", ",,,,1"])
    report = land(tmp_path / "w.duckdb", folder, max_reject_share=0.6)
    assert report.rejected_by_reason == {"sku_to_content.csv: missing_sku": 1}
    assert report.events_rejected == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (EVENT_HEADER.encode() + b"\n", "no rows"),
        (EVENT_HEADER.encode(), "no rows"),
        ((EVENT_HEADER + "\n" + event(moment="x")).encode(), "timestamp_not_integer"),
    ],
)
def test_a_file_without_a_usable_event_is_bad_input(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        land(tmp_path / "w.duckdb", write_source(tmp_path / "in", content))


def test_all_rejected_is_bad_input_even_where_all_may_be(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "in", [event(moment="x")])
    with pytest.raises(BadInputError, match="no usable event"):
        land(tmp_path / "w.duckdb", folder, max_reject_share=1.0)


def test_truncated_gzip_lands_nothing_of_what_was_read_before(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    lines = [event(session=f"{number * 7919:064x}") for number in range(300_000)]
    packed = gzip.compress("\n".join([EVENT_HEADER, *lines]).encode(), 1)
    folder = write_source(tmp_path / "in", packed[:-1000], name="browsing.csv.gz")
    with pytest.raises(BadInputError, match="truncated"):
        land(path, folder)
    assert rows(path, "select count(*) from raw.shopping_events") == [(0,)]


def test_max_sessions_keeps_the_first_ones_whole(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    lines = [event(session=f"s{n % 5}", sku=f"p{n}", moment=T0 + 1000 * (20 - n)) for n in range(20)]
    report = land(path, write_source(tmp_path / "in", lines), max_sessions=2)
    # Row 19 (s4) is the earliest, row 18 (s3) the next.
    found = rows(
        path, "select raw_data ->> 'session_id_hash', count(*) from raw.shopping_events group by 1 order by 1"
    )
    assert found == [("s3", 4), ("s4", 4)]
    assert (report.events_read, report.events_landed) == (20, 8)


def test_a_limited_load_does_not_pass_for_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    folder = write_source(tmp_path / "in", [event(session="a"), event(session="b", moment=T0 + 1)])
    land(path, folder, max_sessions=1)
    assert not land(path, folder).already_loaded


def test_a_limited_load_keeps_the_searches_of_its_sessions_only(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    events = [event(session="a"), event(session="b", moment=T0 + 1)]
    searches = [f'{session},"[0.1, 0.2]",,,{T0}' for session in ("a", "b", "a")]
    report = land(path, write_source(tmp_path / "in", events, searches=searches), max_sessions=1)
    assert (report.events_landed, report.searches_landed) == (1, 2)


def test_searches_land_with_their_lists_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    vector, clicked = "[-0.25, 1e-3]", "['a', 'b']"
    searches = [f'a,"{vector}","{clicked}","[]",{T0}', f"a,,,,{T0 // 1000}", f"b,,,,{T0 + 86_400_000}"]
    folder = write_source(tmp_path / "in", [event()], searches=searches)
    report = land(path, folder, max_reject_share=0.5)
    assert report.searches_landed == 2
    assert report.rejected_by_reason == {"search.csv: timestamp_in_seconds": 1}
    found = rows(path, "select api_key, event_date, raw_data from raw.searches order by event_date")
    assert [(tenant, str(day)) for tenant, day, _ in found] == [
        (TENANT, "2026-01-01"), (TENANT, "2026-01-02"),
    ]  # fmt: skip
    document = json.loads(found[0][2])
    assert (document["query_vector"], document["clicked_skus_hash"]) == (vector, clicked)


def test_spoiled_searches_land_nothing_either(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    with pytest.raises(BadInputError, match=r"search.csv: 1 of 1 .*missing_session_id"):
        land(path, write_source(tmp_path / "in", [event()], searches=[f",,,,{T0}"]))
    assert rows(path, "select count(*) from raw.shopping_events") == [(0,)]


def test_a_few_rows_of_a_new_event_type_are_rejected_and_the_others_land(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "in", [event()] * 99 + [event(kind="wishlist")])
    report = land(tmp_path / "w.duckdb", folder)
    assert (report.events_landed, report.rejected_by_reason) == (99, {"unknown_event_type": 1})


def test_a_file_that_grew_lands_again_beside_what_landed_before(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    first = land(path, write_source(tmp_path / "in", [event("a")]))
    grown = land(path, write_source(tmp_path / "in", [event("a"), event("b")]))
    assert first.etl_id != grown.etl_id and not grown.already_loaded
    assert rows(path, "select etl_id, count(*) from raw.shopping_events group by 1 order by 2") == [
        (first.etl_id, 1), (grown.etl_id, 2),
    ]  # fmt: skip


def test_late_events_land_under_their_own_day(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    land(path, write_source(tmp_path / "a", [event(moment=T0 + 5 * 86_400_000)]))
    late = land(path, write_source(tmp_path / "b", [event(moment=T0)]))
    assert (late.first_event_date, late.last_event_date) == ("2026-01-01", "2026-01-01")


def test_the_log_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    lines = [event(session=f"s{n}", moment=T0 + n) for n in range(5000)]
    lines[17] = event(session="x", moment="x")
    lines[4000] = '"s4000",event_product,detail,"a,b",1767225604000,'
    land(path, write_source(tmp_path / "in", lines))
    found = rows(path, "select raw_data ->> 'session_id_hash' from raw.shopping_events order by rowid")
    assert [session for (session,) in found] == [f"s{n}" for n in range(5000) if n != 17]


@pytest.mark.parametrize("stem", ["raw", "shop", "warehouse", "a b"])
def test_a_file_named_as_a_schema_is_not_ambiguous(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.duckdb"
    assert land(path, write_source(tmp_path / "in", [event()])).events_landed == 1
    assert land(path, write_source(tmp_path / "in", [event()])).already_loaded


def test_a_file_that_is_no_database_is_a_setting_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(SettingsError, match="cannot be opened"):
        open_file(path)


@pytest.mark.parametrize(
    ("connection", "schema", "said"),
    [
        (ConnectionInfo("duckdb"), "shop", "names no DuckDB file"),
        (ConnectionInfo("postgres", host="h"), "shop", "must be duckdb or snowflake"),
        (ConnectionInfo("duckdb", host=":memory:"), "shop; drop", "letters, digits"),
    ],
)
def test_wrong_settings_are_named(connection: ConnectionInfo, schema: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        open_warehouse(connection, schema)


def test_secrets_are_in_no_repr_and_no_error() -> None:
    storage = ObjectStorage(
        region="us-east-1", access_key="AKIACANARY", secret_key="canary'\x00", session_token="canary"
    )
    assert "canary" not in repr(storage).lower()
    with open_warehouse(
        ConnectionInfo("duckdb", host=":memory:", extra={"private": "canary"}), "shop"
    ) as warehouse:
        try:
            warehouse.prepare_unload(storage)
        except SettingsError as error:
            assert "canary" not in f"{error} {error.__cause__}"
    assert "canary" not in repr(ConnectionInfo("duckdb", extra={"private": "canary"}))


def test_real_sessions_land_without_a_reject(tmp_path: Path, real_data: Path) -> None:
    report = land(tmp_path / "w.duckdb", real_data)
    assert report.events_read == report.events_landed > 10_000
    assert report.products_landed > 1_000

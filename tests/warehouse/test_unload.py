from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from include.contracts import BadInputError, SettingsError
from include.warehouse.dialect import DuckDBDialect, Statement
from include.warehouse.unload import Selection, UnloadRequest, queries, selection, sql_sha256
from tests.shops import open_file

DAY = 86_400_000
FIRST = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)


def marts(path: Path, sessions: list[tuple[str, int, int, list[str]]], **columns: Any) -> None:
    """Writes marts by hand: sessions as (id, start, end in epoch ms, products)."""
    with open_file(path) as warehouse:
        for sql in (
            "create schema shop",
            "create table shop.sessions (tenant varchar, session_id varchar, session_date date, "
            "started_at timestamp, ended_at timestamp, n_interactions integer, n_steps integer, "
            "is_bot boolean, skus varchar[], actions varchar[], event_times bigint[])",
            "create table shop.products (tenant varchar, product_sku varchar, category varchar, "
            "price_bucket double)",
            "insert into shop.products values ('t', 'a', 'c/d', 7.0), ('other', 'z', null, null)",
        ):
            warehouse.execute(Statement(sql))
        for name, start, end, skus in sessions:
            steps = sum(1 for one, next_one in zip(skus, [*skus[1:], None], strict=True) if one != next_one)
            warehouse.execute(
                Statement(
                    "insert into shop.sessions select $tenant, $name, cast(epoch_ms($start) as date), "
                    "epoch_ms($start), epoch_ms($end), len($skus), $steps, $bot, $skus, "
                    "list_transform($skus, lambda x: 'detail'), list_transform($skus, lambda x: $start)",
                    {
                        "tenant": columns.get("tenant", "t"),
                        "bot": columns.get("is_bot", False),
                        "name": name, "start": start, "end": end, "skus": skus, "steps": steps,
                    },
                )
            )  # fmt: skip


def hundred(length: int = 1000) -> list[tuple[str, int, int, list[str]]]:
    return [
        (f"s{n:03d}", FIRST + n * DAY // 10, FIRST + n * DAY // 10 + length, ["a", f"p{n % 7}"])
        for n in range(100)
    ]


REQUEST = UnloadRequest.parse("t", "2026-01-01", "2026-02-01", None)


def select(
    path: Path, request: UnloadRequest = REQUEST
) -> tuple[Selection, dict[str, list[tuple[Any, ...]]]]:
    with open_file(path) as warehouse, warehouse.transaction():
        selection = warehouse.select(request)
        return selection, {
            name: warehouse.execute(query) for name, query in queries(warehouse.dialect).items()
        }


def test_the_split_is_by_time_and_disjoint(tmp_path: Path) -> None:
    marts(tmp_path / "w.duckdb", hundred())
    selection, found = select(tmp_path / "w.duckdb")
    assert selection.counts == {
        "train": 79, "validation": 10, "test": 11, "catalog": 1, "dropped_straddling": 0,
    }  # fmt: skip
    assert max(row[2] for row in found["train"]) < min(row[1] for row in found["validation"])
    assert max(row[2] for row in found["validation"]) < min(row[1] for row in found["test"])
    ids = [row[0] for split in ("train", "validation", "test") for row in found[split]]
    assert sorted(ids) == [row[0] for row in hundred()]
    assert found["catalog"] == [("a", "c/d", 7.0)]


def test_sessions_that_straddle_a_boundary_are_dropped_and_counted(tmp_path: Path) -> None:
    marts(tmp_path / "w.duckdb", hundred(length=DAY // 5))
    selection, found = select(tmp_path / "w.duckdb")
    assert selection.counts["dropped_straddling"] == 4
    boundary = selection.boundaries["test_start"]
    assert boundary is not None
    assert all(row[2] < boundary for row in found["train"] + found["validation"])


def test_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    late = FIRST + 31 * DAY
    marts(
        path,
        [
            ("kept", FIRST, FIRST + 1, ["a", "b"]),
            ("single", FIRST, FIRST + 1, ["a"]),
            ("repeat", FIRST, FIRST + 1, ["a", "a", "a"]),
            ("before", FIRST - 1, FIRST + 1, ["a", "b"]),
            ("after", late, late, ["a", "b"]),
            ("last moment", late - 1, late + 5, ["a", "b"]),
        ],
    )
    with open_file(path) as warehouse:
        for column, value in (("is_bot", "true"), ("tenant", "'other'")):
            warehouse.execute(
                Statement(
                    f"insert into shop.sessions select * replace ({value} as {column}) "
                    "from shop.sessions where session_id = 'kept' limit 1"
                )
            )
        with warehouse.transaction():
            selection = warehouse.select(REQUEST)
            names = warehouse.execute(
                Statement(
                    "select split, session_id from snapshot_sessions where split not in ('bot', 'short')"
                )
            )
    assert sorted(name for _, name in names) == ["kept", "last moment"]
    assert selection.sessions == 2
    assert selection.profile["left_out"] == {"straddling": 0, "bot": 1, "short": 2, "unsampled": 0}


def test_sampling_keeps_the_latest(tmp_path: Path) -> None:
    marts(tmp_path / "w.duckdb", hundred())
    request = UnloadRequest.parse("t", "2026-01-01", "2026-02-01", 10)
    selection, found = select(tmp_path / "w.duckdb", request)
    assert [row[0] for row in found["train"]] == [f"s{n:03d}" for n in range(90, 97)]
    assert selection.sessions == 10
    assert selection.profile["left_out"]["unsampled"] == 90


def test_sampling_takes_exactly_its_number_where_sessions_start_together(tmp_path: Path) -> None:
    marts(tmp_path / "w.duckdb", [(f"s{n}", FIRST, FIRST + 1, ["a", "b"]) for n in range(9)])
    selection, _ = select(tmp_path / "w.duckdb", UnloadRequest.parse("t", "2026-01-01", "2026-02-01", 4))
    assert selection.sessions == 4


def test_the_high_water_mark_follows_the_data_and_nothing_else(tmp_path: Path) -> None:
    marts(tmp_path / "a.duckdb", hundred())
    marts(tmp_path / "b.duckdb", list(reversed(hundred())))
    changed = hundred()
    changed[50] = (*changed[50][:3], ["a", "other"])
    marts(tmp_path / "c.duckdb", changed)
    marks = [select(tmp_path / f"{name}.duckdb")[0].high_water_mark for name in "abc"]
    assert marks[0] == marks[1] != marks[2]


def test_the_high_water_mark_tells_null_from_empty(tmp_path: Path) -> None:
    marks = set()
    for number, value in enumerate(("null", "''", "'c/d'")):
        marts(tmp_path / f"{number}.duckdb", hundred())
        with open_file(tmp_path / f"{number}.duckdb") as warehouse:
            warehouse.execute(Statement(f"update shop.products set category = {value}"))
        marks.add(select(tmp_path / f"{number}.duckdb")[0].high_water_mark)
    assert len(marks) == 3


def test_the_profile_describes_the_data(tmp_path: Path) -> None:
    sessions = hundred()
    sessions[99] = (*sessions[99][:3], ["a", "never seen"])
    sessions[98] = (*sessions[98][:3], ["a", *(f"p{n % 7}" for n in range(29))])
    marts(tmp_path / "w.duckdb", sessions)
    profile = select(tmp_path / "w.duckdb")[0].profile
    total = 228
    assert profile["splits"]["train"] == {
        "sessions": 79, "interactions": 158,
        "length_quantiles": {"0.1": 2, "0.5": 2, "0.9": 2, "0.99": 2, "1": 2},
    }  # fmt: skip
    assert profile["splits"]["test"]["length_quantiles"]["1"] == 30
    assert {bar: n for bar, n in profile["lengths"].items() if n} == {"2+": 99, "30+": 1}
    assert profile["actions"] == {"detail": total}
    assert profile["top_products"][0] == ["a", 100, pytest.approx(100 / total, abs=1e-6)]
    assert profile["top_categories"] == [["c/d", 100, pytest.approx(100 / total, abs=1e-6)]]
    assert profile["catalogue"] == {
        "products": 1, "with_category": 1.0, "with_price": 1.0,
        "interactions_with_category": pytest.approx(100 / total, abs=1e-6),
        "interactions_with_price": pytest.approx(100 / total, abs=1e-6),
    }  # fmt: skip
    assert profile["products_in_train"] == 8
    assert profile["test_unknown_share"] == pytest.approx(1 / 50)
    assert set(profile["sessions_per_day"].values()) == {10}
    assert list(profile["sessions_per_day"])[::9] == ["2026-01-01", "2026-01-10"]
    assert sum(profile["sessions_per_hour"]) == 100 and profile["sessions_per_hour"][0] == 10


def test_the_same_content_has_the_same_profile_and_the_same_files(tmp_path: Path) -> None:
    """Whatever the order in which rows lie in the mart, and whatever the number of threads."""
    written = set()
    for name, sessions, threads in (("a", hundred(), 1), ("b", list(reversed(hundred())), 2)):
        marts(tmp_path / f"{name}.duckdb", sessions)
        with open_file(tmp_path / f"{name}.duckdb") as warehouse, warehouse.transaction():
            warehouse.execute(Statement(f"set threads = {threads}"))
            profile = json.dumps(dict(warehouse.select(REQUEST).profile))
            files = []
            for folder, query in queries(warehouse.dialect).items():
                file = tmp_path / f"{name}-{folder}-"
                assert len(warehouse.copy_to(query, str(file))) == 1
                files.append(Path(f"{file}part-00000.parquet").read_bytes())
            written.add((profile, *files))
    assert len(written) == 1


def test_a_hostile_tenant_is_a_value_and_never_text(tmp_path: Path) -> None:
    hostile = "t' or 1=1 --"
    marts(tmp_path / "w.duckdb", hundred())
    with open_file(tmp_path / "w.duckdb") as warehouse, warehouse.transaction():
        request = UnloadRequest.parse(hostile, "2026-01-01", "2026-02-01", None)
        assert warehouse.select(request).sessions == 0
    for statement in selection(DuckDBDialect(), "shop", request):
        assert hostile not in statement.sql


def test_an_empty_interval_selects_nothing(tmp_path: Path) -> None:
    marts(tmp_path / "w.duckdb", hundred())
    selection, _ = select(tmp_path / "w.duckdb", UnloadRequest.parse("t", "2025-01-01", "2025-02-01", None))
    assert selection.sessions == 0
    assert selection.boundaries == {"validation_start": None, "test_start": None}


def test_too_few_sessions_say_what_to_widen(tmp_path: Path) -> None:
    marts(tmp_path / "w.duckdb", hundred()[:40])
    selection, _ = select(tmp_path / "w.duckdb")
    with pytest.raises(BadInputError, match=r"train has 31 \(needs 50\).*Widen start_date"):
        selection.refuse_too_few()


@pytest.mark.parametrize(
    ("start", "end", "limit", "said"),
    [
        ("2026-01-01'; drop", "2026-02-01", None, "start_date must be a day"),
        ("2026-01-01", "2026-02-30", None, "end_date must be a day"),
        ("20260101", "2026-02-01", None, "start_date must be a day"),
        ("2026-02-01", "2026-02-01", None, "exclusive"),
        ("2026-01-01", "2026-02-01", 0, "positive"),
    ],
)
def test_hostile_or_mistyped_choices_are_refused(start: str, end: str, limit: int | None, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        UnloadRequest.parse("t", start, end, limit)


@pytest.mark.parametrize("uri", ["/tmp/x/", "s3://b", "s3://bucket/x", "s3://bucket/a'b/", "s3://bucket/../"])
def test_only_plain_s3_folders_are_written_to(tmp_path: Path, uri: str) -> None:
    with open_file(tmp_path / "w.duckdb") as warehouse, pytest.raises(SettingsError, match="s3://"):
        warehouse.unload(uri)


def test_the_sql_digest_knows_neither_file_nor_values() -> None:
    assert sql_sha256(DuckDBDialect(), "shop") == sql_sha256(DuckDBDialect(), "shop")
    assert sql_sha256(DuckDBDialect(), "shop") != sql_sha256(DuckDBDialect(), "other")

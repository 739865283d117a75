"""Sessions of 10,000 events and bot traffic: capped, counted, never exported, and memory stays bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.warehouse.dialect import Statement
from include.warehouse.profile import BOT, SESSIONS
from include.warehouse.unload import UnloadRequest
from tests.shops import T0, TENANT, event, land, open_file, rows, run_dbt, write_source

BOTS, EVENTS, CAP = 30, 10_000, 300
SECOND = 1000


def crawler(number: int, pace: int) -> list[str]:
    return [event(f"bot {number}", f"p{step % 977}", T0 + step * pace) for step in range(EVENTS)]


def shopper(number: int) -> list[str]:
    start = T0 + number * 400 * SECOND
    return [event(f"s{number}", f"p{number + step}", start + step * 60 * SECOND) for step in range(3)]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hundreds of events of machines for each of a person; dbt gets by with 100 MB."""
    folder = tmp_path_factory.mktemp("bots")
    lines = [line for number in range(300) for line in shopper(number)]
    # In a hurry, at a person's pace, and for half a day; and one that only looks at pages.
    lines += [line for n in range(BOTS) for line in crawler(n, (100, 2 * SECOND, 5 * SECOND)[n % 3])]
    lines += [
        event("bot of pages", "", T0 + step * 900, "", "pageview", f"u{step}") for step in range(EVENTS)
    ]
    lines += [event("bot of pages", f"p{step}", T0 + step * 900) for step in range(2)]
    # One that is no machine by its length: fifty events, twice a second.
    lines += [event("fast", f"p{step}", T0 + step * 400) for step in range(50)]
    path = folder / "w.duckdb"
    report = land(path, write_source(folder / "in", lines))
    assert report.events_landed == len(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PMS_DUCKDB_MEMORY_LIMIT", "100MB")
        built = run_dbt(path, folder / "target", "build")
    assert built.success, built.exception
    return path


def test_a_session_is_capped_and_says_how_long_it_was(warehouse: Path) -> None:
    found = rows(
        warehouse,
        "select distinct n_interactions, len(skus), len(actions), len(event_times), n_events, is_bot "
        "from shop.sessions where shop_session_id similar to 'bot [0-9]+'",
    )
    assert found == [(CAP, CAP, CAP, CAP, EVENTS, True)]
    # The first ones are kept, in their order.
    [(skus, first, last)] = rows(
        warehouse,
        "select skus, started_at, ended_at from shop.sessions where shop_session_id = 'bot 1'",
    )
    assert skus == [f"p{step}" for step in range(CAP)]
    assert (last - first).total_seconds() == 2 * (CAP - 1)


def test_bots_are_marked_and_counted_and_people_are_not(warehouse: Path) -> None:
    bots = {name for (name,) in rows(warehouse, "select shop_session_id from shop.sessions where is_bot")}
    assert bots == {*(f"bot {n}" for n in range(BOTS)), "bot of pages", "fast"}
    counted = "select sum(n_bot_sessions), sum(n_sessions) from shop.daily_statistics"
    assert rows(warehouse, counted) == [(BOTS + 2, 300 + BOTS + 2)]


def test_no_bot_is_exported_and_the_snapshot_counts_them(warehouse: Path) -> None:
    split = f"select max(n_interactions) from {SESSIONS} where split in ('train', 'validation', 'test')"
    with open_file(warehouse) as opened, opened.transaction():
        selection = opened.select(UnloadRequest.parse(TENANT, "2026-01-01", "2026-02-01", None))
        assert opened.execute(Statement(split)) == [(3,)]
    assert selection.sessions == 300
    assert selection.profile["left_out"][BOT] == BOTS + 2

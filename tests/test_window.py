from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from include.contracts import SettingsError
from include.window import Window, resolve_window, window_of_run

MOMENT = datetime(2026, 3, 30, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("case", "start", "end", "expected"),
    [
        ("nothing chosen: the rolling window", None, None, ("2026-03-20", "2026-03-30")),
        ("only the end chosen", None, "2021-02-01", ("2021-01-22", "2021-02-01")),
        ("only the start chosen", "2026-01-01", None, ("2026-01-01", "2026-03-30")),
        ("both chosen", "2021-01-01", "2021-02-01", ("2021-01-01", "2021-02-01")),
        ("a leap day", "2024-02-29", "2024-03-01", ("2024-02-29", "2024-03-01")),
    ],
)
def test_window(case: str, start: str | None, end: str | None, expected: tuple[str, str]) -> None:
    assert resolve_window(start, end, MOMENT, 10) == Window(*expected), case


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2026-02-01", "2026-02-01", "before"),
        ("2026-02-02", "2026-02-01", "before"),
        ("2026-02-30", None, "calendar"),
        ("2026-01-01'; drop table x; --", None, "date like"),
        ("01.02.2026", None, "date like"),
        ("2026-W01-1", None, "date like"),
    ],
)
def test_hostile_or_impossible_dates_are_refused(start: str, end: str | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve_window(start, end, MOMENT, 10)


def test_manual_run_without_data_interval_uses_run_after() -> None:
    run = SimpleNamespace(data_interval_end=None, run_after=MOMENT)
    assert window_of_run({"start_date": None, "end_date": None}, run, {}, 1) == ("2026-03-29", "2026-03-30")


def test_one_stray_event_of_long_ago_does_not_stop_the_run() -> None:
    assert resolve_window("2001-01-01", "2019-03-15", MOMENT, 10) == ("2001-01-01", "2019-03-15")


RUN = SimpleNamespace(data_interval_end=None, run_after=MOMENT)


def loads(*days: str) -> dict[str, list[SimpleNamespace]]:
    """Asset events of loads of January, each with the newest day that the log had then."""
    return {
        "raw_shopping_events": [
            SimpleNamespace(
                extra={
                    "tenant": "a",
                    "etl_id": "etl-1",
                    "last_event_date": "2021-01-31",
                    "newest_event_date": day,
                }
            )
            for day in days
        ]
    }


@pytest.mark.parametrize(
    ("case", "params", "events", "expected"),
    [
        ("a log that ends long ago", {}, loads("2021-01-31"), ("2021-01-22", "2021-02-01")),
        ("a backfill of January in June", {}, loads("2021-06-10"), ("2021-06-01", "2021-06-11")),
        ("the newest of several", {}, loads("2021-01-31", "2021-03-09", "2020-01-01"),
         ("2021-02-28", "2021-03-10")),
        ("a Param wins", {"end_date": "2021-01-15"}, loads("2021-01-31"),
         ("2021-01-05", "2021-01-15")),
        ("only the start chosen", {"start_date": "2021-01-01"}, loads("2021-01-31"),
         ("2021-01-01", "2021-02-01")),
        ("an event made by hand", {}, {"raw_shopping_events": [SimpleNamespace(extra={})]},
         ("2026-03-20", "2026-03-30")),
    ],
)  # fmt: skip
def test_window_of_a_run_that_loads_triggered(
    case: str, params: dict[str, str], events: dict[str, list[SimpleNamespace]], expected: tuple[str, str]
) -> None:
    assert window_of_run(params, RUN, events, 10) == Window(*expected), case

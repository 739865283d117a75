"""Which days a run is about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from include.contracts import SettingsError

AssetEvents = Mapping[Any, Sequence[Any]]
"""Asset to the events of it that triggered a run; each has an `extra`."""

_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class Window(NamedTuple):
    """Half-open range of event dates (UTC): `start` is in, `end` is out."""

    start: str
    end: str


def _parse(name: str, value: str) -> date:
    if not _ISO_DATE.fullmatch(value):
        raise SettingsError(f"{name} must be a date like 2026-01-31, not {value!r}.")
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise SettingsError(f"{name} {value!r} is not a day of the calendar.") from error


def resolve_window(start: str | None, end: str | None, run_moment: datetime, window_days: int) -> Window:
    """Fills in the dates that a run did not choose.

    A scheduled run passes the end of its data interval, a manual one the moment it was asked for, so
    that a retry or a backfill of the same run always sees the same days.

    Args:
        start: First day, ISO; None for `window_days` before the end.
        end: Day after the last, ISO; None for the day of `run_moment` in UTC.
        run_moment: Timezone-aware moment that the run is about.
        window_days: Length of the rolling window in days.

    Returns:
        The half-open window.

    Raises:
        SettingsError: A date does not parse, or the window is empty.
    """
    last = _parse("end_date", end) if end else run_moment.astimezone(UTC).date()
    first = _parse("start_date", start) if start else last - timedelta(days=window_days)
    if first >= last:
        raise SettingsError(f"start_date {first} must be before end_date {last} (the end is exclusive).")
    return Window(first.isoformat(), last.isoformat())


def window_of_run(
    params: Mapping[str, object], dag_run: object, asset_events: AssetEvents, window_days: int
) -> Window:
    """Returns the window of a DAG run; made for templates.

    Args:
        params: The run's Params; `start_date` and `end_date` are read.
        dag_run: The template's `dag_run`. Manual runs have no data interval: `run_after` stands in.
        asset_events: The template's `triggering_asset_events`. A run that a load triggered ends, unless its
            Params say otherwise, with the newest day that the tenant then had in the log: a load of long ago
            must not put a model of old data in the place of a newer one.
        window_days: Length of the default window in days.
    """
    moment = getattr(dag_run, "data_interval_end", None) or getattr(dag_run, "run_after", None)
    if not isinstance(moment, datetime):
        raise SettingsError("The run has neither a data interval nor a run_after moment.")
    start, end = (params.get(name) for name in ("start_date", "end_date"))
    if newest := _newest_days(asset_events):
        moment = datetime.combine(max(newest) + timedelta(days=1), time(), UTC)
    return resolve_window(str(start) if start else None, str(end) if end else None, moment, window_days)


def _newest_days(asset_events: AssetEvents) -> list[date]:
    """Reads what loads said of themselves; an event that somebody made by hand says nothing."""
    extras = [event.extra or {} for events in asset_events.values() for event in events]
    return [
        _parse("newest_event_date", str(extra["newest_event_date"]))
        for extra in extras
        if "newest_event_date" in extra
    ]

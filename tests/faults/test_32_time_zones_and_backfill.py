"""Daylight saving, time zones and a backfill of a past interval: the same window, ids and data, whenever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from airflow.timetables.trigger import CronTriggerTimetable

from include.operators.export_snapshot import identity
from include.snapshots import snapshot_id
from include.warehouse.unload import UnloadRequest, queries
from include.window import Window, resolve_window, window_of_run
from tests.dbt.marts import build, marts
from tests.shops import TENANT, event, land, open_file, write_source

LAST_SUNDAY = datetime(2026, 3, 29, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
INTERVAL = ("2026-03-23", "2026-03-30")
ELSEWHERE = """if True:
    import json, sys, time
    from pathlib import Path
    from tests.faults.test_32_time_zones_and_backfill import replay
    assert time.localtime(1774746000).tm_hour != 1, "the machine's own zone still holds"
    print("found", json.dumps(replay(Path(sys.argv[1]))))
"""


def moment(day: int, hour: int, minute: int = 0) -> int:
    return int((LAST_SUNDAY + timedelta(days=day, hours=hour, minutes=minute)).timestamp() * 1000)


def log() -> list[str]:
    """Sessions around each of Berlin's and UTC's midnights, and through the hour that Berlin skips."""
    lines = []
    for day in range(-6, 1):
        for hour in (0, 1, 2, 12, 21, 22, 23):
            for minute in (5, 55):
                session = f"{day} {hour} {minute}"
                lines += [
                    event(session, sku, moment(day, hour, minute) + n * 180_000)
                    for n, sku in enumerate(("a", f"p{hour}", "b"))
                ]
    return lines


def snapshot_of(path: Path) -> dict[str, Any]:
    """Name and rows of the interval's snapshot."""
    request = UnloadRequest.parse(TENANT, *INTERVAL, None)
    with open_file(path) as warehouse, warehouse.transaction():
        selection = warehouse.select(request)
        selected = {name: warehouse.execute(query) for name, query in queries(warehouse.dialect).items()}
    assert selection.sessions > 90
    return {"id": snapshot_id(identity(request, selection, "")), "rows": str(selected)}


def replay(folder: Path) -> dict[str, Any]:
    """Loads, transforms and selects the week that ends with the last Sunday of March."""
    path = folder / "w.duckdb"
    land(path, write_source(folder / "in", log(), products=["a,,c,,1.0"]))
    build(path, folder / "target")
    return {"marts": str(marts(path)), **snapshot_of(path)}


def test_machines_in_other_time_zones_make_the_same_snapshot_and_so_does_a_later_backfill(
    root: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "berlin")]
    environment = os.environ | {"TZ": "Europe/Berlin", "PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as elsewhere:
        here = replay(tmp_path / "here")
        told, _ = elsewhere.communicate(timeout=300)
    [found] = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("found ")]
    assert found == here

    # A week later, with the next days in the log and the old file loaded once more.
    path, target = tmp_path / "here" / "w.duckdb", tmp_path / "here" / "target"
    later = [event("later", sku, moment(7, 12) + n) for n, sku in enumerate(("a", "b"))]
    land(path, write_source(tmp_path / "again", [*log(), *later], products=["a,,c,,1.0"]))
    build(path, target)
    assert snapshot_of(path) == {"id": here["id"], "rows": here["rows"]}


def runs(cron: str, zone: str) -> list[Window]:
    """The windows of a week of scheduled runs around the last Sunday of March, as Airflow cuts them."""
    timetable = CronTriggerTimetable(cron, timezone=zone)
    found, end = [], LAST_SUNDAY - timedelta(days=3)
    for _ in range(7):
        interval = timetable.infer_manual_data_interval(run_after=end)
        run = SimpleNamespace(data_interval_end=interval.end, run_after=end)
        found.append(window_of_run({}, run, {}, 7))
        end += timedelta(days=1)
    return found


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland"])
def test_daily_runs_miss_no_day_and_repeat_none_where_clocks_change(zone: str) -> None:
    windows = runs("@daily", zone)
    ends = [datetime.fromisoformat(window.end) for window in windows]
    assert [end - before for before, end in zip(ends, ends[1:], strict=False)] == [timedelta(days=1)] * 6
    for window in windows:
        days = datetime.fromisoformat(window.end) - datetime.fromisoformat(window.start)
        assert days == timedelta(days=7)
    assert runs("@daily", zone) == windows


@pytest.mark.parametrize(("hour", "end"), [(0, "2026-03-28"), (1, "2026-03-29"), (3, "2026-03-29")])
def test_a_moment_in_another_time_zone_counts_by_its_utc_day(hour: int, end: str) -> None:
    """Before and behind the hour that Berlin skips."""
    local = datetime(2026, 3, 29, hour, tzinfo=BERLIN)
    assert resolve_window(None, None, local, 1).end == end
    shifted = local.astimezone(timezone(timedelta(hours=-9)))
    assert resolve_window(None, None, shifted, 1).end == end


def test_a_scheduled_run_uses_its_data_interval_however_late_and_wherever_it_runs() -> None:
    windows = {
        window_of_run(
            {}, SimpleNamespace(data_interval_end=end, run_after=LAST_SUNDAY + timedelta(days=late)), {}, 7
        )
        for late in (1, 9, 400)
        for end in (LAST_SUNDAY, LAST_SUNDAY.astimezone(BERLIN))
    }
    assert windows == {Window("2026-03-22", "2026-03-29")}

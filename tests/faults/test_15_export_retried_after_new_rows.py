"""An export is tried again after new rows arrived: every snapshot holds one state of the marts, never two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include import drift, snapshots
from include.contracts import Snapshot
from include.settings import Settings
from include.warehouse.base import Warehouse
from include.warehouse.dialect import Statement
from include.warehouse.duckdb import DuckDBWarehouse
from tests.operators.exporting import END, START, export, read
from tests.operators.exporting import s3 as s3
from tests.operators.exporting import server as server
from tests.operators.exporting import shop as shop
from tests.shops import open_file, rows

ARRIVE = (
    "insert into shop.sessions select * replace (session_id || '-late' as session_id) "
    "from shop.sessions where session_date < date '2026-01-10'"
)
LEAVE = "delete from shop.sessions where session_date < date '2026-01-10'"


def change(shop: Path, sql: str) -> None:
    with open_file(shop) as warehouse:
        warehouse.execute(Statement(sql))


def sessions_of(shop: Path) -> set[str]:
    """The sessions of the marts that belong into a snapshot."""
    found = rows(
        shop,
        "select session_id from shop.sessions where not is_bot and n_steps >= 2 "
        f"and session_date >= '{START}' and session_date < '{END}'",
    )
    return {session for (session,) in found}


def exported(s3: Any, settings: Settings, snapshot: Snapshot) -> set[str]:
    """The sessions in a snapshot's files, which are whole and as their manifest says."""
    manifest = snapshots.read_manifest(s3, snapshot.uri)
    assert manifest is not None and manifest.claim(snapshot.uri).train_sessions == snapshot.train_sessions
    assert snapshots.problems(s3, snapshot.uri, manifest, deep=True) == []
    found = []
    for file in manifest.files:
        if not file.path.startswith("catalog/"):
            table = read(s3, settings, snapshot, file.path)
            assert table.num_rows == file.rows == manifest.counts[file.path.split("/")[0]]
            found += table.column("session_id").to_pylist()
    assert len(set(found)) == len(found)
    return set(found)


def _before_the_first_file(patch: pytest.MonkeyPatch, die: Callable[..., None]) -> None:
    patch.setattr(Warehouse, "unload", die)


def _between_two_files(patch: pytest.MonkeyPatch, die: Callable[..., None]) -> None:
    copy_to, written = DuckDBWarehouse.copy_to, []

    def copy(warehouse: DuckDBWarehouse, query: Statement, folder_uri: str) -> Any:
        if len(written) == 2:
            die()
        written.append(folder_uri)
        return copy_to(warehouse, query, folder_uri)

    patch.setattr(DuckDBWarehouse, "copy_to", copy)


def _before_the_manifest(patch: pytest.MonkeyPatch, die: Callable[..., None]) -> None:
    patch.setattr(snapshots, "publish", die)


def _after_the_manifest(patch: pytest.MonkeyPatch, die: Callable[..., None]) -> None:
    patch.setattr(drift, "unusual_days", die)


@pytest.mark.parametrize(
    "moment", [_before_the_first_file, _between_two_files, _before_the_manifest, _after_the_manifest]
)
def test_a_retry_after_new_rows_exports_their_state_alone(
    s3: Any, shop: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, moment: Callable[..., None]
) -> None:
    def die(*_: object) -> None:
        raise ConnectionError("killed")

    before = sessions_of(shop)
    with monkeypatch.context() as patch:
        moment(patch, die)
        with pytest.raises(ConnectionError):
            export()
    change(shop, ARRIVE)
    retried = export()

    straddling = snapshots.read_manifest(s3, retried.uri).counts["dropped_straddling"]  # type: ignore[union-attr]
    inside = exported(s3, settings, retried)
    assert inside <= sessions_of(shop) and len(inside) == len(sessions_of(shop)) - straddling
    assert any(session.endswith("-late") for session in inside)
    # What the first try left is a state of its own, or was never finished and is nobody's.
    finished = snapshots.list_snapshots(s3, settings.bucket, settings.prefix)
    others = [manifest.claim(uri) for uri, manifest in finished if uri != retried.uri]
    assert len(others) == (moment is _after_the_manifest)
    for snapshot in others:
        assert exported(s3, settings, snapshot) <= before


@pytest.mark.parametrize("arrivals", [ARRIVE, LEAVE], ids=["more rows", "fewer rows"])
def test_rows_that_change_during_an_export_are_not_in_it(
    s3: Any, shop: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, arrivals: str
) -> None:
    copy_to = DuckDBWarehouse.copy_to

    def with_arrivals(warehouse: DuckDBWarehouse, query: Statement, folder_uri: str) -> Any:
        parts = copy_to(warehouse, query, folder_uri)
        monkeypatch.setattr(DuckDBWarehouse, "copy_to", copy_to)
        change(shop, arrivals)  # after the first file of four
        return parts

    before = sessions_of(shop)
    monkeypatch.setattr(DuckDBWarehouse, "copy_to", with_arrivals)
    during = export()
    assert exported(s3, settings, during) <= before
    assert sessions_of(shop) != before
    assert export().snapshot_id != during.snapshot_id

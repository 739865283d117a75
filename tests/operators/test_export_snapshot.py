from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from include import snapshots
from include.client import Client
from include.contracts import Snapshot
from include.operators.export_snapshot import ExportSnapshotOperator
from include.settings import Settings
from include.warehouse.base import Warehouse
from include.warehouse.dialect import Statement
from tests.operators.exporting import END, START, export, read
from tests.operators.exporting import s3 as s3
from tests.operators.exporting import server as server
from tests.operators.exporting import shop as shop
from tests.shops import open_file


def spoil(s3: Any, settings: Settings, snapshot: Snapshot, damage: str) -> None:
    where = {
        "Bucket": settings.bucket,
        "Key": snapshot.uri.removeprefix(f"s3://{settings.bucket}/") + "train/part-00000.parquet",
    }
    body = bytearray(s3.get_object(**where)["Body"].read())
    body[len(body) // 2] ^= 1
    s3.delete_object(**where) if damage == "gone" else s3.put_object(Body=bytes(body), **where)


def test_an_export_is_whole_and_in_the_agreed_form(s3: Any, shop: Path, settings: Settings) -> None:
    snapshot = export()
    manifest = snapshots.read_manifest(s3, snapshot.uri)
    assert manifest is not None
    assert snapshots.problems(s3, snapshot.uri, manifest, deep=True) == []
    assert manifest.claim(snapshot.uri) == snapshot
    assert {file.path.split("/")[0] for file in manifest.files} == {"train", "validation", "test", "catalog"}
    for file in manifest.files:
        table = read(s3, settings, snapshot, file.path)
        assert table.num_rows == file.rows == manifest.counts[file.path.split("/")[0]]
        if not file.path.startswith("catalog"):
            types = {field.name: str(field.type) for field in table.schema}
            assert types == {
                "session_id": "string",
                "started_at": "timestamp[us]",
                "ended_at": "timestamp[us]",
                "skus": "list<element: string>",
                "actions": "list<element: string>",
                "event_times": "list<element: int64>",
            }
    test_start = manifest.split.test_start
    train = read(s3, settings, snapshot, "train/part-00000.parquet").to_pylist()
    test = read(s3, settings, snapshot, "test/part-00000.parquet").to_pylist()
    assert max(row["ended_at"] for row in train).isoformat() < manifest.split.validation_start
    assert min(row["started_at"] for row in test).isoformat() >= test_start.rstrip("Z")[:19]
    assert len(test) == snapshot.test_sessions


def test_the_same_data_are_exported_once(s3: Any, shop: Path, settings: Settings) -> None:
    first = export()
    written = {e["Key"]: e["LastModified"] for e in s3.list_objects_v2(Bucket=settings.bucket)["Contents"]}
    assert export() == first
    again = {e["Key"]: e["LastModified"] for e in s3.list_objects_v2(Bucket=settings.bucket)["Contents"]}
    assert again == written


def test_other_choices_and_other_data_are_other_snapshots(s3: Any, shop: Path) -> None:
    ids = {export().snapshot_id, export(end="2026-01-20").snapshot_id, export(max_sessions=300).snapshot_id}
    with open_file(shop) as warehouse:
        warehouse.execute(Statement("update shop.sessions set skus = list_reverse(skus) where n_steps = 2"))
    ids.add(export().snapshot_id)
    assert len(ids) == 4


def test_a_killed_try_is_cleared_away_and_finished(
    s3: Any, shop: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise ConnectionError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "publish", killed)
        with pytest.raises(ConnectionError):
            export()
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=settings.bucket)["Contents"]]
    assert keys and not [key for key in keys if key.endswith("manifest.json")]
    stray = keys[0].replace("part-00000", "part-00007")
    s3.put_object(Bucket=settings.bucket, Key=stray, Body=b"half")
    snapshot = export()
    manifest = snapshots.read_manifest(s3, snapshot.uri)
    assert manifest is not None and snapshots.problems(s3, snapshot.uri, manifest, deep=True) == []


@pytest.mark.parametrize("damage", ["gone", "flipped byte"])
def test_a_damaged_snapshot_is_written_anew(s3: Any, shop: Path, settings: Settings, damage: str) -> None:
    snapshot = export()
    spoil(s3, settings, snapshot, damage)
    assert export().snapshot_id == snapshot.snapshot_id
    manifest = snapshots.read_manifest(s3, snapshot.uri)
    assert manifest is not None and snapshots.problems(s3, snapshot.uri, manifest, deep=True) == []


def test_two_exports_of_the_same_content_at_once_end_as_one(
    s3: Any, shop: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second starts and ends while the first is still unloading."""
    unload = Warehouse.unload
    finished: list[Snapshot] = []

    def overtaken(warehouse: Warehouse, uri: str) -> Any:
        monkeypatch.setattr(Warehouse, "unload", unload)
        finished.append(export())
        return unload(warehouse, uri)

    monkeypatch.setattr(Warehouse, "unload", overtaken)
    slow = export()
    assert [slow] == finished
    manifest = snapshots.read_manifest(s3, slow.uri)
    assert manifest is not None and snapshots.problems(s3, slow.uri, manifest, deep=True) == []


def test_an_export_that_was_overtaken_leaves_none_of_its_own_files(
    s3: Any, shop: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Snowflake, whose files are named after the query that wrote them."""
    unload = Warehouse.unload

    def overtaken(warehouse: Warehouse, uri: str) -> Any:
        monkeypatch.setattr(Warehouse, "unload", unload)
        export()
        folder = uri.removeprefix(f"s3://{settings.bucket}/")
        moved = []
        for part in unload(warehouse, uri):
            path = part.uri.removeprefix(uri)
            body = s3.get_object(Bucket=settings.bucket, Key=folder + path)["Body"].read()
            other = path.replace("part-00000", "query-2")
            s3.put_object(Bucket=settings.bucket, Key=folder + other, Body=body)
            moved.append(replace(part, uri=uri + other))
        return moved

    monkeypatch.setattr(Warehouse, "unload", overtaken)
    slow = export()
    manifest = snapshots.read_manifest(s3, slow.uri)
    assert manifest is not None and manifest.claim(slow.uri) == slow
    assert snapshots.problems(s3, slow.uri, manifest, deep=True) == []


def test_a_snapshot_is_used_again_without_a_warehouse(
    s3: Any, shop: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    snapshot = export()
    shop.unlink()
    monkeypatch.delenv(f"AIRFLOW_CONN_{settings.warehouse_conn_id.upper()}")
    assert export("2030-01-01", "2020-01-01", reuse_snapshot=snapshot.snapshot_id) == snapshot


@pytest.mark.parametrize(
    ("name", "tenant", "damage", "said"),
    [
        ("snap-0123456789abcdef", None, None, "There is no snapshot"),
        ("latest", None, None, "no snapshot folder"),
        (None, "another-shop", None, "of tenant 'demo-shop'"),
        (None, None, "gone", "part-00000.parquet is missing"),
        (None, None, "flipped byte", "part-00000.parquet has changed"),
    ],
)
def test_a_snapshot_that_cannot_be_used_again_fails_at_once(
    s3: Any,
    shop: Path,
    settings: Settings,
    name: str | None,
    tenant: str | None,
    damage: str | None,
    said: str,
) -> None:
    snapshot = export()
    if damage:
        spoil(s3, settings, snapshot, damage)
    with pytest.raises(AirflowFailException, match=said):
        export(reuse_snapshot=name or snapshot.snapshot_id, tenant=tenant)


def test_drift_against_the_previous_snapshot_is_written_beside_and_warned_of(
    s3: Any, shop: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    first = export(start="2025-12-31", end="2026-01-20")
    assert (first.previous_snapshot_id, first.drift_uri) == (None, None)
    calm = export()
    assert calm.previous_snapshot_id == first.snapshot_id
    assert calm.drift_uri == (
        f"s3://{settings.bucket}/{settings.prefix}/drift/{calm.snapshot_id}/{first.snapshot_id}.json"
    )
    with open_file(shop) as warehouse:
        warehouse.execute(
            Statement("update shop.sessions set actions = list_transform(actions, lambda x: 'new')")
        )
    with caplog.at_level("WARNING"):
        moved = export()
    assert moved.drift_uri is not None
    body = s3.get_object(Bucket=settings.bucket, Key=moved.drift_uri.split("/", 3)[3])["Body"].read()
    assert json.loads(body)["measures"]["actions"]["level"] == "large"
    # The manifest is a function of content: it knows of no other snapshot.
    manifest = snapshots.read_manifest(s3, moved.uri)
    assert manifest is not None and first.snapshot_id not in manifest.to_bytes().decode()


@pytest.mark.parametrize(
    "trial", [{"start": "2026-01-06"}, {"start": "2025-12-31", "max_sessions": 200}], ids=["days", "sessions"]
)
def test_a_trial_is_no_baseline_of_a_whole_window(
    s3: Any, shop: Path, settings: Settings, trial: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    export(end="2026-01-20", **trial)
    whole = export()
    assert (whole.previous_snapshot_id, whole.drift_uri) == (None, None)
    assert "shift" not in caplog.text


@pytest.mark.parametrize("max_sessions", [None, 200])
def test_a_manifest_says_how_its_sessions_were_chosen(
    s3: Any, shop: Path, settings: Settings, max_sessions: int | None
) -> None:
    manifest = snapshots.read_manifest(s3, export(max_sessions=max_sessions).uri)
    assert manifest is not None
    written = json.loads(manifest.to_bytes())
    assert (written["min_session_length"], written["max_sessions"]) == (2, max_sessions)


def test_a_run_leaves_its_snapshot_where_a_notebook_finds_it(
    s3: Any, shop: Path, settings: Settings, server: str
) -> None:
    operator = ExportSnapshotOperator(task_id="export", start_date=START, end_date=END)
    run_id = "manual__2026-02-01T00:00:00+00:00"
    claim = operator.execute({"run_id": run_id})  # type: ignore[arg-type]
    options = {"region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
    run = Client(endpoint_url=server, **options).run(run_id)
    assert run.snapshot is not None and run.snapshot.id == claim["snapshot_id"]
    assert len(run.snapshot.train.to_pandas()) == claim["train_sessions"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_sessions": 30}, "Widen start_date"),
        ({"start": "2026-01-01' or 1=1 --"}, "start_date must be a day"),
        ({"start": "2026-01-22"}, "before end_date"),
        ({"max_sessions": "lots"}, "whole number"),
    ],
)
def test_what_no_retry_can_mend_fails_at_once(
    s3: Any, shop: Path, settings: Settings, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(AirflowFailException, match=said):
        export(**options)
    assert "Contents" not in s3.list_objects_v2(Bucket=settings.bucket)


def test_a_shop_without_a_catalogue_is_exported_all_the_same(s3: Any, shop: Path, server: str) -> None:
    with open_file(shop) as warehouse:
        warehouse.execute(Statement("delete from shop.products"))
    snapshot = export()
    assert snapshot.products == 0
    options = {"region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
    opened = Client(endpoint_url=server, **options).snapshot(snapshot.snapshot_id)
    assert opened.catalog.to_arrow().num_rows == 0
    assert opened.profile["catalogue"]["interactions_with_category"] == 0


def test_a_warehouse_without_marts_says_what_to_run(s3: Any, shop: Path) -> None:
    with open_file(shop) as warehouse:
        warehouse.execute(Statement("drop table shop.sessions cascade"))
    with pytest.raises(AirflowFailException, match="Run the transform step"):
        export()


def test_the_secret_is_in_no_log_and_no_object(
    s3: Any,
    shop: Path,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level("DEBUG"):
        snapshot = export()
    said = caplog.text + "".join(capfd.readouterr())
    assert "canary" not in said.lower().replace("akiacanary", "")
    manifest = snapshots.read_manifest(s3, snapshot.uri)
    assert manifest is not None and "canary" not in manifest.to_bytes().decode()


def test_a_refused_upload_does_not_show_the_secret(
    s3: Any, shop: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMS_BUCKET", "no-such-bucket-here")
    from include.settings import get_settings

    get_settings.cache_clear()
    with pytest.raises(Exception) as caught:
        export()
    assert "canary" not in str(caught.value).lower()

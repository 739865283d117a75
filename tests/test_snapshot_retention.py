from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from include.contracts import Snapshot
from include.runs import write_record
from include.sagemaker.errors import is_permanent
from include.snapshot_retention import (
    Folder,
    compared_with,
    delete_snapshot,
    find_folders,
    surplus_snapshots,
    used_by_runs,
)
from include.snapshots import MANIFEST, Interval, Manifest, Split, list_files, read_manifest

NOW = datetime(2026, 12, 31, tzinfo=UTC)
BUCKET = "post-modern-stack"


def a_manifest(name: str) -> Manifest:
    return Manifest(
        snapshot_id=name,
        tenant="shop",
        interval=Interval(start="2026-11-01", end="2026-12-01"),
        split=Split(validation_start="2026-11-20T00:00:00Z", test_start="2026-11-25T00:00:00Z"),
        counts={"train": 3, "validation": 0, "test": 0, "catalog": 1},
        files=(),
        sql_sha256="0" * 64,
        dbt_manifest_sha256="1" * 64,
        high_water_mark="3:4/1:2",
        profile={},
    )


def folder(number: int, **changes: Any) -> Folder:
    content: dict[str, Any] = {
        "snapshot_id": f"s{number}",
        "tenant": "shop",
        "end": f"2026-12-{number:02d}",
        "changed": datetime(2026, 12, number, tzinfo=UTC),
        "has_manifest": True,
        **changes,
    }
    return Folder(**content)


FIVE = [folder(number) for number in range(1, 6)]


@pytest.mark.parametrize(
    ("folders", "in_use", "previous", "gone"),
    [
        (FIVE, set(), {}, "s1 s2 s3"),
        (FIVE, {"s1"}, {}, "s2 s3"),
        (FIVE, set(), {"s4": {"s3"}}, "s1 s2"),
        # What only a comparison holds holds nothing further: the chain would keep all for ever.
        (FIVE, set(), {"s4": {"s3"}, "s3": {"s2"}}, "s1 s2"),
        ([*FIVE, folder(9, tenant="other")], set(), {}, "s1 s2 s3"),
        # A backfill of an old interval, exported an hour ago, is in somebody's hands.
        ([folder(1, changed=NOW - timedelta(hours=1)), *FIVE[1:]], set(), {}, "s2 s3"),
        # Half an export, or half a removal: no snapshot.
        ([*FIVE, folder(7, tenant=None, end="", has_manifest=False)], set(), {}, "s1 s2 s3 s7"),
        # Perhaps another release's.
        ([*FIVE, folder(7, tenant=None, end="")], set(), {}, "s1 s2 s3"),
        # Ends alike: the one that was written later is the newer.
        ([folder(n, end="2026-12-01") for n in (3, 1, 2)], set(), {}, "s1"),
        ([], {"s1"}, {}, ""),
    ],
)
def test_what_is_old_and_not_needed_goes(
    folders: list[Folder], in_use: set[str], previous: dict[str, set[str]], gone: str
) -> None:
    assert surplus_snapshots(folders, 2, NOW, in_use, previous) == gone.split()


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket=BUCKET)
        yield client


def put(s3: Any, key: str, body: bytes = b"x") -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


A, B, C = (f"snap-{mark * 16}" for mark in "abc")


def test_folders_are_found_with_and_without_a_manifest(s3: Any) -> None:
    put(s3, f"shop/snapshots/{A}/train/part-0.parquet")
    put(s3, f"shop/snapshots/{A}/{MANIFEST}", a_manifest(A).to_bytes())
    put(s3, f"shop/snapshots/{B}/train/part-0.parquet")
    put(s3, f"shop/snapshots/{C}/{MANIFEST}", b'{"schema_version": 2}')
    put(s3, "shop/snapshots/notes.txt")
    put(s3, f"other/snapshots/{A}/train/part-0.parquet")
    found = {one.snapshot_id: (one.tenant, one.has_manifest) for one in find_folders(s3, BUCKET, "shop")}
    assert found == {A: ("shop", True), B: (None, False), C: (None, True)}


def test_comparisons_and_runs_of_today_are_known(s3: Any, snapshot: Snapshot) -> None:
    put(s3, f"shop/drift/{A}/{B}.json")
    put(s3, f"shop/drift/{A}/{C}.json")
    put(s3, "shop/drift/notes.txt")
    assert compared_with(s3, BUCKET, "shop") == {A: {B, C}}
    write_record(s3, BUCKET, "shop", "run-1", snapshot)
    today = datetime.now(UTC) - timedelta(days=1)
    assert used_by_runs(s3, BUCKET, "shop", today) == {snapshot.snapshot_id}
    assert used_by_runs(s3, BUCKET, "shop", today + timedelta(days=2)) == set()


@pytest.fixture
def snapshot() -> Snapshot:
    return a_manifest(B).claim(f"s3://{BUCKET}/shop/snapshots/{B}/")


def test_a_removal_that_is_killed_leaves_no_snapshot(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"s3://{BUCKET}/shop/snapshots/{A}/"
    put(s3, f"shop/snapshots/{A}/catalog/part-0.parquet")
    put(s3, f"shop/snapshots/{A}/{MANIFEST}", a_manifest(A).to_bytes())
    put(s3, f"shop/snapshots/{A}/train/part-0.parquet")
    put(s3, f"shop/snapshots/{B}/train/part-0.parquet")

    def killed(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "SlowDown", "Message": "no"}}, "DeleteObjects")

    with monkeypatch.context() as until_then, pytest.raises(ClientError):
        until_then.setattr(s3, "delete_objects", killed)
        delete_snapshot(s3, uri)
    assert read_manifest(s3, uri) is None and len(list_files(s3, uri)) == 2
    assert delete_snapshot(s3, uri) == 2
    assert delete_snapshot(s3, uri) == 0
    assert len(list_files(s3, uri.replace(A, B))) == 1


def test_an_object_that_may_not_be_deleted_is_no_matter_of_time(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, f"shop/snapshots/{A}/train/part-0.parquet")
    refused = {"Key": "part-0.parquet", "Code": "AccessDenied", "Message": "Access Denied"}
    monkeypatch.setattr(s3, "delete_objects", lambda **_: {"Errors": [refused]})
    with pytest.raises(ClientError, match=r"part-0\.parquet: Access Denied") as failure:
        delete_snapshot(s3, f"s3://{BUCKET}/shop/snapshots/{A}/")
    assert is_permanent(failure.value)

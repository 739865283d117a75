from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from include import snapshots
from include.contracts import BadInputError, SettingsError
from include.snapshots import Interval, Manifest, Split, snapshot_id, snapshot_uri

URI = "s3://bucket/shop/snapshots/snap-0123456789abcdef/"
KEY = "shop/snapshots/snap-0123456789abcdef/"
OF_LATE = {"min_session_length", "max_sessions"}
ROWS = {"train/part-00000.parquet": 3, "catalog/part-00000.parquet": 1}


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket="bucket")
        yield client


def write(client: Any, *, finish: bool = True) -> Manifest:
    """Writes a snapshot as an export does."""
    for path in ROWS:
        client.put_object(Bucket="bucket", Key=KEY + path, Body=path.encode())
    manifest = Manifest(
        snapshot_id="snap-0123456789abcdef",
        tenant="t",
        interval=Interval(start="2026-01-01", end="2026-02-01"),
        split=Split(validation_start="2026-01-20T00:00:00Z", test_start="2026-01-25T00:00:00Z"),
        counts={"train": 3, "validation": 0, "test": 0, "catalog": 1, "dropped_straddling": 0},
        files=snapshots.describe_files(client, URI, ROWS),
        sql_sha256="0" * 64,
        dbt_manifest_sha256="1" * 64,
        high_water_mark="3:4/1:2",
        profile={"test_unknown_share": 0.1, "nothing": None},
        min_session_length=2,
        max_sessions=None,
    )
    if finish:
        assert snapshots.publish(client, URI, manifest) == manifest
    return manifest


def test_a_name_follows_everything_that_shapes_the_data() -> None:
    identity = {"tenant": "t", "high_water_mark": "1", "max_sessions": None}
    assert snapshot_id(identity) == snapshot_id(dict(reversed(identity.items())))
    assert snapshot_id(identity).startswith("snap-") and len(snapshot_id(identity)) == 21
    for name, value in (("tenant", "u"), ("high_water_mark", "2"), ("max_sessions", 5)):
        assert snapshot_id(identity | {name: value}) != snapshot_id(identity)


def test_the_folder_is_below_bucket_and_prefix() -> None:
    assert snapshot_uri("bucket", "/shop/", "snap-0123456789abcdef") == URI
    assert (
        snapshot_uri("bucket", "", "snap-0123456789abcdef") == "s3://bucket/snapshots/snap-0123456789abcdef/"
    )


@pytest.mark.parametrize(
    ("bucket", "prefix", "name"),
    [
        ("Bucket!", "shop", "snap-0123456789abcdef"),
        ("bucket", "a b", "snap-0123456789abcdef"),
        ("bucket", "../other", "snap-0123456789abcdef"),
        ("bucket", "shop", "latest"),
    ],
)
def test_strange_places_are_refused(bucket: str, prefix: str, name: str) -> None:
    with pytest.raises(SettingsError, match="no snapshot folder"):
        snapshot_uri(bucket, prefix, name)


def test_a_manifest_comes_back_as_it_went(s3: Any) -> None:
    manifest = write(s3)
    assert snapshots.read_manifest(s3, URI) == manifest
    assert manifest.claim(URI).manifest_sha256 == snapshots.read_manifest(s3, URI).claim(URI).manifest_sha256  # type: ignore[union-attr]
    assert snapshots.problems(s3, URI, manifest, deep=True) == []


def test_a_folder_without_manifest_does_not_exist(s3: Any) -> None:
    write(s3, finish=False)
    assert snapshots.read_manifest(s3, URI) is None


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"schema_version": 2}', b"[]"])
def test_a_manifest_that_cannot_be_read_is_none(s3: Any, body: bytes) -> None:
    s3.put_object(Bucket="bucket", Key=KEY + "manifest.json", Body=body)
    assert snapshots.read_manifest(s3, URI) is None


def test_other_faults_than_absence_are_not_swallowed(s3: Any) -> None:
    with pytest.raises(s3.exceptions.NoSuchBucket):
        snapshots.read_manifest(s3, URI.replace("bucket", "nowhere"))


@pytest.mark.parametrize(
    ("path", "body", "deep", "said"),
    [
        ("train/part-00000.parquet", None, False, "train/part-00000.parquet is missing"),
        ("train/part-00001.parquet", b"x", False, "train/part-00001.parquet does not belong here"),
        ("train/part-00000.parquet", b"longer than it was", False, "train/part-00000.parquet has changed"),
        (
            "catalog/part-00000.parquet",
            b"catalog/part-00000.parqueT",
            True,
            "catalog/part-00000.parquet has changed",
        ),
    ],
    ids=["missing", "stray", "other size", "flipped byte"],
)
def test_spoiled_snapshots_are_noticed(s3: Any, path: str, body: bytes | None, deep: bool, said: str) -> None:
    manifest = write(s3)
    if body is None:
        s3.delete_object(Bucket="bucket", Key=KEY + path)
    else:
        s3.put_object(Bucket="bucket", Key=KEY + path, Body=body)
    assert snapshots.problems(s3, URI, manifest, deep=deep) == [said]


def test_strays_go_and_neighbours_stay(s3: Any) -> None:
    manifest = write(s3)
    for key in (KEY + "train/half.parquet", "shop/snapshots/snap-ffffffffffffffff/manifest.json"):
        s3.put_object(Bucket="bucket", Key=key, Body=b"x")
    assert snapshots.remove_strays(s3, URI, set(ROWS)) == 1
    assert snapshots.problems(s3, URI, manifest, deep=True) == []
    assert snapshots.list_files(s3, URI.replace("0123456789abcdef", "f" * 16)) == {"manifest.json": 1}


def test_a_file_that_is_gone_before_the_manifest_stops_the_export(s3: Any) -> None:
    write(s3, finish=False)
    with pytest.raises(OSError, match="validation/part-00000.parquet"):
        snapshots.describe_files(s3, URI, {**ROWS, "validation/part-00000.parquet": 3})


def test_of_two_exports_at_once_the_first_manifest_stands(s3: Any) -> None:
    first = write(s3)
    second = first.model_copy(update={"files": first.files[:1]})
    assert snapshots.publish(s3, URI, second) == first
    assert snapshots.read_manifest(s3, URI) == first


@pytest.mark.parametrize(
    ("code", "kind"), [("ConditionalRequestConflict", OSError), ("AccessDenied", ClientError)]
)
def test_a_manifest_that_s3_does_not_take_is_not_taken_for_anothers(
    s3: Any, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception]
) -> None:
    manifest = write(s3, finish=False)

    def refused(**_: object) -> None:
        raise ClientError({"Error": {"Code": code}}, "PutObject")

    monkeypatch.setattr(s3, "put_object", refused)
    with pytest.raises(kind):
        snapshots.publish(s3, URI, manifest)


@pytest.mark.parametrize("body", [None, b"catalog/part-00000.parqueT"], ids=["file gone", "other bytes"])
def test_a_first_manifest_over_files_that_are_not_its_own_is_replaced(s3: Any, body: bytes | None) -> None:
    first = write(s3)
    path = "catalog/part-00000.parquet"
    if body is None:
        s3.delete_object(Bucket="bucket", Key=KEY + path)
    else:
        s3.put_object(Bucket="bucket", Key=KEY + path, Body=body)
    second = first.model_copy(update={"files": first.files[1:]})
    assert snapshots.publish(s3, URI, second) == second
    assert snapshots.read_manifest(s3, URI) == second


def other(client: Any, digits: str, tenant: str, end: str, days: int = 31, **choices: Any) -> Manifest:
    """Writes a snapshot without files: a name, a tenant, an interval."""
    name = f"snap-{digits * 16}"
    start = date.fromisoformat(end) - timedelta(days)
    manifest = Manifest(
        snapshot_id=name,
        tenant=tenant,
        interval=Interval(start=start.isoformat(), end=end),
        split=Split(validation_start="2025-01-20T00:00:00Z", test_start="2025-01-25T00:00:00Z"),
        counts={"train": 0, "validation": 0, "test": 0, "catalog": 0, "dropped_straddling": 0},
        files=(),
        sql_sha256="0" * 64,
        dbt_manifest_sha256="1" * 64,
        high_water_mark=digits,
        profile={},
        **{"min_session_length": 2, "max_sessions": None, **choices},
    )
    snapshots.publish(client, snapshot_uri("bucket", "shop", name), manifest)
    return manifest


def test_the_previous_snapshot_is_the_tenants_that_ends_latest_before(s3: Any) -> None:
    wanted = other(s3, "b", "t", "2026-01-31")
    other(s3, "a", "t", "2026-01-31")
    other(s3, "c", "t", "2026-01-30")
    other(s3, "d", "t", "2026-02-01")  # ends with it
    other(s3, "e", "u", "2026-01-31")  # somebody else's
    s3.put_object(Bucket="bucket", Key="shop/snapshots/snap-" + "f" * 16 + "/train/x", Body=b"unfinished")
    s3.put_object(Bucket="bucket", Key="shop/snapshots/notes/manifest.json", Body=b"{}")
    manifest = write(s3)
    every = snapshots.list_snapshots(s3, "bucket", "shop")
    assert [found.snapshot_id[-1] for _, found in every] == ["c", "a", "b", "e", "f", "d"]
    assert snapshots.previous_of(manifest, every) == wanted
    assert snapshots.previous_of(every[0][1], every) is None


@pytest.mark.parametrize(
    "choices",
    [{"days": 5}, {"days": 32}, {"max_sessions": 100}, {"min_session_length": 3}],
    ids=["short window", "long window", "sample", "long sessions"],
)
def test_a_trial_is_not_the_previous_snapshot_of_a_whole_window(s3: Any, choices: dict[str, int]) -> None:
    wanted = other(s3, "a", "t", "2026-01-30")
    trial = other(s3, "b", "t", "2026-01-31", **choices)
    every = snapshots.list_snapshots(s3, "bucket", "shop")
    assert snapshots.previous_of(write(s3), every) == wanted
    assert snapshots.previous_of(trial, every) is None


def test_an_older_manifest_opens_with_its_digest_and_is_compared_with_none(s3: Any) -> None:
    fields = json.loads(write(s3, finish=False).to_bytes())
    older = {name: value for name, value in fields.items() if name not in OF_LATE}
    body = json.dumps(older, sort_keys=True, indent=2).encode() + b"\n"
    s3.put_object(Bucket="bucket", Key=KEY + "manifest.json", Body=body)
    manifest = snapshots.read_manifest(s3, URI)
    assert manifest is not None and manifest.to_bytes() == body
    assert manifest.claim(URI).manifest_sha256 == hashlib.sha256(body).hexdigest()
    earlier = manifest.model_copy(update={"interval": Interval(start="2025-12-01", end="2026-01-01")})
    assert snapshots.previous_of(manifest, [(URI, earlier)]) is None
    later = manifest.model_copy(update={"min_session_length": 2, "max_sessions": None})
    assert snapshots.previous_of(later, [(URI, earlier)]) is None


@pytest.mark.parametrize(
    ("spoil", "tenant", "said"),
    [
        ("manifest.json", "t", "There is no snapshot"),
        (None, "u", "of tenant 't'"),
        ("train/part-00000.parquet", "t", "damaged .train/part-00000.parquet has changed"),
    ],
    ids=["no manifest", "another tenant", "flipped byte"],
)
def test_a_snapshot_that_cannot_be_used_again(s3: Any, spoil: str | None, tenant: str, said: str) -> None:
    write(s3)
    if spoil:
        s3.put_object(Bucket="bucket", Key=KEY + spoil, Body=b"train/part-00000.parqueT")
    with pytest.raises(BadInputError, match=said):
        snapshots.open_snapshot(s3, URI, tenant, deep=True)


def test_the_dbt_digest_follows_models_and_macros_alone(tmp_path: Path, root: Path) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(root / "include" / "dbt", project, ignore=shutil.ignore_patterns("target", "logs"))
    before = snapshots.dbt_sha256(project)
    assert before == snapshots.dbt_sha256(root / "include" / "dbt")
    (project / "target").mkdir()
    (project / "target" / "manifest.json").write_text("{}")
    (project / "profiles.yml").write_text("")
    assert snapshots.dbt_sha256(project) == before
    with (project / "models" / "marts" / "sessions.sql").open("a") as file:
        file.write("-- changed\n")
    assert snapshots.dbt_sha256(project) != before

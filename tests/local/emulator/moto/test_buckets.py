"""What may go wrong between moto's S3 and its files; most of what goes right is in test_restart."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from include.local.emulator.moto import buckets
from include.local.emulator.moto.key_records import FileValue
from include.local.emulator.server import Emulator
from tests.local.cloud import BUCKET, Cloud, clients_of

STACK = {"Resources": {"Box": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "stack-bucket"}}}}


@contextmanager
def running(state: Path) -> Iterator[Cloud]:
    with Emulator(state, sys.executable) as emulator:
        yield Cloud(emulator.url, state, clients_of(emulator.url))


def _body(cloud: Cloud, key: str) -> bytes:
    body: bytes = cloud.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return body


def test_the_bytes_of_a_record_that_cannot_be_read_stay(tmp_path: Path) -> None:
    with running(tmp_path) as cloud:
        cloud.s3.create_bucket(Bucket=BUCKET)
        cloud.put("k", b"precious")
    place = tmp_path / "s3" / BUCKET
    (record,) = (place / "keys").iterdir()
    good = record.read_bytes()
    record.write_bytes(b"of another version")
    with running(tmp_path) as cloud:
        assert "Contents" not in cloud.s3.list_objects_v2(Bucket=BUCKET)
    with running(tmp_path):
        pass
    record.with_name(f"{record.name}.corrupt").unlink()
    record.write_bytes(good)
    with running(tmp_path) as cloud:
        assert _body(cloud, "k") == b"precious"


def test_records_hold_none_of_motos_classes(tmp_path: Path) -> None:
    with running(tmp_path) as cloud:
        cloud.s3.create_bucket(Bucket=BUCKET)
        cloud.s3.put_object(Bucket=BUCKET, Key="k", Body=b"x", ACL="public-read", Metadata={"a": "b"})
        acl = cloud.s3.get_object_acl(Bucket=BUCKET, Key="k")["Grants"]
    (record,) = (tmp_path / "s3" / BUCKET / "keys").iterdir()
    assert json.loads(record.read_bytes())["name"] == "k"
    with running(tmp_path) as cloud:
        assert cloud.s3.get_object_acl(Bucket=BUCKET, Key="k")["Grants"] == acl
        assert cloud.s3.head_object(Bucket=BUCKET, Key="k")["Metadata"] == {"a": "b"}


@pytest.mark.parametrize("content", [b"\x80of another version", None])
def test_a_bucket_whose_settings_cannot_be_read_keeps_its_objects(
    tmp_path: Path, content: bytes | None
) -> None:
    with running(tmp_path) as cloud:
        cloud.s3.create_bucket(Bucket=BUCKET)
        cloud.put("k", b"precious")
    path = tmp_path / "s3" / BUCKET / "bucket"
    path.write_bytes(content or json.dumps({**json.loads(path.read_bytes()), "settings": "AAAA"}).encode())
    for _ in range(2):
        with running(tmp_path) as cloud:
            assert _body(cloud, "k") == b"precious"
    assert path.with_name("bucket.corrupt").exists()


def test_an_object_can_be_read_and_written_at_once(tmp_path: Path) -> None:
    wanted = {bytes([n]) * 300_000 for n in range(4)}
    with running(tmp_path) as cloud, ThreadPoolExecutor(8) as pool:
        cloud.s3.create_bucket(Bucket=BUCKET)
        cloud.put("k", min(wanted))
        writes = [pool.submit(cloud.put, "k", body) for body in wanted for _ in range(10)]
        reads = [pool.submit(_body, cloud, "k") for _ in range(60)]
        copies = [
            pool.submit(
                cloud.s3.copy_object, Bucket=BUCKET, Key=f"c{n}", CopySource={"Bucket": BUCKET, "Key": "k"}
            )
            for n in range(20)
        ]
        for each in (*writes, *copies):
            each.result()
        assert {read.result() for read in reads} <= wanted
        assert len(list((tmp_path / "s3" / BUCKET / "data").iterdir())) == 21


def test_threads_that_read_a_file_do_not_move_each_other(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    value = FileValue(tmp_path / "f", 2, 6)
    value.seek(0)
    other = threading.Thread(target=value.read)
    other.start()
    other.join()
    assert (value.read(2), value.read()) == (b"23", b"4567")


def test_a_stack_that_was_told_of_has_its_bucket_however_the_emulator_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = buckets.Buckets.settings_written

    def killed(self: buckets.Buckets) -> None:
        if killed_at is not None:
            shutil.copytree(tmp_path / "state", killed_at, dirs_exist_ok=True)
        written(self)

    (tmp_path / "state").mkdir()
    killed_at: Path | None = None
    monkeypatch.setattr(buckets.Buckets, "settings_written", killed)
    with running(tmp_path / "state") as cloud:
        killed_at = tmp_path / "killed"
        cloud.client("cloudformation").create_stack(StackName="s", TemplateBody=json.dumps(STACK))
    killed_at = None
    with running(tmp_path / "killed") as cloud:
        _same(cloud)
    with running(tmp_path / "state") as cloud:
        _same(cloud, 1)
        cloud.s3.delete_bucket(Bucket="stack-bucket")
    with running(tmp_path / "state") as cloud:
        assert cloud.s3.list_buckets()["Buckets"] == []


def _same(cloud: Cloud, count: int = 0) -> None:
    """Stack and bucket are there both, or neither is."""
    stacks: list[Any] = cloud.client("cloudformation").describe_stacks()["Stacks"]
    assert len(stacks) == len(cloud.s3.list_buckets()["Buckets"]) == count


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    with running(tmp_path) as cloud:
        cloud.s3.create_bucket(Bucket=BUCKET)
        cloud.put("k", b"x")
        cloud.model("ok")
    drafts = [
        tmp_path / "s3" / BUCKET / "bucket.1.part",
        tmp_path / "s3" / BUCKET / "keys" / "a.1.part",
        tmp_path / "sagemaker" / "model" / "us-east-1" / "m.json.1.part",
    ]
    for draft in drafts:
        draft.write_bytes(b"half")
    with running(tmp_path):
        assert not any(draft.exists() for draft in drafts)

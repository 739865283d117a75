"""What is kept of moto's services by doing it again, and what is not."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from include.local import aws_template
from include.local.emulator.endpoints.alarms import _ours
from include.local.emulator.machine.persistence import append_line
from include.local.emulator.server import Emulator
from include.settings import Settings
from tests.local.cloud import BUCKET, Cloud, clients_of


@contextmanager
def running(state: Path) -> Iterator[Cloud]:
    with Emulator(state, sys.executable) as emulator:
        yield Cloud(emulator.url, state, clients_of(emulator.url))


def _journal(state: Path) -> bytes:
    path = state / "journal.jsonl"
    return path.read_bytes() if path.exists() else b""


def test_ids_are_the_same_though_s3_was_used_meanwhile(tmp_path: Path) -> None:
    def ids(cloud: Cloud) -> dict[str, str]:
        return {user["UserName"]: user["UserId"] for user in cloud.client("iam").list_users()["Users"]}

    with running(tmp_path) as cloud, ThreadPoolExecutor(4) as pool:
        cloud.s3.create_bucket(Bucket=BUCKET)
        cloud.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        puts = [pool.submit(cloud.put, f"k{n}", b"x") for n in range(200)]
        for number in range(20):
            cloud.client("iam").create_user(UserName=f"u{number}")
        for put in puts:
            put.result()
        told = ids(cloud)
    with running(tmp_path) as cloud:
        assert ids(cloud) == told


def test_what_acts_outside_or_is_secret_is_not_kept(tmp_path: Path) -> None:
    with running(tmp_path) as cloud:
        topic = cloud.client("sns").create_topic(Name="t")["TopicArn"]
        key = cloud.client("kms").create_key()["KeyMetadata"]["KeyId"]
        cloud.client("iam").create_user(UserName="u")
        before = _journal(tmp_path)
        cloud.client("sns").publish(TopicArn=topic, Message="open sesame")
        cloud.client("kms").encrypt(KeyId=key, Plaintext=b"open sesame")
        cloud.client("iam").create_login_profile(UserName="u", Password="open sesame")
        cloud.client("secretsmanager").create_secret(Name="s", SecretString="open sesame")
        assert _journal(tmp_path) == before
        assert oct(os.stat(tmp_path / "journal.jsonl").st_mode & 0o777) == "0o600"
    with running(tmp_path) as cloud:
        assert cloud.client("sns").list_topics()["Topics"] == [{"TopicArn": topic}]
        assert cloud.client("kms").describe_key(KeyId=key)["KeyMetadata"]["KeyId"] == key


def test_what_an_older_version_kept_is_dropped(tmp_path: Path) -> None:
    with running(tmp_path) as cloud:
        cloud.client("iam").create_user(UserName="u")
    good = _journal(tmp_path)
    entry = json.loads(good)
    entry["environ"]["HTTP_AUTHORIZATION"] = entry["environ"]["HTTP_AUTHORIZATION"].replace("/iam/", "/sqs/")
    (tmp_path / "journal.jsonl").write_bytes(json.dumps(entry).encode() + b"\n" + good)
    with running(tmp_path) as cloud:
        assert len(cloud.client("iam").list_users()["Users"]) == 1
    assert _journal(tmp_path) == good
    assert not list(tmp_path.glob("*.corrupt"))


def test_log_lines_are_in_files_of_their_own_and_go_with_their_stream(tmp_path: Path) -> None:
    where: dict[str, Any] = {"logGroupName": "/a/b", "logStreamName": "c/d"}

    def lines(cloud: Cloud) -> list[str]:
        return [each["message"] for each in cloud.client("logs").get_log_events(**where)["events"]]

    with running(tmp_path) as cloud:
        logs = cloud.client("logs")
        for group in ("/a/b", "gone"):
            logs.create_log_group(logGroupName=group)
            logs.create_log_stream(logGroupName=group, logStreamName="c/d")
        kept = _journal(tmp_path)
        for number in range(3):
            event = {"timestamp": int(time.time() * 1000), "message": f"line {number}"}
            logs.put_log_events(**where, logEvents=[event])
        logs.create_log_stream(logGroupName="/a/b", logStreamName="other")
        logs.delete_log_stream(logGroupName="/a/b", logStreamName="other")
        assert _journal(tmp_path) == kept
        logs.delete_log_group(logGroupName="gone")
        (path,) = (tmp_path / "logs").rglob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'[{"timest')  # a kill
    for _ in range(2):
        with running(tmp_path) as cloud:
            assert lines(cloud) == [f"line {number}" for number in range(3)]
            streams = cloud.client("logs").describe_log_streams(logGroupName="/a/b")["logStreams"]
            assert [stream["logStreamName"] for stream in streams] == ["c/d"]


def test_a_job_that_is_deleted_takes_its_lines_along(tmp_path: Path) -> None:
    with running(tmp_path) as cloud:
        cloud.s3.create_bucket(Bucket=BUCKET)
        job = cloud.run_job("print('hello')")["TrainingJobName"]
        assert list((tmp_path / "logs").rglob("*.jsonl"))
        cloud.sagemaker.delete_training_job(TrainingJobName=job)
        assert not list((tmp_path / "logs").rglob("*.jsonl"))


def test_a_stack_that_is_up_to_date_is_not_updated_again(tmp_path: Path) -> None:
    given = aws_template.parameters(Settings())
    with running(tmp_path) as cloud:
        first = aws_template.deploy(cloud.url, given)
        kept = _journal(tmp_path)
        assert aws_template.deploy(cloud.url, given) == first
        assert _journal(tmp_path) == kept
        aws_template.deploy(cloud.url, {**given, "EndpointName": "another"})
        assert len(_journal(tmp_path)) > len(kept)


def test_a_line_that_finds_no_room_leaves_no_half(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, b"first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            append_line(path, b"second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    append_line(path, b"third")
    assert path.read_bytes() == b"first\nthird\n"


@pytest.mark.parametrize("data", ["by hand", "[1]", '"text"', ""])
def test_an_alarm_may_have_any_reason(data: str) -> None:
    assert not _ours({"StateReasonData": data})

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from include.sagemaker.logs import JobLog
from include.sagemaker.training import LOG_GROUP


@pytest.fixture
def client() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("logs", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


def write(client: Any, stream: str, *messages: str) -> None:
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": message} for message in messages]
    client.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)


def test_lines_are_handed_out_once(client: Any) -> None:
    log = JobLog(client, "pms-x", keep=2)
    assert log.new_lines() == []
    client.create_log_group(logGroupName=LOG_GROUP)
    assert log.new_lines() == []
    client.create_log_stream(logGroupName=LOG_GROUP, logStreamName="pms-x/algo-1")
    write(client, "pms-x/algo-1", "one", "two")
    assert log.new_lines() == ["one", "two"]
    assert log.new_lines() == []
    write(client, "pms-x/algo-1", "three")
    assert log.new_lines() == ["three"]
    assert log.last_lines == ("two", "three")
    assert log.trouble == ""


def test_every_instance_and_every_restart_has_a_stream(client: Any) -> None:
    client.create_log_group(logGroupName=LOG_GROUP)
    log = JobLog(client, "pms-x")
    for stream in ("pms-x/algo-1-1", "pms-x/algo-2-1", "pms-x/algo-1-2"):
        client.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
        write(client, stream, f"from {stream}")
        assert log.new_lines() == [f"from {stream}"]


def test_another_reader_goes_on_where_the_first_stopped(client: Any) -> None:
    client.create_log_group(logGroupName=LOG_GROUP)
    client.create_log_stream(logGroupName=LOG_GROUP, logStreamName="pms-x/algo-1")
    write(client, "pms-x/algo-1", "one")
    first = JobLog(client, "pms-x")
    assert first.new_lines() == ["one"]
    write(client, "pms-x/algo-1", "two")
    assert JobLog(client, "pms-x", place=json.loads(json.dumps(first.place))).new_lines() == ["two"]


def test_log_of_the_next_attempt_is_another_log(client: Any) -> None:
    client.create_log_group(logGroupName=LOG_GROUP)
    client.create_log_stream(logGroupName=LOG_GROUP, logStreamName="pms-x-2/algo-1")
    write(client, "pms-x-2/algo-1", "not ours")
    assert JobLog(client, "pms-x").new_lines() == []


def test_forbidden_log_is_trouble_but_no_failure() -> None:
    client: Any = boto3.client("logs", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        stub.add_client_error("describe_log_streams", "AccessDeniedException", "not allowed")
        log = JobLog(client, "pms-x")
        assert log.new_lines() == []
        assert "not allowed" in log.trouble

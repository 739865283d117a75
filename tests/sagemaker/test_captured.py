from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws

from include.sagemaker.captured import Exchange, compare, parse_line, read_exchanges

START = datetime(2024, 11, 30, 9, 59, 30, tzinfo=UTC)
END = START + timedelta(minutes=2)


def line(
    asked: str = "a", skus: Any = ("x", "y"), at: datetime = START, encoding: str = "JSON", **event: Any
) -> bytes:
    told = json.dumps({"predictions": [{"skus": list(skus)}]})
    parts = {"endpointInput": asked, "endpointOutput": told}
    if encoding == "BASE64":
        parts = {name: base64.b64encode(data.encode()).decode() for name, data in parts.items()}
    return json.dumps(
        {
            "captureData": {name: {"data": data, "encoding": encoding} for name, data in parts.items()},
            "eventMetadata": {"eventId": "1", "inferenceTime": f"{at:%Y-%m-%dT%H:%M:%SZ}", **event},
            "eventVersion": "0",
        }
    ).encode()


def exchange(asked: str, *answers: str) -> Exchange:
    return Exchange(asked, tuple(tuple(answer) for answer in answers))


@pytest.mark.parametrize("encoding", ["JSON", "BASE64"])
def test_a_captured_line_is_read_however_it_is_encoded(encoding: str) -> None:
    found = parse_line(line(encoding=encoding), START, END)
    assert found is not None
    assert found == parse_line(line(), START, END)
    assert found.answers == (("x", "y"),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b'{"captureData": {}}',
        line(at=START - timedelta(seconds=1)),
        line(at=END + timedelta(seconds=1)),
        line().replace(b"predictions", b"error"),
        line(inferenceTime="yesterday"),
        line(encoding="BASE64").replace(b'"data": "', b'"data": "A'),
    ],
)
def test_what_is_no_prediction_of_that_time_is_left_out(content: bytes) -> None:
    assert parse_line(content, START, END) is None


def test_answers_to_the_same_request_are_compared() -> None:
    live = [exchange("one", "abcd"), exchange("two", "ab", "cd"), exchange("live alone", "z")]
    challenger = [exchange("two", "ab", "dx"), exchange("one", "aBCD"), exchange("lost", "z")]
    found = compare(live, challenger)
    assert (found.pairs, found.compared) == (2, 3)
    assert found.overlap == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert found.same_first == pytest.approx(2 / 3)


def test_a_request_is_one_pair_for_each_time_it_was_sent() -> None:
    assert compare([exchange("one", "a")] * 3, [exchange("one", "a")] * 2).pairs == 2


def test_nothing_captured_is_nothing_compared() -> None:
    found = compare([], [exchange("one", "a")])
    assert (found.pairs, found.compared, found.overlap, found.same_first) == (0, 0, None, None)


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket="shop")
        yield client


def test_files_of_every_hour_of_the_test_are_read_and_no_others(s3: Any) -> None:
    later = START + timedelta(minutes=1)
    for key, body in {
        "c/e/Shadow/2024/11/30/09/59-30-1.jsonl": line("one") + b"\n" + line("two") + b"\n",
        "c/e/Shadow/2024/11/30/10/00-30-2.jsonl": line("three", at=later) + b"\ngarbage\n",
        "c/e/Shadow/2024/11/30/08/59-30-0.jsonl": line("of another hour"),
        "c/e/AllTraffic/2024/11/30/09/59-30-3.jsonl": line("of another variant"),
    }.items():
        s3.put_object(Bucket="shop", Key=key, Body=body)
    found = list(read_exchanges(s3, "s3://shop/c/e/Shadow", START, END))
    assert len(found) == len({one.asked for one in found}) == 3
    assert len(list(read_exchanges(s3, "s3://shop/c/e/Shadow", START, END, most=2))) == 2


def test_requests_of_many_sessions_are_fewer(s3: Any) -> None:
    told = json.loads(line())
    told["captureData"]["endpointOutput"]["data"] = json.dumps({"predictions": [{"skus": ["x"]}] * 3})
    of_three = json.dumps(told).encode()
    s3.put_object(Bucket="shop", Key="c/e/Shadow/2024/11/30/09/1.jsonl", Body=b"\n".join([of_three] * 5))
    found = list(read_exchanges(s3, "s3://shop/c/e/Shadow", START, END, most=6))
    assert [len(one.answers) for one in found] == [3, 3]

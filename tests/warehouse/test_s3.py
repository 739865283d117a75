"""Sources on S3, in this process: streamed by range, pinned to one state, and never copied to disk."""

from __future__ import annotations

import gzip
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError, ResponseStreamingError
from botocore.response import StreamingBody
from moto import mock_aws

from include.contracts import BadInputError
from include.local.shop import EVENT_HEADER
from include.warehouse import s3 as room
from include.warehouse.loading import etl_id_of, find_source
from tests.shops import T0, TENANT, event, open_file, rows

BUCKET = "landing"
LINES = [event(session=f"{n:064x}", moment=T0 + n) for n in range(3000)]
CONTENT = "\n".join([EVENT_HEADER, *LINES, ""]).encode()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client with a bucket that holds one source; parts are small, and nobody waits."""
    monkeypatch.setattr(room, "_FIRST_PART_BYTES", 10_000)
    monkeypatch.setattr(room, "_PART_BYTES", 40_000)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="shop/browsing.csv", Body=CONTENT)
        yield client


class Wire:
    """Stands before a client's `get_object` and notes, or breaks, what goes through."""

    def __init__(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_watching = False
        self.ranges: list[str] = []
        self.breaks: dict[int, Exception] = {}
        self.before: dict[int, Any] = {}
        real = client.get_object

        def get_object(**request: Any) -> Any:
            if not self.is_watching:
                return real(**request)
            self.ranges.append(request["Range"])
            number = len(self.ranges)
            if number in self.before:
                self.before[number]()
            answer = real(**request)
            if number in self.breaks:
                answer["Body"] = Broken(self.breaks[number])
            return answer

        monkeypatch.setattr(client, "get_object", get_object)

    def watch(self) -> None:
        """From here on requests count; those for the header are through."""
        self.is_watching = True
        self.ranges.clear()


class Broken:
    """A body whose connection breaks."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self) -> bytes:
        raise self.error


@pytest.fixture
def wire(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(s3, monkeypatch)


RESET = ResponseStreamingError(error="Connection reset by peer")


def load(path: Path, s3: Any, uri: str = f"s3://{BUCKET}/shop", wire: Wire | None = None) -> Any:
    source = find_source(uri, s3)
    if wire:
        wire.watch()
    with open_file(path) as warehouse:
        return warehouse.land(source, tenant=TENANT)


@pytest.mark.parametrize("uri", [f"s3://{BUCKET}/shop", f"s3://{BUCKET}/shop/"])
def test_a_prefix_is_read_as_a_folder_is(tmp_path: Path, s3: Any, uri: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="shop/sku_to_content.csv.gz", Body=gzip.compress(
        b"product_sku_hash,description_vector,category_hash,image_vector,price_bucket\na,,,,1\n"
    ))  # fmt: skip
    s3.put_object(Bucket=BUCKET, Key="shop/older/browsing.csv.gz", Body=b"not directly under the prefix")
    s3.put_object(Bucket=BUCKET, Key="shopping/browsing_train.csv", Body=b"another prefix")
    report = load(tmp_path / "w.duckdb", s3, uri)
    assert (report.events_landed, report.products_landed, report.source) == (3000, 1, uri)
    assert load(tmp_path / "w.duckdb", s3, uri).already_loaded


@pytest.mark.parametrize("packed", [False, True])
def test_objects_are_read_once_in_small_ranges(tmp_path: Path, s3: Any, wire: Wire, packed: bool) -> None:
    body = gzip.compress(CONTENT, 1) if packed else CONTENT
    if packed:
        s3.delete_object(Bucket=BUCKET, Key="shop/browsing.csv")
        s3.put_object(Bucket=BUCKET, Key="shop/browsing.csv.gz", Body=body)
    assert load(tmp_path / "w.duckdb", s3, wire=wire).events_landed == 3000
    spans = [tuple(map(int, text.removeprefix("bytes=").split("-"))) for text in wire.ranges]
    assert all(last - first < 40_000 for first, last in spans)
    assert sum(last - first + 1 for first, last in dict.fromkeys(spans)) == len(body)


def test_a_connection_reset_midway_goes_on_with_the_same_range(tmp_path: Path, s3: Any, wire: Wire) -> None:
    wire.breaks = {5: RESET, 6: ReadTimeoutError(endpoint_url="https://s3"), 9: RESET}
    assert load(tmp_path / "w.duckdb", s3, wire=wire).events_landed == 3000
    assert wire.ranges[4] == wire.ranges[5] == wire.ranges[6] != wire.ranges[7]
    assert rows(tmp_path / "w.duckdb", "select count(distinct raw_data) from raw.shopping_events") == [
        (3000,)
    ]


def test_a_connection_that_stays_broken_is_left_to_the_retry(tmp_path: Path, s3: Any, wire: Wire) -> None:
    wire.breaks = dict.fromkeys(range(4, 100), RESET)
    with pytest.raises(ResponseStreamingError):
        load(tmp_path / "w.duckdb", s3, wire=wire)
    assert len(wire.ranges) == 3 + 5
    wire.is_watching = False
    assert rows(tmp_path / "w.duckdb", "select count(*) from raw.loads") == [(0,)]
    wire.breaks = {}
    assert load(tmp_path / "w.duckdb", s3).events_landed == 3000
    assert rows(tmp_path / "w.duckdb", "select count(*) from raw.shopping_events") == [(3000,)]


@pytest.mark.parametrize("gone", [False, True], ids=["replaced", "deleted"])
def test_an_object_that_changes_while_it_is_read_lands_nothing(
    tmp_path: Path, s3: Any, wire: Wire, gone: bool
) -> None:
    def change() -> None:
        if gone:
            s3.delete_object(Bucket=BUCKET, Key="shop/browsing.csv")
        else:
            s3.put_object(Bucket=BUCKET, Key="shop/browsing.csv", Body=CONTENT + b"x\n")

    wire.before = {6: change}
    with pytest.raises(BadInputError, match=r"shop/browsing.csv changed while it was being read"):
        load(tmp_path / "w.duckdb", s3, wire=wire)
    for table in ("shopping_events", "loads", "load_progress"):
        assert rows(tmp_path / "w.duckdb", f"select count(*) from raw.{table}") == [(0,)], table


def test_the_load_id_follows_the_state_of_the_object(s3: Any) -> None:
    def etl_id() -> str:
        return etl_id_of(TENANT, find_source(f"s3://{BUCKET}/shop", s3), None)

    before = etl_id()
    assert etl_id() == before
    s3.put_object(Bucket=BUCKET, Key="shop/browsing.csv", Body=CONTENT + event().encode())
    assert etl_id() != before


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://nowhere/shop", "no bucket 'nowhere'"),
        (f"s3://{BUCKET}/empty", "nothing under s3://landing/empty"),
        (f"s3://{BUCKET}", "nothing|none of browsing.csv"),
        ("s3://", "not an address"),
    ],
)
def test_a_place_without_events_is_bad_input(s3: Any, uri: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        find_source(uri, s3)


def test_a_refusal_of_s3_is_handed_on_as_it_is(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")

    def get_object(**_: Any) -> None:
        raise denied

    monkeypatch.setattr(s3, "get_object", get_object)
    with pytest.raises(ClientError, match="AccessDenied"):
        find_source(f"s3://{BUCKET}/shop", s3)


def test_the_stream_seeks_as_a_file_does(s3: Any) -> None:
    stream = find_source(f"s3://{BUCKET}/shop", s3).browsing.stored.open()
    local = io.BytesIO(CONTENT)
    for offset, size in ((0, 10), (100_000, 50_000), (5, 1), (len(CONTENT) - 3, 10), (len(CONTENT), 1)):
        assert stream.seek(offset) == local.seek(offset)
        assert stream.read(size) == local.read(size)
    assert stream.seek(-4, io.SEEK_END) == len(CONTENT) - 4


def test_a_body_that_ends_early_is_fetched_again(s3: Any, wire: Wire) -> None:
    file = find_source(f"s3://{BUCKET}/shop", s3).browsing.stored
    wire.watch()
    try:
        StreamingBody(io.BytesIO(b"abc"), content_length=100).read()
    except BotoCoreError as cut:
        wire.breaks = {2: cut}
    assert file.open().read() == CONTENT
    assert wire.ranges[1] == wire.ranges[2]

"""What tests of the export share: S3 over HTTP, a transformed shop, and the export itself."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from include.contracts import Snapshot
from include.operators.export_snapshot import ExportSnapshotOperator
from include.settings import Settings
from tests.shops import transformed_shop

START, END = "2026-01-01", "2026-01-21"


SECRET = "canary/Secret'Key"


@contextmanager
def s3_server() -> Iterator[str]:
    """S3 over HTTP; DuckDB does not go through boto3. Yields its address."""
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    _, port = moto.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    moto.stop()


def chosen_s3(address: str, patch: pytest.MonkeyPatch, settings: Settings) -> Any:
    """Makes it the place of the AWS connection, empty but for the bucket; returns a client."""
    extra = {"region_name": "us-east-1", "endpoint_url": address}
    connection = {"conn_type": "aws", "login": "AKIACANARY", "password": SECRET, "extra": extra}
    patch.setenv(f"AIRFLOW_CONN_{settings.aws_conn_id.upper()}", json.dumps(connection))
    client = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    client.create_bucket(Bucket=settings.bucket)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=settings.bucket):
        for entry in page.get("Contents", []):
            client.delete_object(Bucket=settings.bucket, Key=entry["Key"])
    return client


def chosen_warehouse(path: Path, patch: pytest.MonkeyPatch, settings: Settings) -> Path:
    """Makes a DuckDB file the warehouse of the Airflow connection."""
    connection = {"conn_type": "duckdb", "host": str(path)}
    patch.setenv(f"AIRFLOW_CONN_{settings.warehouse_conn_id.upper()}", json.dumps(connection))
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Any:
    return chosen_s3(server, monkeypatch, settings)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Path:
    return chosen_warehouse(transformed_shop(tmp_path), monkeypatch, settings)


def export(start: str = START, end: str = END, **options: Any) -> Snapshot:
    operator = ExportSnapshotOperator(task_id="export", start_date=start, end_date=end, **options)
    return Snapshot.model_validate(json.loads(json.dumps(operator.execute({}))))


def read(s3: Any, settings: Settings, snapshot: Snapshot, path: str) -> Any:
    key = snapshot.uri.removeprefix(f"s3://{settings.bucket}/") + path
    return pq.read_table(io.BytesIO(s3.get_object(Bucket=settings.bucket, Key=key)["Body"].read()))

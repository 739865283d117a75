"""Fault 17: S3 answers 500 or 503, slowly, or not at all.

Each way of the pipeline to S3 bears it for a while, with pauses, and then fails its task with the cause, so
that Airflow tries again later.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.endpoint
import botocore.session
import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import Snapshot
from include.local.airflow_home import airflow_environment
from include.local.places import ROOT
from include.operators import train_model
from include.operators.artefacts import fetch_archive
from include.operators.guard import aws_faults
from include.operators.keep_dbt_artifacts import keep_files
from include.operators.train_model import TrainModelOperator
from include.settings import Settings
from include.warehouse.base import ConnectionInfo, ObjectStorage, WarehouseUnavailableError
from include.warehouse.connect import open_warehouse
from include.warehouse.dialect import Statement
from include.warehouse.duckdb import DuckDBWarehouse
from tests.local.cloud import Cloud
from tests.operators.conftest import LOADER
from tests.operators.conftest import snapshot as snapshot

ATTEMPTS = 5
MANY = 50
BAD = {
    "500": {"code": "InternalError", "status": 500},
    "503": {"code": "SlowDown", "status": 503},
    "dropped": {"code": "drop"},
    "too slow": {"delay_seconds": 0.7},
}
DENIED = {"code": "AccessDenied", "status": 403}


@pytest.fixture(autouse=True)
def s3(cloud: Cloud, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bucket on the emulator, and Airflow's connection to it, which waits half a second for an answer."""
    extra = {"region_name": "us-east-1", "endpoint_url": cloud.url, "config_kwargs": {"read_timeout": 0.5}}
    connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    for name in ("AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"):
        monkeypatch.setenv(name, airflow_environment(0)[name])
    # Reading a service's model anew for every client is most of a test's time.
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)
    cloud.s3.create_bucket(Bucket=settings.bucket)
    return cloud.s3


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """botocore's pauses between the attempts, which nobody waits for here."""
    taken: list[float] = []
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=taken.append, time=time.time))
    return taken


def left(cloud: Cloud) -> int:
    """How often the one rule can still strike."""
    [rule] = cloud.faults()
    times: int = rule["times"]
    return times


def keep(cloud: Cloud, settings: Settings, snapshot: Snapshot) -> None:
    task = SimpleNamespace(run_id="r", task_id="build", try_number=1, xcom_push=lambda **_: None)
    keep_files({"ti": task}, {"run_results.json": b"{}"})  # type: ignore[typeddict-item]


def train(cloud: Cloud, settings: Settings, snapshot: Snapshot) -> None:
    """Ends where SageMaker is asked for a job, before which the code was uploaded."""
    cloud.set_faults("POST", [{"operation": "CreateTrainingJob", "code": "ValidationException"}])
    operator = TrainModelOperator(
        task_id="train",
        snapshot=snapshot.to_xcom(),
        hyperparameters={},
        instance_type="ml.m5.large",
        max_runtime_seconds=60,
    )
    with pytest.raises(AirflowFailException, match="CreateTrainingJob"):
        operator.execute({"run_id": "r"})  # type: ignore[typeddict-item]


def fetch(cloud: Cloud, settings: Settings, snapshot: Snapshot) -> None:
    where = {"Bucket": settings.bucket, "Key": "m/model.tar.gz"}
    if not cloud.s3.list_objects_v2(Bucket=settings.bucket, Prefix="m/")["KeyCount"]:
        cloud.client("s3").put_object(**where, Body=b"an archive")
    with tempfile.TemporaryDirectory() as folder, aws_faults("The gate"):
        uri = f"s3://{settings.bucket}/m/model.tar.gz"
        size = fetch_archive(S3Hook("aws_default"), uri, Path(folder) / "m", lambda archive, to: None)
        assert size == len(b"an archive")


def unload(cloud: Cloud, settings: Settings, snapshot: Snapshot) -> None:
    storage = ObjectStorage("us-east-1", "x", "x", None, cloud.url)
    with open_warehouse(ConnectionInfo("duckdb", host=":memory:"), "shop") as warehouse:
        assert isinstance(warehouse, DuckDBWarehouse)
        warehouse.prepare_unload(storage)
        with aws_faults("Export"):
            warehouse.copy_to(Statement("select 1 as number"), f"s3://{settings.bucket}/snapshots/")


@pytest.fixture
def source(cloud: Cloud, snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, key = snapshot.uri.removeprefix("s3://").split("/", 1)
    cloud.s3.put_object(Bucket=where, Key=f"{key}manifest.json", Body=b"{}")
    (tmp_path / "train.py").write_text(f"print({time.time()})")  # never uploaded before
    monkeypatch.setattr(train_model, "SOURCE", tmp_path)


WAYS = {
    "dbt's files": (keep, "s3:PutObject"),
    "the gate looks for the model": (fetch, "s3:HeadObject"),
    "the gate's download": (fetch, "s3:GetObject"),
}
Way = tuple[Callable[[Cloud, Settings, Snapshot], None], str]
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@ways
@pytest.mark.parametrize("fault", BAD.values(), ids=BAD)
def test_a_short_fault_goes_unnoticed(
    cloud: Cloud,
    settings: Settings,
    snapshot: Snapshot,
    faults: Callable[..., None],
    pauses: list[float],
    way: Way,
    fault: dict[str, Any],
) -> None:
    do, operation = way
    faults({"operation": operation, "times": 2, **fault})
    do(cloud, settings, snapshot)
    assert cloud.faults() == []
    assert len(pauses) == 2


@ways
@pytest.mark.parametrize("fault", [fault for name, fault in BAD.items() if name != "too slow"])
def test_a_lasting_fault_fails_the_task_with_its_cause(
    cloud: Cloud,
    settings: Settings,
    snapshot: Snapshot,
    faults: Callable[..., None],
    pauses: list[float],
    way: Way,
    fault: dict[str, Any],
) -> None:
    do, operation = way
    faults({"operation": operation, "times": MANY, **fault})
    with pytest.raises(AirflowException) as raised:
        do(cloud, settings, snapshot)
    assert not isinstance(raised.value, AirflowFailException)
    assert re.search(
        f"{operation.removeprefix('s3:')}.*({fault['code']}|{fault.get('status')})|Connection was closed",
        str(raised.value),
    )
    assert MANY - left(cloud) == ATTEMPTS
    assert len(pauses) == ATTEMPTS - 1 and max(pauses) > 0


@ways
def test_a_refusal_fails_the_task_at_once(
    cloud: Cloud,
    settings: Settings,
    snapshot: Snapshot,
    faults: Callable[..., None],
    pauses: list[float],
    way: Way,
) -> None:
    do, operation = way
    faults({"operation": operation, "times": MANY, **DENIED})
    with pytest.raises(AirflowFailException, match="Allow"):
        do(cloud, settings, snapshot)
    assert MANY - left(cloud) == 1
    assert pauses == []


@pytest.mark.usefixtures("source")
def test_the_training_code_is_uploaded_through_a_short_fault(
    cloud: Cloud, settings: Settings, snapshot: Snapshot, faults: Callable[..., None]
) -> None:
    faults({"operation": "s3:PutObject", "times": 2, **BAD["503"]})
    train(cloud, settings, snapshot)
    assert cloud.faults() == []
    kept = cloud.s3.list_objects_v2(Bucket=settings.bucket, Prefix=f"{settings.prefix}/code/")
    assert kept["KeyCount"] == 1


@pytest.mark.usefixtures("source")
def test_training_starts_nothing_without_its_code(
    cloud: Cloud, settings: Settings, snapshot: Snapshot, faults: Callable[..., None]
) -> None:
    faults({"operation": "s3:PutObject", "times": MANY, **BAD["500"]})
    with pytest.raises(AirflowException, match=r"PutObject.*InternalError"):
        train(cloud, settings, snapshot)
    assert cloud.sagemaker.list_training_jobs()["TrainingJobSummaries"] == []


@pytest.mark.parametrize("fault", [fault for name, fault in BAD.items() if name != "too slow"])
def test_duckdb_unloads_through_a_short_fault(
    cloud: Cloud,
    settings: Settings,
    snapshot: Snapshot,
    faults: Callable[..., None],
    fault: dict[str, Any],
) -> None:
    faults({"operation": "s3:PutObject", "times": 2, **fault})
    unload(cloud, settings, snapshot)
    assert cloud.faults() == []


def test_duckdb_tells_what_lasts(
    cloud: Cloud, settings: Settings, snapshot: Snapshot, faults: Callable[..., None]
) -> None:
    faults({"operation": "s3:PutObject", "times": MANY, **BAD["503"]})
    with pytest.raises(WarehouseUnavailableError, match=r"part-00000.parquet.*503"):
        unload(cloud, settings, snapshot)
    assert 1 < MANY - left(cloud) <= 2 * ATTEMPTS


def test_duckdb_is_refused_at_once(
    cloud: Cloud, settings: Settings, snapshot: Snapshot, faults: Callable[..., None]
) -> None:
    faults({"operation": "s3:PutObject", "times": MANY, **DENIED})
    with pytest.raises(AirflowFailException, match=r"Allow the AWS connection to write s3://.*403"):
        unload(cloud, settings, snapshot)


def test_an_image_has_the_same_bound() -> None:
    told = (ROOT / "Dockerfile").read_text()
    for name in ("AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"):
        assert f"{name}={airflow_environment(0)[name]} " in told

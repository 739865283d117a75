"""A search, as the DAG's tasks make it: the real train.py in the emulator, and the gate behind it."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException

from include.client import Client
from include.contracts import Snapshot, TrainedModel, Verdict
from include.local.emulator.server import Emulator
from include.operators.gate_model import GateModelOperator
from include.operators.sagemaker_jobs import TuningJob
from include.operators.train_model import TrainModelOperator
from include.sagemaker.tuning import SPACE
from include.settings import get_settings
from tests.operators.deferral import run_to_end

BUCKET, PREFIX = "post-modern-stack", "shop/snapshots/snap-0123456789abcdef/"
COUNTS = {"train": 300, "validation": 60, "test": 60}
OPTIONS = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, ml_python: Path) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("state"), ml_python) as running:
        yield running


@pytest.fixture
def sagemaker(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, ml_python: Path) -> Iterator[Any]:
    told = {"endpoint_url": emulator.url, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "test", "password": "test", "extra": told}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("PMS_POLL_SECONDS", "1")
    monkeypatch.setenv("PMS_ML_PYTHON", str(ml_python))
    get_settings.cache_clear()
    yield boto3.client("sagemaker", endpoint_url=emulator.url, **OPTIONS)  # type: ignore[call-overload]
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def snapshot(emulator: Emulator) -> Snapshot:
    """Sessions that walk one of twelve chains of products, on the emulator's S3."""
    s3 = boto3.client("s3", endpoint_url=emulator.url, **OPTIONS)  # type: ignore[call-overload]
    s3.create_bucket(Bucket=BUCKET)
    chance = random.Random(1)
    files, moment = [], 1_767_225_600_000
    for split, sessions in COUNTS.items():
        chains = [chance.randrange(12) for _ in range(sessions)]
        table = pa.table(
            {
                "session_id": [f"{split}-{number:04d}" for number in range(sessions)],
                "started_at": pa.array(
                    [moment + 60_000 * number for number in range(sessions)], pa.timestamp("ms", "UTC")
                ),
                "skus": [[f"{step}{chain}" for step in "ABCD"] for chain in chains],
            }
        )
        moment += 60_000 * sessions
        sink = io.BytesIO()
        pq.write_table(table, sink)
        path, content = f"{split}/part-0.parquet", sink.getvalue()
        s3.put_object(Bucket=BUCKET, Key=PREFIX + path, Body=content)
        digest = hashlib.sha256(content).hexdigest()
        files.append({"path": path, "rows": sessions, "bytes": len(content), "sha256": digest})
    manifest = {"schema_version": 1, "snapshot_id": "snap-0123456789abcdef", "tenant": "t", "counts": COUNTS}
    body = json.dumps({**manifest, "files": files}).encode()
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}manifest.json", Body=body)
    return Snapshot(
        snapshot_id="snap-0123456789abcdef",
        uri=f"s3://{BUCKET}/{PREFIX}",
        manifest_sha256=hashlib.sha256(body).hexdigest(),
        train_sessions=300,
        validation_sessions=60,
        test_sessions=60,
        products=48,
        start_date="2026-01-01",
        end_date="2026-01-02",
    )


def task(snapshot: Snapshot, epochs: int = 1, **changes: Any) -> TrainModelOperator:
    return TrainModelOperator(
        task_id="train_model",
        snapshot=snapshot.to_xcom(),
        hyperparameters={"architecture": "gru", "epochs": epochs, "max-seconds": 60, "refit": "off"},
        instance_type="ml.m5.large",
        max_runtime_seconds=300,
        tune_trials=3,
        tune_parallel=2,
        **changes,
    )


def train(snapshot: Snapshot) -> TrainedModel:
    return TrainedModel.model_validate(run_to_end(task(snapshot), {"run_id": "run"}))


class Ti:
    """A task without others before it, in its first try."""

    try_number, max_tries = 1, 2

    def xcom_pull(self, *, task_ids: list[str], key: str) -> list[Any]:
        return [None for _ in task_ids]

    def xcom_push(self, key: str, value: Any) -> None:
        json.dumps(value)


def test_the_best_of_three_trials_goes_on_to_the_gate(
    sagemaker: Any, snapshot: Snapshot, emulator: Emulator
) -> None:
    trained = train(snapshot)
    tuning = trained.tuning
    assert tuning is not None and tuning.trials == 3
    assert set(tuning.hyperparameters) == set(SPACE)

    answer = sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=tuning.job_name
    )
    trials = {trial["TrainingJobName"]: trial for trial in answer["TrainingJobSummaries"]}
    scores = {
        name: trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for name, trial in trials.items()
    }
    assert len(scores) == 3
    assert scores[trained.job_name] == max(scores.values()) == tuning.val_mrr > 0.1
    described = sagemaker.describe_training_job(TrainingJobName=trained.job_name)
    assert described["ModelArtifacts"]["S3ModelArtifacts"] == trained.model_uri
    # What the script said, line by line, is what SageMaker was told to look for.
    told = {metric["MetricName"]: metric["Value"] for metric in described["FinalMetricDataList"]}
    assert set(told) == {
        definition["Name"] for definition in described["AlgorithmSpecification"]["MetricDefinitions"]
    }

    # A retry finds the finished search.
    assert train(snapshot) == trained
    [search] = sagemaker.list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"]
    assert search["TrainingJobStatusCounters"]["Completed"] == 3

    with DAG("shop", schedule=None):
        gate = GateModelOperator(
            task_id="gate_model", trained_model=trained.to_xcom(), override_reason="a test's shop is small"
        )
    verdict = Verdict.model_validate(gate.execute({"ti": Ti(), "run_id": "run"}))  # type: ignore[arg-type,typeddict-item]
    assert verdict.approved
    assert verdict.job_name == trained.job_name
    assert verdict.metrics["mrr@20"] > verdict.baselines["popularity"]["mrr@20"]

    run = Client(endpoint_url=emulator.url, **OPTIONS).run("run")
    assert run.model == trained
    assert run.verdict == verdict


def test_a_killed_task_leaves_no_trial_running(
    sagemaker: Any, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = task(snapshot, epochs=50, deferrable=False)
    monkeypatch.setattr(TuningJob, "watch", lambda *_: killed.on_kill())
    with pytest.raises(AirflowException, match="stopped before it had finished"):
        killed.execute({})  # type: ignore[arg-type]
    listed = sagemaker.list_hyper_parameter_tuning_jobs(SortBy="CreationTime", SortOrder="Descending")
    counters = listed["HyperParameterTuningJobSummaries"][0]["TrainingJobStatusCounters"]
    assert counters["InProgress"] == 0
    assert 1 <= counters["Stopped"] <= 2

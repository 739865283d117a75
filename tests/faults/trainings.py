"""A training task whose job runs a script of a few lines, on the emulator."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from include.contracts import Snapshot
from include.operators import train_model
from include.operators.train_model import TrainModelOperator
from include.settings import get_settings
from tests.local.cloud import BUCKET, Cloud, eventually
from tests.operators.conftest import LOADER

# Ends well once a file is there.
WAITS = """
    import os, pathlib, time
    print("epoch=1/2 loss=5.1 val_mrr@20=0.2", flush=True)
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.1)
    pathlib.Path(os.environ["SM_MODEL_DIR"], "behaviour").write_text("well")
    pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"], "evaluation").write_text("well")
"""
Training = Callable[..., TrainModelOperator]


def snapshot_on(cloud: Cloud, name: str) -> Snapshot:
    """A snapshot of which nothing but its manifest is there."""
    cloud.put(f"shop/snapshots/{name}/manifest.json", b"{}")
    return Snapshot(
        snapshot_id=name,
        uri=f"s3://{BUCKET}/shop/snapshots/{name}/",
        manifest_sha256="0" * 64,
        train_sessions=8,
        validation_sessions=1,
        test_sessions=1,
        products=5,
        start_date="2026-01-01",
        end_date="2026-02-01",
    )


def environment(cloud: Cloud) -> dict[str, str]:
    """What leads Airflow's side to the emulator and its bucket."""
    extra = {"region_name": "us-east-1", "endpoint_url": cloud.url}
    connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
    return {
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
        "PMS_BUCKET": BUCKET,
        "PMS_POLL_SECONDS": "1",
    }


@pytest.fixture
def training(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """Makes the task of a script; each test has a snapshot, and so a job's name, of its own."""
    for name, value in environment(cloud).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)
    get_settings.cache_clear()
    snapshot = snapshot_on(cloud, cloud.name("snap"))
    source = tmp_path / "ml"
    source.mkdir()
    monkeypatch.setattr(train_model, "SOURCE", source)

    def make(script: str = WAITS, **changes: Any) -> TrainModelOperator:
        text = textwrap.dedent(script.replace("{go!r}", repr(str(tmp_path / "go"))))
        (source / "train.py").write_text(text)
        arguments = {"instance_type": "ml.m5.large", "max_runtime_seconds": 120, **changes}
        return TrainModelOperator(
            task_id="train_model", snapshot=snapshot.to_xcom(), hyperparameters={}, **arguments
        )

    return make


def jobs_of(cloud: Cloud, task: TrainModelOperator) -> list[dict[str, Any]]:
    """The jobs that there are about a task's snapshot, oldest first."""
    names = [
        found["TrainingJobName"]
        for page in cloud.sagemaker.get_paginator("list_training_jobs").paginate(SortOrder="Ascending")
        for found in page["TrainingJobSummaries"]
    ]
    described = [cloud.sagemaker.describe_training_job(TrainingJobName=name) for name in names]
    uri = task.snapshot["uri"]
    return [
        job for job in described if job["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] == uri
    ]


def running_job(cloud: Cloud, task: TrainModelOperator) -> str:
    """The name of a task's one job, once its script runs."""
    job = eventually(lambda: next(iter(jobs_of(cloud, task)), None))
    cloud.wait_status(job["TrainingJobName"], "Training")
    return str(job["TrainingJobName"])

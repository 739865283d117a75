"""Fault 3: SIGKILL for whoever follows the job, a worker or the triggerer. The next one goes on with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.operators import train_model
from include.settings import PROJECT_ROOT
from tests.faults.trainings import Training, environment, jobs_of, running_job
from tests.local.cloud import Cloud, eventually
from tests.operators.deferral import run_to_end

FOLLOWS = """
import json, pathlib, sys
from include.operators import train_model
from tests.operators.deferral import run_to_end

told = json.loads(sys.argv[1])
train_model.SOURCE = pathlib.Path(told.pop("source"))
run_to_end(train_model.TrainModelOperator(task_id="train_model", **told))
"""


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_next_try_reconnects(
    cloud: Cloud, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    task = training()
    told = {
        "source": str(train_model.SOURCE),
        "snapshot": task.snapshot,
        "hyperparameters": {},
        "instance_type": task.instance_type,
        "max_runtime_seconds": task.max_runtime_seconds,
        "deferrable": deferrable,
    }
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", FOLLOWS, json.dumps(told)],
            env=os.environ | environment(cloud) | {"AIRFLOW_HOME": str(tmp_path)},
            cwd=PROJECT_ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            eventually(lambda: "Progress: epoch 1/2 (50 %)" in (tmp_path / "log").read_text(), 60)
        finally:
            process.kill()
            process.wait()
    name = running_job(cloud, task)
    assert cloud.sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "InProgress"
    (tmp_path / "go").touch()
    assert run_to_end(training())["job_name"] == name
    assert len(jobs_of(cloud, task)) == 1

"""Fault 5: a job takes too long. It is stopped, billing ends, and the message says what to do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from tests.faults.trainings import Training, jobs_of
from tests.local.cloud import Cloud
from tests.operators.deferral import run_to_end


def ended(cloud: Cloud, name: str) -> dict[str, Any]:
    told = cloud.finished(name)
    assert told["TrainingJobStatus"] == "Stopped"
    return told


@pytest.mark.parametrize("deferrable", [True, False])
def test_sagemaker_stops_it_at_its_limit(cloud: Cloud, training: Training, deferrable: bool) -> None:
    task = training(max_runtime_seconds=2, deferrable=deferrable)
    with pytest.raises(AirflowFailException, match="stopped after 2 s, .*: allow more minutes"):
        run_to_end(task)
    [job] = jobs_of(cloud, task)
    told = ended(cloud, job["TrainingJobName"])
    assert told["SecondaryStatus"] == "MaxRuntimeExceeded"
    assert 2 <= told["BillableTimeInSeconds"] < 30


def test_task_stops_it_at_a_limit_of_its_own(cloud: Cloud, training: Training) -> None:
    task = training(execution_timeout=timedelta(seconds=2))
    with pytest.raises(AirflowFailException, match="told to stop: .* execution_timeout"):
        run_to_end(task)
    [job] = jobs_of(cloud, task)
    told = ended(cloud, job["TrainingJobName"])
    assert told["BillableTimeInSeconds"] < 30

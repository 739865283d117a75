"""Fault 2: the worker dies after CreateTrainingJob, before anybody has noted the job. There is one job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import ReadTimeoutError

from include.operators.sagemaker_jobs import TrainingJob
from tests.faults.trainings import Training, jobs_of, running_job
from tests.local.cloud import Cloud
from tests.operators.deferral import run_to_end


class WorkerDied(BaseException):
    """No handler of the task's sees this."""


def never_stored(*_: Any) -> None:
    raise WorkerDied


def test_retry_attaches_to_the_one_job(cloud: Cloud, training: Training, tmp_path: Path) -> None:
    killed = training()
    killed._hand_over = never_stored  # type: ignore[method-assign,assignment]
    with pytest.raises(WorkerDied):
        run_to_end(killed)
    name = running_job(cloud, killed)
    (tmp_path / "go").touch()
    assert run_to_end(training())["job_name"] == name
    assert len(jobs_of(cloud, killed)) == 1


def test_answer_that_is_lost_is_retried_and_there_is_one_job(
    cloud: Cloud, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, task = TrainingJob.create, training()

    def without_an_answer(job: TrainingJob, request: dict[str, Any]) -> None:
        create(job, request)
        raise ReadTimeoutError(endpoint_url=cloud.url)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingJob, "create", without_an_answer)
        with pytest.raises(AirflowException) as failure:
            run_to_end(task)
    assert not isinstance(failure.value, AirflowFailException)
    (tmp_path / "go").touch()
    trained = run_to_end(training())
    assert [job["TrainingJobName"] for job in jobs_of(cloud, task)] == [trained["job_name"]]

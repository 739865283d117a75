"""Fault 4: somebody marks or clears the task. Its job is stopped; a triggerer's end stops nothing."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from airflow.jobs.triggerer_job_runner import _USER_ACTION_CANCEL_MSG, TriggerRunner
from airflow.sdk.exceptions import AirflowException, TaskDeferred

from tests.faults.trainings import Training, jobs_of, running_job
from tests.local.cloud import Cloud
from tests.operators.deferral import run_to_end, stored_trigger


def test_worker_that_is_told_to_end_stops_the_job(cloud: Cloud, training: Training) -> None:
    task = training(deferrable=False)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run_to_end(task)
        except AirflowException as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    name = running_job(cloud, task)
    task.on_kill()
    worker.join(30)
    assert "stopped before it had finished" in str(errors[0])
    assert cloud.sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "Stopped"


def cancel_in_triggerer(trigger: Any, message: str | None) -> None:
    """Runs a trigger as Airflow's triggerer does, and cancels it so."""

    async def act() -> None:
        runner = TriggerRunner()
        runner.triggers[1] = {"task": None, "is_watcher": False, "name": "train_model", "events": 0}  # type: ignore[typeddict-item]
        running = asyncio.create_task(runner.run_trigger(1, trigger))
        await asyncio.sleep(1)
        running.cancel(message)
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(act())


def test_deferred_task_that_is_marked_or_cleared_stops_the_job(
    cloud: Cloud, training: Training, tmp_path: Path
) -> None:
    task = training()
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({})  # type: ignore[arg-type]
    name = running_job(cloud, task)

    # Nobody acted: the triggerer goes down.
    cancel_in_triggerer(stored_trigger(deferred.value), None)
    assert cloud.sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "InProgress"

    cancel_in_triggerer(stored_trigger(deferred.value), _USER_ACTION_CANCEL_MSG)
    told = cloud.sagemaker.describe_training_job(TrainingJobName=name)
    assert told["TrainingJobStatus"] in {"Stopping", "Stopped"}

    # Who clears a task wants it done again.
    (tmp_path / "go").touch()
    assert run_to_end(training())["job_name"] == f"{name}-2"
    assert [job["TrainingJobStatus"] for job in jobs_of(cloud, task)] == ["Stopped", "Completed"]

"""The triggerer's side of a training: it looks, tells, and stops the job only where the task was killed."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from botocore.exceptions import EndpointConnectionError

from include.contracts import Snapshot
from include.operators import train_model
from include.operators.job_following import PATIENCE
from include.operators.train_model import TrainModelOperator
from include.sagemaker.training import LOG_GROUP
from tests.operators.deferral import event_of, run_to_end, stored_trigger
from tests.operators.fake_sagemaker import FakeSageMaker, refusal

pytestmark = pytest.mark.usefixtures("naps")

RUNNING = {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}
DONE: dict[str, Any] = {}


@pytest.fixture
def task(
    sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> TrainModelOperator:
    key = snapshot.uri.removeprefix("s3://post-modern-stack/") + "manifest.json"
    aws.put_object(Bucket="post-modern-stack", Key=key, Body=b"{}")
    (tmp_path / "train.py").write_text("print('training')")
    monkeypatch.setattr(train_model, "SOURCE", tmp_path)
    return TrainModelOperator(
        task_id="train_model",
        snapshot=snapshot.to_xcom(),
        hyperparameters={},
        instance_type="ml.g5.xlarge",
        max_runtime_seconds=600,
    )


@pytest.fixture
def deferred(task: TrainModelOperator, sagemaker: FakeSageMaker) -> TaskDeferred:
    """A task that waits for a job that goes on and on."""
    sagemaker.next_job = [RUNNING]
    with pytest.raises(TaskDeferred) as waits:
        task.execute({})  # type: ignore[arg-type]
    return waits.value


def resume(task: TrainModelOperator, deferred: TaskDeferred, event: Any) -> Any:
    return task.resume_execution(deferred.method_name, {"event": event}, {})  # type: ignore[arg-type]


def write_log(name: str, *lines: str) -> None:
    logs = boto3.client("logs", aws_access_key_id="x", aws_secret_access_key="x")
    logs.create_log_group(logGroupName=LOG_GROUP)
    logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=f"{name}/algo-1")
    now = int(time.time() * 1000)
    events = [{"timestamp": now + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=f"{name}/algo-1", logEvents=events)


def script(sagemaker: FakeSageMaker, *states: dict[str, Any]) -> str:
    """Lets the one job go through these states; returns its name."""
    [name] = sagemaker.jobs
    sagemaker.jobs[name] = [sagemaker.job(name, {}, **state) for state in states]
    return name


def test_lines_and_progress_are_logged_once(
    task: TrainModelOperator,
    deferred: TaskDeferred,
    sagemaker: FakeSageMaker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = script(sagemaker, RUNNING, RUNNING, DONE)
    write_log(name, "reading", "epoch=3/8 loss=5.1 val_mrr@20=0.2", "done")
    assert resume(task, deferred, event_of(stored_trigger(deferred)))["job_name"] == name
    logged = capsys.readouterr().out
    assert logged.count("reading") == logged.count("loss=5.1 ") == 1
    assert logged.count("Progress: epoch 3/8 (37 %), loss 5.1, validation MRR@20 0.2") == 1


def test_user_who_kills_the_task_stops_the_job(deferred: TaskDeferred, sagemaker: FakeSageMaker) -> None:
    asyncio.run(stored_trigger(deferred).on_kill())
    [name] = sagemaker.jobs
    assert sagemaker.made("StopTrainingJob") == [{"TrainingJobName": name}]


def test_kill_after_the_jobs_end_is_no_fault(deferred: TaskDeferred, sagemaker: FakeSageMaker) -> None:
    sagemaker.faults["StopTrainingJob"] = refusal("StopTrainingJob", "ValidationException", "is Completed")
    asyncio.run(stored_trigger(deferred).on_kill())


@pytest.mark.parametrize(
    ("state", "stopped"),
    [
        ("deferred", False),
        ("running", False),
        ("failed", True),
        ("success", True),
        ("queued", True),
        (None, True),
        (ConnectionError("no"), True),
    ],
    ids=[
        "another triggerer took over",
        "the next try has begun",
        "marked failed",
        "marked success",
        "cleared and about to begin",
        "cleared",
        "Airflow is silent",
    ],
)
def test_job_is_stopped_only_where_nobody_waits_for_it(
    deferred: TaskDeferred,
    sagemaker: FakeSageMaker,
    monkeypatch: pytest.MonkeyPatch,
    state: Any,
    stopped: bool,
) -> None:
    def states(**_: Any) -> dict[str, Any]:
        if isinstance(state, Exception):
            raise state
        return {"run": {"train_model": state}}

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", states)
    trigger = stored_trigger(deferred)
    trigger.task_instance = SimpleNamespace(dag_id="d", task_id="train_model", run_id="run", map_index=-1)
    asyncio.run(trigger.on_kill())
    assert bool(sagemaker.made("StopTrainingJob")) is stopped


def test_triggerer_that_goes_down_leaves_the_job_alone_and_another_goes_on(
    task: TrainModelOperator, deferred: TaskDeferred, sagemaker: FakeSageMaker
) -> None:
    async def cancelled() -> None:
        trigger = stored_trigger(deferred)
        waiting = asyncio.ensure_future(anext(trigger.run()))
        for _ in range(50):
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await trigger.cleanup()

    asyncio.run(cancelled())
    assert sagemaker.made("StopTrainingJob") == []
    name = script(sagemaker, RUNNING, DONE)
    assert resume(task, deferred, event_of(stored_trigger(deferred)))["job_name"] == name


def test_faults_that_pass_are_waited_out(
    task: TrainModelOperator, deferred: TaskDeferred, sagemaker: FakeSageMaker, monkeypatch: Any
) -> None:
    name, looks = script(sagemaker, RUNNING, RUNNING, DONE), []
    describe = sagemaker._DescribeTrainingJob

    def sometimes(TrainingJobName: str) -> dict[str, Any]:
        looks.append(1)
        if 1 < len(looks) < PATIENCE:
            raise refusal("DescribeTrainingJob", "ThrottlingException", "slow down")
        return describe(TrainingJobName)

    monkeypatch.setattr(sagemaker, "_DescribeTrainingJob", sometimes)
    event = event_of(stored_trigger(deferred))
    assert event["status"] == "ended"
    assert resume(task, deferred, event)["job_name"] == name


@pytest.mark.parametrize(
    "fault",
    [
        refusal("DescribeTrainingJob", "ExpiredTokenException", "expired"),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:5055"),
    ],
    ids=["no credentials", "no network"],
)
def test_worker_follows_where_the_triggerer_cannot(
    task: TrainModelOperator,
    deferred: TaskDeferred,
    sagemaker: FakeSageMaker,
    capsys: pytest.CaptureFixture[str],
    fault: Any,
) -> None:
    name = script(sagemaker, RUNNING, RUNNING, DONE)
    write_log(name, "reading")
    sagemaker.faults["DescribeTrainingJob"] = fault
    event = event_of(stored_trigger(deferred))
    assert event["status"] == "lost"
    assert resume(task, deferred, event)["job_name"] == name
    assert capsys.readouterr().out.count("reading") == 1


def test_worker_that_takes_over_repeats_no_line(
    task: TrainModelOperator, deferred: TaskDeferred, sagemaker: FakeSageMaker, capsys: Any, monkeypatch: Any
) -> None:
    name = script(sagemaker, RUNNING)
    write_log(name, "reading")
    describe, looks = sagemaker._DescribeTrainingJob, []

    def once(TrainingJobName: str) -> dict[str, Any]:
        looks.append(1)
        if len(looks) > 1:
            raise refusal("DescribeTrainingJob", "AccessDeniedException", "no more")
        return describe(TrainingJobName)

    with monkeypatch.context() as patch:
        patch.setattr(sagemaker, "_DescribeTrainingJob", once)
        event = event_of(stored_trigger(deferred))
    script(sagemaker, RUNNING, RUNNING, DONE)
    assert resume(task, deferred, event)["job_name"] == name
    assert capsys.readouterr().out.count("reading") == 1


def test_trigger_that_breaks_is_retried_and_the_retry_attaches(
    task: TrainModelOperator, deferred: TaskDeferred, sagemaker: FakeSageMaker
) -> None:
    with pytest.raises(AirflowException, match="attaches") as failure:
        resume(task, deferred, None)
    assert not isinstance(failure.value, AirflowFailException)
    name = script(sagemaker, RUNNING, DONE)
    assert run_to_end(task)["job_name"] == name
    assert len(sagemaker.made("CreateTrainingJob")) == 1

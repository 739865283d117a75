"""The training step as a search: the same promises as for one training."""

from __future__ import annotations

import time
from typing import Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import Snapshot, TrainedModel
from include.operators import job_following, train_model
from include.operators.sagemaker_jobs import TuningJob
from include.operators.train_model import TrainModelOperator
from include.sagemaker.training import LOG_GROUP
from tests.operators.deferral import run_to_end
from tests.operators.fake_sagemaker import FakeSageMaker, refusal, trial

pytestmark = pytest.mark.usefixtures("naps")

RUNNING = {"HyperParameterTuningJobStatus": "InProgress"}
FAILED = {
    "HyperParameterTuningJobStatus": "Failed",
    "FailureReason": "No training job succeeded after 2 attempts. Take a look at their failures.",
}
STOPPED = {"HyperParameterTuningJobStatus": "Stopped"}
DONE: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def source(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "train.py").write_text("print('training')")
    monkeypatch.setattr(train_model, "SOURCE", tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def data(aws: Any, snapshot: Snapshot) -> None:
    key = snapshot.uri.removeprefix("s3://post-modern-stack/") + "manifest.json"
    aws.put_object(Bucket="post-modern-stack", Key=key, Body=b"{}")


def operator(snapshot: Snapshot, **changes: Any) -> TrainModelOperator:
    arguments: dict[str, Any] = {
        "snapshot": snapshot.to_xcom(),
        "hyperparameters": {"epochs": 3, "architecture": "gru"},
        "instance_type": "ml.g5.xlarge",
        "max_runtime_seconds": 3600,
        "tune_trials": 3,
        "tune_parallel": 2,
        **changes,
    }
    return TrainModelOperator(task_id="train_model", **arguments)


def run(snapshot: Snapshot, **changes: Any) -> TrainedModel:
    return TrainedModel.model_validate(run_to_end(operator(snapshot, **changes), {}))


def put_artefacts(aws: Any, *names: str, folder: str) -> None:
    for name in names:
        key = f"shop/models/{folder}/output/{name}.tar.gz"
        aws.put_object(Bucket="post-modern-stack", Key=key, Body=b"x")


def test_a_search_is_one_tuning_job_and_its_best_trial_goes_on(
    sagemaker: FakeSageMaker, snapshot: Snapshot
) -> None:
    trained = run(snapshot)
    [request] = sagemaker.made("CreateHyperParameterTuningJob")
    assert sagemaker.made("CreateTrainingJob") == []
    name = request["HyperParameterTuningJobName"]
    best = f"{name}-002-0a1b2c3d"
    assert trained.job_name == best
    assert trained.model_uri == f"s3://post-modern-stack/shop/models/{best}/output/model.tar.gz"
    assert trained.evaluation_uri == f"s3://post-modern-stack/shop/models/{best}/output/output.tar.gz"
    assert trained.billable_seconds == 3 * 42
    assert trained.tuning is not None
    assert trained.tuning.model_dump() == {
        "job_name": name,
        "trials": 3,
        "val_mrr": 0.25,
        "hyperparameters": {"batch-size": "64", "learning-rate": "0.25"},
    }


def test_zero_trials_train_once(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    assert run(snapshot, tune_trials="0").tuning is None
    assert sagemaker.tunings == {}


def test_the_run_keeps_what_won(sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot) -> None:
    run_to_end(operator(snapshot), {"run_id": "manual__1"})
    body = aws.get_object(Bucket="post-modern-stack", Key="shop/runs/manual__1/model.json")["Body"].read()
    kept = TrainedModel.model_validate_json(body)
    assert kept.tuning is not None
    assert kept.tuning.hyperparameters == {"batch-size": "64", "learning-rate": "0.25"}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"tune_trials": "3", "tune_parallel": "2"}, True),
        ({"hyperparameters": {"architecture": "gru", "epochs": "3"}}, True),
        ({"tune_trials": 4}, False),
        ({"tune_parallel": 1}, False),
        ({"hyperparameters": {"epochs": 4, "architecture": "gru"}}, False),
        ({"instance_type": "ml.m5.xlarge"}, False),
    ],
    ids=["same", "text", "order", "trials", "parallel", "hyper-parameters", "instance"],
)
def test_the_name_is_a_function_of_content(
    sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot, changes: dict[str, Any], same: bool
) -> None:
    first = run(snapshot)
    put_artefacts(aws, "model", "output", folder=first.job_name)
    assert (run(snapshot, **changes) == first) is same
    assert len(sagemaker.tunings) == (1 if same else 2)
    assert all(len(name) <= 32 for name in sagemaker.tunings)


def test_retry_attaches_to_the_running_search(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    killed = operator(snapshot)
    sagemaker.next_tuning = [RUNNING]
    killed._hand_over = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run_to_end(killed, {})
    [name] = sagemaker.tunings
    sagemaker.tunings[name] = [sagemaker.tuning(name, {}, **state) for state in (RUNNING, RUNNING, DONE)]
    trained = run(snapshot)
    assert trained.tuning is not None and trained.tuning.job_name == name
    assert len(sagemaker.made("CreateHyperParameterTuningJob")) == 1


def test_search_started_a_moment_ago_by_another_try_is_attached_to(
    sagemaker: FakeSageMaker, snapshot: Snapshot
) -> None:
    first = run(snapshot)
    [name] = sagemaker.tunings
    sagemaker.tunings[name] = [sagemaker.tuning(name, {}, **state) for state in (RUNNING, DONE)]
    # The look finds nothing, the create call finds the name taken.
    sagemaker.faults["DescribeHyperParameterTuningJob"] = refusal(
        "DescribeHyperParameterTuningJob", "ResourceNotFound", "Amazon SageMaker can't find a tuning job."
    )
    assert run(snapshot) == first
    assert list(sagemaker.tunings) == [name]


@pytest.mark.parametrize("end", [FAILED, STOPPED], ids=["failed", "stopped"])
def test_try_after_a_failure_starts_exactly_one_new_search(
    sagemaker: FakeSageMaker, snapshot: Snapshot, end: dict[str, Any]
) -> None:
    sagemaker.next_tuning = [RUNNING, end]
    with pytest.raises(AirflowFailException):
        run(snapshot)
    [name] = sagemaker.tunings
    sagemaker.next_tuning = [RUNNING, DONE]
    trained = run(snapshot)
    assert trained.tuning is not None and trained.tuning.job_name == f"{name}-2"
    assert list(sagemaker.tunings) == [name, f"{name}-2"]


@pytest.mark.parametrize(
    ("there", "again"),
    [(("model", "output"), False), (("model",), True), (("output",), True), ((), True)],
    ids=["both", "no evaluation", "no model", "nothing"],
)
def test_finished_search_is_used_again_where_its_best_artefacts_are(
    sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot, there: tuple[str, ...], again: bool
) -> None:
    first = run(snapshot)
    put_artefacts(aws, *there, folder=first.job_name)
    assert (run(snapshot) != first) is again
    assert len(sagemaker.tunings) == (2 if again else 1)


def test_kill_stops_the_search(
    sagemaker: FakeSageMaker, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    sagemaker.next_tuning = [RUNNING]
    task = operator(snapshot, deferrable=False)
    monkeypatch.setattr(TuningJob, "watch", lambda *_: task.on_kill())
    with pytest.raises(AirflowException, match="stopped before"):
        run_to_end(task, {})
    [name] = sagemaker.tunings
    assert {"HyperParameterTuningJobName": name} in sagemaker.made("StopHyperParameterTuningJob")
    assert sagemaker.made("StopTrainingJob") == []


def test_search_that_never_ends_is_stopped_after_its_limit(
    sagemaker: FakeSageMaker, snapshot: Snapshot, naps: list[float]
) -> None:
    sagemaker.next_tuning = [RUNNING]
    with pytest.raises(AirflowFailException, match="told to stop"):
        run(snapshot, max_runtime_seconds=60)
    assert len(sagemaker.made("StopHyperParameterTuningJob")) == 1
    [request] = sagemaker.made("CreateHyperParameterTuningJob")
    limit = request["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxRuntimeInSeconds"]
    # Three trials, two at a time.
    assert limit == 2 * (60 + 900)
    assert limit < sum(naps) < limit + job_following.WAIT_BEYOND_LIMIT_SECONDS + 60


@pytest.mark.parametrize(
    ("trials", "end", "said"),
    [
        (
            [trial(None, "Failed", FailureReason="AlgorithmError: exit code: 1\nno such file"), trial(None)],
            FAILED,
            ["No training job succeeded", "AlgorithmError: exit code: 1 no such file", "epoch=30/30"],
        ),
        ([trial(None), trial(None)], DONE, ["No trial of tuning job", "validation sessions", "Completed;"]),
    ],
    ids=["all failed", "none told its score"],
)
def test_search_without_a_winner_fails_the_task_with_its_reasons(
    sagemaker: FakeSageMaker,
    snapshot: Snapshot,
    trials: list[dict[str, Any]],
    end: dict[str, Any],
    said: list[str],
) -> None:
    # A first search leaves a name, under which the failed trial of the second has its log.
    name = f"{run(snapshot).tuning.job_name}-2"  # type: ignore[union-attr]
    logs = boto3.client("logs", aws_access_key_id="x", aws_secret_access_key="x")
    logs.create_log_group(logGroupName=LOG_GROUP)
    stream = f"{name}-001-0a1b2c3d/algo-1-1"
    logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
    now = int(time.time() * 1000)
    events = [{"timestamp": now + n, "message": f"epoch={n}/30 loss=nan"} for n in range(1, 31)]
    logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)
    sagemaker.trials, sagemaker.next_tuning = trials, [RUNNING, end]
    with pytest.raises(AirflowFailException) as failure:
        run(snapshot)
    for words in said:
        assert words in str(failure.value)


@pytest.mark.parametrize(
    ("reason", "retried"),
    [("InternalServerError: sorry", True), ("CapacityError: none left", True), ("ClientError: no", False)],
)
def test_sagemakers_own_fault_is_retried(
    sagemaker: FakeSageMaker, snapshot: Snapshot, reason: str, retried: bool
) -> None:
    sagemaker.next_tuning = [RUNNING, {"HyperParameterTuningJobStatus": "Failed", "FailureReason": reason}]
    with pytest.raises(AirflowException, match=reason) as failure:
        run(snapshot)
    assert isinstance(failure.value, AirflowFailException) is not retried


def test_some_failed_trials_do_not_fail_the_search(
    sagemaker: FakeSageMaker, snapshot: Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker.trials = [trial(None, "Failed", FailureReason="AlgorithmError: nan loss"), trial(0.2)]
    trained = run(snapshot)
    assert trained.job_name.endswith("-002-0a1b2c3d")
    assert trained.tuning is not None and trained.tuning.trials == 1
    logged = capsys.readouterr().out
    assert "Failed (AlgorithmError: nan loss)" in logged
    assert "Completed, validation:final_mrr@20=0.2000; batch-size=64 learning-rate=0.2" in logged


@pytest.mark.parametrize(
    "changes", [{"tune_trials": 51}, {"tune_trials": -1}, {"tune_parallel": 0}, {"tune_parallel": 11}]
)
def test_numbers_out_of_bounds_start_nothing(
    sagemaker: FakeSageMaker, snapshot: Snapshot, changes: dict[str, Any]
) -> None:
    with pytest.raises(AirflowFailException, match="1 to 50 trials"):
        run(snapshot, **changes)
    assert sagemaker.calls == []

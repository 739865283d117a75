from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import EndpointConnectionError

from include.contracts import Snapshot, TrainedModel
from include.operators import job_following, train_model
from include.operators.sagemaker_jobs import TrainingJob
from include.operators.train_model import TrainModelOperator
from include.sagemaker.naming import attempt_name
from include.sagemaker.source import source_digest
from include.sagemaker.training import LOG_GROUP
from include.settings import get_settings
from tests.operators.deferral import run_to_end
from tests.operators.fake_sagemaker import MORNING, FakeSageMaker, refusal

pytestmark = pytest.mark.usefixtures("naps")

RUNNING = {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}
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
        **changes,
    }
    return TrainModelOperator(task_id="train_model", **arguments)


def run(snapshot: Snapshot, **changes: Any) -> TrainedModel:
    return TrainedModel.model_validate(run_to_end(operator(snapshot, **changes), {}))


def put_artefacts(aws: Any, name: str) -> None:
    for artefact in ("model", "output"):
        key = f"shop/models/{name}/output/{artefact}.tar.gz"
        aws.put_object(Bucket="post-modern-stack", Key=key, Body=b"x")


def test_a_run_uploads_the_code_and_starts_one_job(
    sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot, source: Any
) -> None:
    trained = run(snapshot)
    [request] = sagemaker.made("CreateTrainingJob")
    assert trained.job_name == request["TrainingJobName"]
    assert trained.snapshot_id == snapshot.snapshot_id
    assert trained.evaluation_uri == (
        f"s3://post-modern-stack/shop/models/{trained.job_name}/output/output.tar.gz"
    )
    assert trained.billable_seconds == 42
    key = f"shop/code/{source_digest(source)}/sourcedir.tar.gz"
    assert request["HyperParameters"]["sagemaker_submit_directory"] == f'"s3://post-modern-stack/{key}"'
    assert aws.head_object(Bucket="post-modern-stack", Key=key)["ContentLength"] > 0


def test_a_setting_has_the_job_tracked_under_the_same_name(
    sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMET_API_KEY", "canary")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary")
    address = {"MLFLOW_TRACKING_URI": "https://mlflow.example:5000"}
    variables = {"none": None, "mlflow": address, "comet": None}
    monkeypatch.setenv("PMS_MLFLOW_TRACKING_URI", address["MLFLOW_TRACKING_URI"])
    for tracking in variables:
        sagemaker.jobs.clear()
        monkeypatch.setenv("PMS_TRACKING", tracking)
        get_settings.cache_clear()
        run(snapshot)
    requests = sagemaker.made("CreateTrainingJob")
    assert len({request["TrainingJobName"] for request in requests}) == 1
    assert [request.get("Environment") for request in requests] == list(variables.values())
    chosen = [request["HyperParameters"].get("tracking") for request in requests]
    assert chosen == [None, '"mlflow"', '"comet"']
    assert "canary" not in str(requests)


def test_the_run_keeps_the_claim_check(sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot) -> None:
    returned = run_to_end(operator(snapshot), {"run_id": "manual__1"})
    body = aws.get_object(Bucket="post-modern-stack", Key="shop/runs/manual__1/model.json")["Body"].read()
    assert json.loads(body) == returned


def test_templated_numbers_may_arrive_as_text(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    first = run(snapshot)
    as_text = operator(snapshot, hyperparameters={"epochs": "3", "architecture": "gru"})
    as_text.max_runtime_seconds = "3600"
    put = sagemaker.jobs[first.job_name]
    assert put[-1]["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    sagemaker.jobs[first.job_name] = [sagemaker.job(first.job_name, {}, **RUNNING), put[-1]]
    assert run_to_end(as_text, {})["job_name"] == first.job_name


def test_job_started_a_moment_ago_by_another_try_is_attached_to(
    sagemaker: FakeSageMaker, snapshot: Snapshot
) -> None:
    sagemaker.faults["DescribeTrainingJob"] = refusal(
        "DescribeTrainingJob", "ValidationException", "Requested resource not found."
    )
    name = run(snapshot).job_name
    sagemaker.jobs[name] = [sagemaker.job(name, {}, **state) for state in (RUNNING, DONE)]
    sagemaker.faults["DescribeTrainingJob"] = refusal(
        "DescribeTrainingJob", "ValidationException", "Requested resource not found."
    )
    # The look finds nothing, the create call finds the name taken.
    assert run(snapshot).job_name == name
    assert list(sagemaker.jobs) == [name]


def test_finished_job_is_used_again(sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot) -> None:
    first = run(snapshot)
    put_artefacts(aws, first.job_name)
    assert run(snapshot) == first
    assert len(sagemaker.made("CreateTrainingJob")) == 1


def test_finished_job_whose_model_was_deleted_is_trained_again(
    sagemaker: FakeSageMaker, snapshot: Snapshot
) -> None:
    first = run(snapshot)
    assert run(snapshot).job_name == f"{first.job_name}-2"


@pytest.mark.parametrize(
    "end",
    [
        {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: exit code 1"},
        {"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped"},
        {"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"},
    ],
    ids=["failed", "stopped", "ran out of time"],
)
def test_try_after_a_failure_starts_exactly_one_new_job(
    sagemaker: FakeSageMaker, snapshot: Snapshot, end: dict[str, Any]
) -> None:
    sagemaker.next_job = [RUNNING, end]
    with pytest.raises(AirflowFailException):
        run(snapshot)
    [name] = sagemaker.jobs
    sagemaker.next_job = [RUNNING, DONE]
    assert run(snapshot).job_name == f"{name}-2"
    assert list(sagemaker.jobs) == [name, f"{name}-2"]


def test_job_that_is_still_stopping_is_waited_for_and_followed_by_a_new_one(
    sagemaker: FakeSageMaker, snapshot: Snapshot
) -> None:
    name = run(snapshot).job_name
    states = [{"TrainingJobStatus": "Stopping"}, {"TrainingJobStatus": "Stopping"}]
    ends = [*states, {"TrainingJobStatus": "Stopped"}]
    sagemaker.jobs[name] = [sagemaker.job(name, {}, **state) for state in ends]
    assert run(snapshot).job_name == f"{name}-2"


def ended(sagemaker: FakeSageMaker, name: str, *ends: dict[str, Any]) -> None:
    """Jobs of these ends, of one content, were there before."""
    for attempt, end in enumerate(ends, 1):
        job = attempt_name(name, attempt)
        sagemaker.jobs[job] = [sagemaker.job(job, {}, **end)]


def test_attempts_that_fail_by_themselves_are_bounded(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    name = run(snapshot).job_name
    stopped = {"TrainingJobStatus": "Stopped"}
    reasons = [f"AlgorithmError: fault {number}" for number in range(5)]
    failed = [{"TrainingJobStatus": "Failed", "FailureReason": reason} for reason in reasons]
    ended(sagemaker, name, *failed[:2], stopped, *failed[2:])
    with pytest.raises(AirflowFailException, match="of 6 so far, 5 failed by themselves") as failure:
        run(snapshot)
    told = str(failure.value)
    assert all(reason in told for reason in reasons)
    assert f"3. Training job {name}-3 was stopped" in told
    assert "change an input" in told
    assert len(sagemaker.made("CreateTrainingJob")) == 1


def test_stops_and_too_little_capacity_lock_nobody_out(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    name = run(snapshot).job_name
    stopped = {"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped"}
    no_capacity = {"TrainingJobStatus": "Failed", "FailureReason": "CapacityError: none"}
    no_spot = {"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxWaitTimeExceeded"}
    ended(sagemaker, name, *[stopped, no_capacity, no_spot] * 4)
    assert run(snapshot).job_name == f"{name}-13"


def test_names_are_bounded(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    name = run(snapshot).job_name
    ended(sagemaker, name, *[{"TrainingJobStatus": "Stopped"}] * 99)
    with pytest.raises(AirflowFailException, match="of 99 so far, 0 failed by themselves"):
        run(snapshot)


@pytest.mark.parametrize(
    ("reason", "retried"),
    [
        ("AlgorithmError: ExecuteUserScriptError: nan loss, exit code: 1", False),
        ("ClientError: Data download failed: no such key", False),
        ("InternalServerError: We encountered an internal error. Please try again.", True),
        ("CapacityError: Unable to provision requested ML compute capacity.", True),
    ],
)
def test_failed_job_fails_the_task_with_its_reason(
    sagemaker: FakeSageMaker, snapshot: Snapshot, reason: str, retried: bool
) -> None:
    sagemaker.next_job = [RUNNING, {"TrainingJobStatus": "Failed", "FailureReason": reason}]
    with pytest.raises(AirflowException) as failure:
        run(snapshot)
    assert reason in str(failure.value)
    assert isinstance(failure.value, AirflowFailException) is not retried


def test_failure_shows_the_end_of_the_jobs_log(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    name = run(snapshot).job_name
    end = {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: exit code 1"}
    sagemaker.jobs[name] = [sagemaker.job(name, {}, **state) for state in (RUNNING, RUNNING, end)]
    logs = boto3.client("logs", aws_access_key_id="x", aws_secret_access_key="x")
    logs.create_log_group(logGroupName=LOG_GROUP)
    stream = f"{name}/algo-1-1"
    logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
    now = int(time.time() * 1000)
    events = [{"timestamp": now + n, "message": f"epoch={n}/30 loss=nan"} for n in range(1, 31)]
    logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)
    with pytest.raises(AirflowFailException) as failure:
        run(snapshot)
    assert "epoch=30/30 loss=nan" in str(failure.value)
    assert "epoch=10/30" not in str(failure.value)


@pytest.mark.parametrize("deferrable", [True, False])
def test_kill_while_the_job_is_created_stops_it(
    sagemaker: FakeSageMaker, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    sagemaker.next_job = [RUNNING]
    task = operator(snapshot, deferrable=deferrable)
    create = TrainingJob.create

    def killed_before_the_answer(job: TrainingJob, request: dict[str, Any]) -> None:
        create(job, request)
        task._running, running = None, task._running
        task.on_kill()
        task._running = running

    monkeypatch.setattr(TrainingJob, "create", killed_before_the_answer)
    with pytest.raises(AirflowException, match="stop"):
        run_to_end(task, {})
    [name] = sagemaker.jobs
    assert {"TrainingJobName": name} in sagemaker.made("StopTrainingJob")


def test_kill_before_a_job_starts_nothing(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    task = operator(snapshot)
    task.on_kill()
    with pytest.raises(AirflowException, match="killed before"):
        run_to_end(task, {})
    assert sagemaker.calls == []


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 60 + job_following.WAIT_BEYOND_LIMIT_SECONDS),
        ({"deferrable": False}, 60 + job_following.WAIT_BEYOND_LIMIT_SECONDS),
        ({"spot": True}, 60 + 3600 + job_following.WAIT_BEYOND_LIMIT_SECONDS),
        ({"execution_timeout": timedelta(seconds=30)}, 30),
    ],
    ids=["deferred", "waiting", "spot", "execution_timeout"],
)
def test_job_that_never_ends_is_stopped_after_the_limit(
    sagemaker: FakeSageMaker,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    naps: list[float],
    changes: dict[str, Any],
    seconds: int,
) -> None:
    monkeypatch.setenv("PMS_POLL_SECONDS", "20")
    get_settings.cache_clear()
    sagemaker.next_job = [RUNNING]
    with pytest.raises(AirflowFailException, match="told to stop"):
        run(snapshot, max_runtime_seconds=60, **changes)
    assert len(sagemaker.made("StopTrainingJob")) == 1
    assert seconds <= sum(naps) < seconds + 60


def test_time_counts_from_the_jobs_creation(
    sagemaker: FakeSageMaker, snapshot: Snapshot, naps: list[float]
) -> None:
    name = run(snapshot).job_name
    before = datetime.now(UTC) - timedelta(hours=10)
    sagemaker.jobs[name] = [sagemaker.job(name, {}, CreationTime=before, **RUNNING)]
    naps.clear()
    with pytest.raises(AirflowFailException, match="told to stop"):
        run(snapshot)
    assert sum(naps) < 10


def test_run_chooses_machines_and_the_job_keeps_its_name(
    sagemaker: FakeSageMaker, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(snapshot)
    sagemaker.jobs.clear()
    for name, value in {
        "VPC_SUBNETS": "subnet-1, subnet-2",
        "VPC_SECURITY_GROUPS": "sg-1",
        "KMS_KEY_ID": "alias/ours",
        "RESOURCE_TAGS": '{"team": "search"}',
        "SPOT_WAIT_MINUTES": "10",
        "TRAINING_VOLUME_GB": "70",
    }.items():
        monkeypatch.setenv(f"PMS_{name}", value)
    get_settings.cache_clear()
    assert run(snapshot, spot=True, max_runtime_seconds="1800").job_name == plain.job_name
    request = sagemaker.made("CreateTrainingJob")[-1]
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 1800, "MaxWaitTimeInSeconds": 2400}
    assert request["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]}
    assert request["OutputDataConfig"]["KmsKeyId"] == "alias/ours"
    assert {"Key": "team", "Value": "search"} in request["Tags"]
    # Two instances learn something else.
    assert run(snapshot, instances="2", instance_type="ml.m5.xlarge").job_name != plain.job_name
    resources = sagemaker.made("CreateTrainingJob")[-1]["ResourceConfig"]
    assert (resources["InstanceCount"], resources["VolumeSizeInGB"]) == (2, 70)


@pytest.mark.parametrize("trials", [0, 3])
def test_what_could_cost_too_much_starts_and_uploads_nothing(
    sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot, trials: int
) -> None:
    with pytest.raises(AirflowFailException, match="are allowed: "):
        run(snapshot, max_cost=1.4, tune_trials=trials)
    assert sagemaker.calls == []
    kept = aws.list_objects_v2(Bucket="post-modern-stack", Prefix="shop/code/")
    assert kept["KeyCount"] == 0


def test_limit_is_about_new_jobs(sagemaker: FakeSageMaker, aws: Any, snapshot: Snapshot) -> None:
    first = run(snapshot, max_cost=1.5)
    name, ended = first.job_name, sagemaker.jobs[first.job_name][-1]
    sagemaker.jobs[name] = [sagemaker.job(name, {}, **RUNNING), ended]
    assert run(snapshot, max_cost=1) == first
    put_artefacts(aws, name)
    assert run(snapshot, max_cost=1) == first
    assert len(sagemaker.made("CreateTrainingJob")) == 1


def test_limit_without_a_price_is_a_warning(
    sagemaker: FakeSageMaker, snapshot: Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(snapshot, instance_type="ml.m7i.large", max_cost=1).cost_usd is None
    assert "no price of ml.m7i.large in us-east-1" in capsys.readouterr().out


def test_claim_check_says_how_new_and_how_dear_the_model_is(
    sagemaker: FakeSageMaker, snapshot: Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    end = {"CreationTime": MORNING, "TrainingTimeInSeconds": 7200, "BillableTimeInSeconds": 3600}
    sagemaker.next_job = [RUNNING, end]
    trained = run(snapshot, spot=True)
    assert trained.data_until == snapshot.end_date
    assert trained.trained_at == MORNING.isoformat()
    assert trained.cost_usd == pytest.approx(1.408)
    assert trained.spot_saving == 0.5
    assert "3600 instance-seconds: 1.41 US dollars at list price; spare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "retried"),
    [
        (refusal("CreateTrainingJob", "ExpiredTokenException", "expired"), False),
        (refusal("CreateTrainingJob", "AccessDeniedException", "no"), False),
        (refusal("CreateTrainingJob", "ValidationException", "unknown image"), False),
        (refusal("CreateTrainingJob", "ThrottlingException", "slow down"), True),
        (refusal("CreateTrainingJob", "InternalFailure", "sorry", 500), True),
    ],
    ids=lambda value: value.response["Error"]["Code"] if not isinstance(value, bool) else str(value),
)
def test_refused_request_is_retried_only_where_that_can_help(
    sagemaker: FakeSageMaker, snapshot: Snapshot, fault: Any, retried: bool
) -> None:
    sagemaker.faults["CreateTrainingJob"] = fault
    with pytest.raises(AirflowException) as failure:
        run(snapshot)
    assert isinstance(failure.value, AirflowFailException) is not retried


def test_claim_check_of_another_kind_is_refused(sagemaker: FakeSageMaker, snapshot: Snapshot) -> None:
    with pytest.raises(AirflowFailException, match="no Snapshot"):
        task = operator(snapshot)
        task.snapshot = {"snapshot_id": "x"}
        run_to_end(task, {})
    assert sagemaker.calls == []


def test_worker_waits_out_faults_that_pass(
    sagemaker: FakeSageMaker, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe, looks = sagemaker._DescribeTrainingJob, []

    def sometimes(TrainingJobName: str) -> dict[str, Any]:
        looks.append(1)
        if 3 < len(looks) < 3 + job_following.PATIENCE:
            raise refusal("DescribeTrainingJob", "ThrottlingException", "slow down")
        return describe(TrainingJobName)

    monkeypatch.setattr(sagemaker, "_DescribeTrainingJob", sometimes)
    sagemaker.next_job = [RUNNING, RUNNING, RUNNING, DONE]
    assert run(snapshot, deferrable=False).billable_seconds == 42
    assert len(sagemaker.made("CreateTrainingJob")) == 1


@pytest.mark.parametrize(
    ("fault", "retried"),
    [
        (refusal("DescribeTrainingJob", "ThrottlingException", "slow down"), True),
        (refusal("DescribeTrainingJob", "ExpiredTokenException", "expired"), False),
        (EndpointConnectionError(endpoint_url="https://api.sagemaker.us-east-1.amazonaws.com"), True),
    ],
    ids=["throttled", "no credentials", "no network"],
)
@pytest.mark.parametrize("seen", [0, 1, 2], ids=["before a job is seen", "after the start", "following"])
def test_fault_while_the_job_runs_says_that_it_is_billed(
    sagemaker: FakeSageMaker,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    retried: bool,
    seen: int,
) -> None:
    sagemaker.next_job = [RUNNING]
    describe, looks = sagemaker._DescribeTrainingJob, []

    def once(TrainingJobName: str) -> dict[str, Any]:
        looks.append(1)
        if TrainingJobName in sagemaker.jobs and len(looks) > seen + 1 or not seen:
            raise fault
        return describe(TrainingJobName)

    monkeypatch.setattr(sagemaker, "_DescribeTrainingJob", once)
    with pytest.raises(AirflowException) as failure:
        run(snapshot, deferrable=False)
    assert isinstance(failure.value, AirflowFailException) is not retried
    name = next(iter(sagemaker.jobs), "pms-")
    assert "goes on and is billed: clear this task to attach" in str(failure.value)
    assert f"aws sagemaker stop-training-job --training-job-name {name}" in str(failure.value)


def test_job_that_cannot_be_stopped_is_said_to_run(
    sagemaker: FakeSageMaker, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise refusal("StopTrainingJob", "AccessDeniedException", "no")

    sagemaker.next_job = [RUNNING]
    with monkeypatch.context() as patch:
        patch.setattr(sagemaker, "_StopTrainingJob", refuse)
        with pytest.raises(AirflowException, match="could not be stopped") as failure:
            run(snapshot)
    assert not isinstance(failure.value, AirflowFailException)
    [name] = sagemaker.jobs
    assert (
        f"stop it: aws sagemaker stop-training-job --training-job-name {name}" in str(failure.value).lower()
    )
    # The retry attaches, and stops it.
    with pytest.raises(AirflowFailException, match="told to stop"):
        run(snapshot, execution_timeout=timedelta(seconds=1))

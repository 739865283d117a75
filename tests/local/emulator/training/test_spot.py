"""Jobs that do not get, or do not keep, their instance."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.cloud import BUCKET, Cloud, eventually
from tests.local.emulator.training.test_tuning import trials_of, tuning_request

Faults = Callable[..., None]
GOES_ON = """
    import os, pathlib, signal, sys, time
    folder = pathlib.Path(os.environ["PMS_CHECKPOINT_DIR"])
    folder.mkdir(exist_ok=True)
    here = pathlib.Path(os.environ["SM_MODEL_DIR"], "made-here")
    print("fresh" if not here.exists() else "used", sorted(path.name for path in folder.iterdir()))
    print(f"mrr={0.1 + len(list(folder.iterdir())):.1f}", flush=True)
    here.write_text("x")

    def leave(*_):
        (folder / "at-term").write_text("x")
        sys.exit(143)

    signal.signal(signal.SIGTERM, leave)
    if (folder / "at-term").exists():
        print("goes on")
        sys.exit()
    (folder / "epoch-1").write_text("x")
    time.sleep(600)
"""
SPOT = {
    "EnableManagedSpotTraining": True,
    "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
}


def _kept(cloud: Cloud) -> tuple[str, dict[str, str]]:
    prefix = f"kept/{cloud.name()}/"
    return prefix, {"S3Uri": f"s3://{BUCKET}/{prefix}"}


def _keys(cloud: Cloud, prefix: str) -> list[str]:
    found = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [item["Key"].removeprefix(prefix) for item in found]


def _log(cloud: Cloud, job: dict[str, Any]) -> str:
    return (cloud.state_dir / "jobs" / job["TrainingJobName"] / "training.log").read_text()


def _states(job: dict[str, Any]) -> list[str]:
    return [step["Status"] for step in job["SecondaryStatusTransitions"]]


LONE = {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1}
BEGINS = ["Starting", "Pending", "Downloading", "Training"]


def test_an_interrupted_job_goes_on_from_its_checkpoints_on_another_instance(
    cloud: Cloud, faults: Faults
) -> None:
    prefix, kept = _kept(cloud)
    request = cloud.job_request(GOES_ON, **SPOT, CheckpointConfig=kept)
    metric = {"Name": "mrr", "Regex": r"mrr=([0-9.]+)"}
    request["AlgorithmSpecification"]["MetricDefinitions"] = [metric]
    interruption = {"event": "spot_interruption", "after_seconds": 1, "seconds": 0.3}
    faults({"job": request["TrainingJobName"], **interruption})
    cloud.sagemaker.create_training_job(**request)
    job = cloud.finished(request["TrainingJobName"])
    assert job["TrainingJobStatus"] == "Completed"
    assert _states(job) == [*BEGINS, "Interrupted", *BEGINS, "Uploading", "Completed"]
    assert _log(cloud, job).splitlines() == [
        "fresh []",
        "mrr=0.1",
        "fresh ['at-term', 'epoch-1']",
        "mrr=2.1",
        "goes on",
    ]
    assert job["FinalMetricDataList"][0]["Value"] == pytest.approx(2.1)
    assert sorted(_keys(cloud, prefix)) == ["at-term", "epoch-1"]
    # Time without an instance is not billed, and the rest costs less.
    assert job["TrainingTimeInSeconds"] > job["BillableTimeInSeconds"] >= 1
    streams = cloud.client("logs").describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{job['TrainingJobName']}/"
    )["logStreams"]
    assert len(streams) == 2


def test_checkpoints_are_on_s3_while_the_job_runs(cloud: Cloud) -> None:
    prefix, kept = _kept(cloud)
    request = cloud.job_request(GOES_ON, CheckpointConfig=kept)
    cloud.sagemaker.create_training_job(**request)
    eventually(lambda: _keys(cloud, prefix) == ["epoch-1"])
    cloud.sagemaker.stop_training_job(TrainingJobName=request["TrainingJobName"])
    assert cloud.finished(request["TrainingJobName"])["TrainingJobStatus"] == "Stopped"
    assert sorted(_keys(cloud, prefix)) == ["at-term", "epoch-1"]


def test_a_job_that_waits_for_capacity_gets_it_or_runs_out_of_time(cloud: Cloud, faults: Faults) -> None:
    lucky, late = cloud.job_request("pass", **SPOT), cloud.job_request("pass", **SPOT)
    late["StoppingCondition"] = {"MaxRuntimeInSeconds": 1, "MaxWaitTimeInSeconds": 1}
    faults(
        {"job": lucky["TrainingJobName"], "event": "no_capacity", "seconds": 0.2, "times": 2},
        {"job": late["TrainingJobName"], "event": "no_capacity", "seconds": 0.2, "times": None},
    )
    for request in (lucky, late):
        cloud.sagemaker.create_training_job(**request)
    job = cloud.finished(lucky["TrainingJobName"])
    assert _states(job) == [*BEGINS, "Uploading", "Completed"]
    job = cloud.finished(late["TrainingJobName"])
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    assert "TrainingStartTime" not in job and "BillableTimeInSeconds" not in job
    assert "Insufficient capacity" in job["SecondaryStatusTransitions"][1]["StatusMessage"]


def test_an_interruption_that_lasts_ends_the_wait(cloud: Cloud, faults: Faults) -> None:
    _, kept = _kept(cloud)
    request = cloud.job_request(GOES_ON, **SPOT, CheckpointConfig=kept)
    request["StoppingCondition"] = {"MaxRuntimeInSeconds": 2, "MaxWaitTimeInSeconds": 2}
    faults({"job": "*", "event": "spot_interruption", "seconds": 600})
    begun = time.monotonic()
    cloud.sagemaker.create_training_job(**request)
    job = cloud.finished(request["TrainingJobName"])
    assert time.monotonic() - begun < 10
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    assert "Interrupted" in _states(job)


def test_without_spot_no_capacity_fails_the_job(cloud: Cloud, faults: Faults) -> None:
    faults({"job": "*", "event": "no_capacity", "seconds": 0})
    job = cloud.run_job("pass")
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith(
        "CapacityError: Unable to provision requested ML compute capacity."
    )
    assert _states(job) == ["Starting", "Pending", "Failed"]


def test_a_job_is_stopped_while_it_waits(cloud: Cloud, faults: Faults) -> None:
    request = cloud.job_request("pass", **SPOT)
    faults({"job": "*", "event": "no_capacity", "seconds": 600})
    cloud.sagemaker.create_training_job(**request)
    cloud.wait_status(request["TrainingJobName"], "Pending")
    cloud.sagemaker.stop_training_job(TrainingJobName=request["TrainingJobName"])
    assert cloud.finished(request["TrainingJobName"])["SecondaryStatus"] == "Stopped"


HANGS = "import time; print('begins', flush=True); time.sleep(600)"


@pytest.mark.parametrize(
    ("reason", "told"),
    [(None, "InternalServerError: We encountered"), ("ClientError: no such image", "ClientError: no such")],
)
def test_a_job_fails_on_demand(cloud: Cloud, faults: Faults, reason: str | None, told: str) -> None:
    faults({"job": "*", "event": "fail", "reason": reason, "times": None})
    job = cloud.run_job(HANGS, RetryStrategy={"MaximumRetryAttempts": 1})
    assert job["FailureReason"].startswith(told)
    again = ["Restarting", *BEGINS] if reason is None else []
    assert _states(job) == [*BEGINS, *again, "Failed"]


def test_only_a_spot_instance_can_be_taken_away(cloud: Cloud, faults: Faults) -> None:
    faults({"job": "*", "event": "spot_interruption"})
    assert _states(cloud.run_job("import time; time.sleep(0.5)"))[-2:] == ["Uploading", "Completed"]
    assert len(cloud.faults()) == 1


@pytest.mark.parametrize(
    ("spot", "limits"),
    [
        (True, {"MaxRuntimeInSeconds": 60}),
        (True, {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 59}),
        (True, {"MaxWaitTimeInSeconds": 3600}),  # the default of MaxRuntimeInSeconds is a day
        (False, {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60}),
    ],
)
def test_limits_that_do_not_go_with_spot_are_refused(
    cloud: Cloud, spot: bool, limits: dict[str, int]
) -> None:
    request = cloud.job_request("pass", EnableManagedSpotTraining=spot, StoppingCondition=limits)
    with pytest.raises(ClientError, match="ValidationException.*Invalid MaxWaitTimeInSeconds"):
        cloud.sagemaker.create_training_job(**request)


def test_a_search_hands_everything_on_to_its_trials(cloud: Cloud, faults: Faults) -> None:
    _, kept = _kept(cloud)
    own = {
        **SPOT,
        "CheckpointConfig": kept,
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        "RetryStrategy": {"MaximumRetryAttempts": 1},
        "Environment": {"A": "b"},
        "EnableNetworkIsolation": False,
        "EnableInterContainerTrafficEncryption": True,
    }
    request = tuning_request(cloud, GOES_ON, definition=own, limits=LONE)
    name = request["HyperParameterTuningJobName"]
    request["Tags"] = [{"Key": "project", "Value": "x"}]
    instance = request["TrainingJobDefinition"].pop("ResourceConfig")
    request["TrainingJobDefinition"]["HyperParameterTuningResourceConfig"] = instance
    faults({"job": "*", "event": "spot_interruption", "after_seconds": 0.5, "seconds": 0})
    cloud.sagemaker.create_hyper_parameter_tuning_job(**request)
    [trial] = eventually(lambda: trials_of(cloud, name))
    with pytest.raises(cloud.sagemaker.exceptions.ResourceInUse):
        cloud.sagemaker.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    job = cloud.finished(trial["TrainingJobName"])
    assert {member: job[member] for member in own} == own
    assert job["ResourceConfig"] == instance
    assert "Interrupted" in _states(job)
    assert re.search("goes on", _log(cloud, job))
    assert cloud.sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"] == request["Tags"]

    def deleted() -> bool:
        try:
            cloud.sagemaker.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        except cloud.sagemaker.exceptions.ResourceInUse:
            return False
        return True

    eventually(deleted)
    with pytest.raises(cloud.sagemaker.exceptions.ResourceNotFound):
        cloud.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert cloud.sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])

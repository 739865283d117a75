"""Training jobs: the request for one, and what its description means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from include.contracts import BadInputError, Snapshot
from include.sagemaker.disks import has_own_disk
from include.sagemaker.source import ENTRY_POINT
from include.tags import tags

CHANNEL = "snapshot"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
# SageMaker's own tries after an internal fault of its own: the job keeps its name, its checkpoints and, for
# all of them together, its time. What is left goes to Airflow's retry, which starts a job of the next name.
RETRIES = 2
# Of the blend, before it learns from the validation sessions, too. The curve's last value is no measure of
# it: that is of the network alone, and the best epoch is kept.
FINAL_METRIC = "validation:final_mrr@20"
CHECKPOINTS = "/opt/ml/checkpoints"  # where train.py looks for them

# 128 and more is how a shell tells of a signal, a negative number how Python does.
_EXIT_CODE = re.compile(r"exit ?code:? *(-?\d+)", re.IGNORECASE)
_KILLED = (
    "it was killed, most likely because memory ran out: choose a larger instance, a smaller batch or fewer "
    "sessions"
)
_ABORTED = (
    "native code gave up, often for want of memory: see the end of its log, or choose a larger instance"
)
_CRASHED = "native code crashed: the image's driver and libraries may not fit this instance, choose another"
_SIGNALS = {137: _KILLED, -9: _KILLED, 134: _ABORTED, -6: _ABORTED, 139: _CRASHED, -11: _CRASHED}
_PROGRESS = re.compile(r"(epoch|refit)=(\d+)/(\d+) ")

_NUMBER = r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
# Lines of train.py: `epoch=1/10 loss=5.1234 val_mrr@20=0.1234 …`. The space before the name keeps
# `val_loss=` from being read as `loss=`.
METRIC_DEFINITIONS = (
    {"Name": "epoch", "Regex": r"epoch=([0-9]+)/"},
    {"Name": "train:loss", "Regex": rf"epoch=[0-9]+/[0-9]+ .*?\bloss={_NUMBER}"},
    {"Name": "validation:mrr@20", "Regex": rf"epoch=[0-9]+/[0-9]+ .*?val_mrr@20={_NUMBER}"},
    {"Name": "validation:hit_rate@20", "Regex": rf"epoch=[0-9]+/[0-9]+ .*?val_hit_rate@20={_NUMBER}"},
    {"Name": FINAL_METRIC, "Regex": rf"\bblend network=.*?val_mrr@20={_NUMBER}"},
    {
        "Name": "train:interactions_per_second",
        "Regex": rf"epoch=[0-9]+/[0-9]+ .*?interactions_per_second={_NUMBER}",
    },
)

# SageMaker's side of a failure; the same job may well succeed.
WORTH_ANOTHER_JOB = ("InternalServerError", "CapacityError", "InsufficientCapacity", "Insufficient capacity")


class Machines(NamedTuple):
    """What a training runs on. Only type and number of instances change what is learned.

    Attributes:
        instances: Number of them; each learns from its share of the same batches.
        volume_gb: Disk of an instance that has none of its own.
        spot_wait_seconds: Time that a job may wait for spare capacity, in all; None for capacity on demand.
        network: `VpcConfig`; None for no VPC.
        kms_key_id: Key of artefacts and volumes; None for AWS's own.
    """

    instance_type: str
    instances: int = 1
    volume_gb: int = 50
    spot_wait_seconds: int | None = None
    network: Mapping[str, list[str]] | None = None
    kms_key_id: str | None = None


class TrainingOutcome(NamedTuple):
    """What a job's description says.

    Attributes:
        reason: Why it failed, in SageMaker's words and with advice; empty unless failed.
        worth_retry: Whether another job with the same inputs may succeed.
    """

    state: Literal["running", "done", "failed"]
    reason: str = ""
    worth_retry: bool = False


def script_hyperparameters(
    hyperparameters: Mapping[str, object], source_uri: str, region: str | None
) -> dict[str, str]:
    """Returns the job's hyper-parameters as script mode wants them: every value JSON in a string.

    Args:
        hyperparameters: What reaches the script as `--name value`; None leaves a name out.
        source_uri: `s3://…/sourcedir.tar.gz`.
        region: Region of the job.

    Raises:
        BadInputError: A name is reserved for the container.
    """
    reserved = [name for name in hyperparameters if name.startswith("sagemaker_")]
    if reserved:
        raise BadInputError(f"Hyper-parameters {', '.join(reserved)} are reserved for SageMaker's container.")
    everything: dict[str, object] = {
        **hyperparameters,
        "sagemaker_program": ENTRY_POINT,
        "sagemaker_submit_directory": source_uri,
        "sagemaker_container_log_level": 20,
        "sagemaker_region": region,
    }
    return {name: json.dumps(value) for name, value in everything.items() if value is not None}


def training_request(
    *,
    job_name: str,
    snapshot: Snapshot,
    hyperparameters: Mapping[str, object],
    source_uri: str,
    output_uri: str,
    image: str,
    role_arn: str,
    machines: Machines,
    max_runtime_seconds: int,
    region: str | None = None,
    tracking: str = "none",
    environment: Mapping[str, str] | None = None,
    resource_tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the whole CreateTrainingJob request.

    Args:
        job_name: Name of the job.
        snapshot: The data; its whole prefix becomes the one channel.
        hyperparameters: What reaches the script as `--name value`.
        source_uri: `s3://…/sourcedir.tar.gz` of the script.
        output_uri: Prefix under which SageMaker puts `<job>/output/` and keeps `<job>/checkpoints/`.
        image: Image of the container.
        role_arn: Execution role of the job.
        machines: What it runs on.
        max_runtime_seconds: SageMaker stops the job, and billing, after this long.
        region: Region of the job.
        tracking: Where the script copies parameters and learning curve.
        environment: Variables of the script. DescribeTrainingJob shows them: none may be a secret.
        resource_tags: Tags of the job besides the project's own.

    Raises:
        BadInputError: A hyper-parameter's name is reserved, or the time is not positive.
    """
    if max_runtime_seconds < 1:
        raise BadInputError(f"A training job needs at least one second, not {max_runtime_seconds}.")
    wait = machines.spot_wait_seconds
    own_disk = has_own_disk(machines.instance_type)
    if tracking != "none":
        hyperparameters = {**hyperparameters, "tracking": tracking}
    return {
        "TrainingJobName": job_name,
        "RoleArn": role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [dict(definition) for definition in METRIC_DEFINITIONS],
        },
        "HyperParameters": script_hyperparameters(hyperparameters, source_uri, region),
        "InputDataConfig": [
            {
                "ChannelName": CHANNEL,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": snapshot.uri,
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
                "InputMode": "File",
            }
        ],
        "OutputDataConfig": _without_none(S3OutputPath=output_uri.rstrip("/"), KmsKeyId=machines.kms_key_id),
        # Of the first job's name: the job that follows a failed or stopped one goes on from its checkpoints.
        "CheckpointConfig": {
            "S3Uri": f"{output_uri.rstrip('/')}/{job_name}/checkpoints/",
            "LocalPath": CHECKPOINTS,
        },
        "ResourceConfig": _without_none(
            InstanceCount=machines.instances,
            InstanceType=machines.instance_type,
            VolumeSizeInGB=None if own_disk else machines.volume_gb,
            VolumeKmsKeyId=None if own_disk else machines.kms_key_id,
        ),
        "StoppingCondition": _without_none(
            MaxRuntimeInSeconds=max_runtime_seconds,
            MaxWaitTimeInSeconds=None if wait is None else max_runtime_seconds + wait,
        ),
        "RetryStrategy": {"MaximumRetryAttempts": RETRIES},
        "EnableManagedSpotTraining": wait is not None,
        **({"VpcConfig": dict(machines.network)} if machines.network else {}),
        **({"Environment": dict(environment)} if environment else {}),
        "Tags": tags(resource_tags, snapshot_id=snapshot.snapshot_id),
    }


def limit_of(stopping: Mapping[str, Any]) -> int:
    """Returns the seconds that a `StoppingCondition` gives a job, the wait for spare capacity included."""
    return int(stopping.get("MaxWaitTimeInSeconds") or stopping["MaxRuntimeInSeconds"])


def training_outcome(description: Mapping[str, Any]) -> TrainingOutcome:
    """Reads a DescribeTrainingJob answer.

    A job that was stopped has no result to use, whatever SageMaker uploaded of it: it is a failure.
    """
    name = description.get("TrainingJobName", "")
    status = description.get("TrainingJobStatus", "")
    if status in {"InProgress", "Stopping"}:
        return TrainingOutcome("running")
    if status == "Completed":
        return TrainingOutcome("done")
    if status == "Stopped":
        if description.get("SecondaryStatus") == "MaxRuntimeExceeded":
            limit = description.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", "its limit of")
            return TrainingOutcome(
                "failed",
                f"Training job {name} was stopped after {limit} s, the most it was allowed: "
                "allow more minutes, fewer epochs or a larger instance.",
            )
        if description.get("SecondaryStatus") == "MaxWaitTimeExceeded":
            return TrainingOutcome(
                "failed",
                f"Training job {name} found too little spare capacity within "
                f"{description.get('StoppingCondition', {}).get('MaxWaitTimeInSeconds', 'its time of')} s: "
                "raise PMS_SPOT_WAIT_MINUTES, choose another instance, or train on demand.",
            )
        return TrainingOutcome("failed", f"Training job {name} was stopped before it had finished.")
    if status == "Failed":
        reason = str(description.get("FailureReason") or "SageMaker gave no reason.")
        return TrainingOutcome(
            "failed",
            f"Training job {name} failed: {reason}{_hint(reason)}",
            worth_retry=reason.startswith(WORTH_ANOTHER_JOB),
        )
    return TrainingOutcome("failed", f"Training job {name} is in the unexpected state {status!r}.")


def _hint(reason: str) -> str:
    """What an exit code that names a signal means; empty for every other reason."""
    for code in _EXIT_CODE.findall(reason):
        if told := _SIGNALS.get(int(code)):
            return f" (exit code {code}: {told})"
    return ""


def progress_of(line: str) -> str | None:
    """Returns how far a line of the job's log says that it is; None where it says nothing of it."""
    found = _PROGRESS.match(line)
    if found is None:
        return None
    phase, epoch, epochs = found[1], int(found[2]), int(found[3])
    told = dict(part.split("=", 1) for part in line[found.end() :].split() if "=" in part)
    figures = [
        f"{title} {told[name]}"
        for name, title in (("loss", "loss"), ("val_mrr@20", "validation MRR@20"))
        if name in told
    ]
    again = "" if phase == "epoch" else "again with the validation sessions, "
    return ", ".join([f"{again}epoch {epoch}/{epochs} ({100 * epoch // max(epochs, 1)} %)", *figures])


def _without_none(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}

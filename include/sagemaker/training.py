"""Training jobs: the request for one, and what its description means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from include.contracts import BadInputError, Snapshot, TrainedModel
from include.sagemaker.source import ENTRY_POINT

CHANNEL = "snapshot"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
VOLUME_GB = 50
# Of the blend, before it learns from the validation sessions, too. The curve's last value is no measure of
# it: that is of the network alone, and the best epoch is kept.
FINAL_METRIC = "validation:final_mrr@20"
CHECKPOINTS = "/opt/ml/checkpoints"  # where train.py looks for them

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
    instance_type: str,
    max_runtime_seconds: int,
    region: str | None = None,
    tracking: str = "none",
    environment: Mapping[str, str] | None = None,
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
        instance_type: One such instance is used.
        max_runtime_seconds: SageMaker stops the job, and billing, after this long.
        region: Region of the job.
        tracking: Where the script copies parameters and learning curve.
        environment: Variables of the script. DescribeTrainingJob shows them: none may be a secret.

    Raises:
        BadInputError: A hyper-parameter's name is reserved, or the time is not positive.
    """
    if max_runtime_seconds < 1:
        raise BadInputError(f"A training job needs at least one second, not {max_runtime_seconds}.")
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
        "OutputDataConfig": {"S3OutputPath": output_uri.rstrip("/")},
        # Of the first job's name: the job that follows a failed or stopped one goes on from its checkpoints.
        "CheckpointConfig": {
            "S3Uri": f"{output_uri.rstrip('/')}/{job_name}/checkpoints/",
            "LocalPath": CHECKPOINTS,
        },
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": instance_type, "VolumeSizeInGB": VOLUME_GB},
        "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime_seconds},
        **({"Environment": dict(environment)} if environment else {}),
        "Tags": tags(snapshot_id=snapshot.snapshot_id),
    }


def tags(**values: str) -> list[dict[str, str]]:
    """Returns SageMaker tags: the project's own, then the given ones."""
    return [{"Key": key, "Value": value} for key, value in {"project": "post-modern-stack", **values}.items()]


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
        return TrainingOutcome("failed", f"Training job {name} was stopped before it had finished.")
    if status == "Failed":
        reason = str(description.get("FailureReason") or "SageMaker gave no reason.")
        return TrainingOutcome(
            "failed",
            f"Training job {name} failed: {reason}",
            worth_retry=reason.startswith(WORTH_ANOTHER_JOB),
        )
    return TrainingOutcome("failed", f"Training job {name} is in the unexpected state {status!r}.")


def trained_model(description: Mapping[str, Any], snapshot_id: str) -> TrainedModel:
    """Returns the claim check of a completed job.

    Args:
        description: Answer of DescribeTrainingJob.
        snapshot_id: The data the job was given.

    Raises:
        BadInputError: The job is not completed or names no artefact.
    """
    name = str(description.get("TrainingJobName", ""))
    artefact = description.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if description.get("TrainingJobStatus") != "Completed" or not artefact:
        raise BadInputError(f"Training job {name} has no model: {description.get('TrainingJobStatus')}.")
    output = str(description["OutputDataConfig"]["S3OutputPath"]).rstrip("/")
    seconds = description.get("BillableTimeInSeconds") or description.get("TrainingTimeInSeconds") or 0
    return TrainedModel(
        job_name=name,
        job_arn=str(description["TrainingJobArn"]),
        snapshot_id=snapshot_id,
        model_uri=str(artefact),
        evaluation_uri=f"{output}/{name}/output/output.tar.gz",
        billable_seconds=int(seconds),
    )

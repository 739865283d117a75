"""What a finished training job made, took and cost, as its description says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from include.contracts import BadInputError, Snapshot, TrainedModel
from include.sagemaker.prices import load_prices


def trained_model(description: Mapping[str, Any], snapshot: Snapshot) -> TrainedModel:
    """Returns the claim check of a completed job.

    Args:
        description: Answer of DescribeTrainingJob.
        snapshot: The data the job was given.

    Raises:
        BadInputError: The job is not completed or names no artefact.
    """
    name = str(description.get("TrainingJobName", ""))
    artefact = description.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if description.get("TrainingJobStatus") != "Completed" or not artefact:
        raise BadInputError(f"Training job {name} has no model: {description.get('TrainingJobStatus')}.")
    output = str(description["OutputDataConfig"]["S3OutputPath"]).rstrip("/")
    seconds = billable_seconds(description)
    return TrainedModel(
        job_name=name,
        job_arn=str(description["TrainingJobArn"]),
        snapshot_id=snapshot.snapshot_id,
        model_uri=str(artefact),
        evaluation_uri=f"{output}/{name}/output/output.tar.gz",
        billable_seconds=seconds,
        cost_usd=cost_of(description, seconds),
        spot_saving=spot_saving([description]),
        data_until=snapshot.end_date,
        trained_at=moment_of(description),
    )


def billable_seconds(description: Mapping[str, Any]) -> int:
    """Returns what a job is billed for: SageMaker's figure is that of each of its instances."""
    seconds = description.get("BillableTimeInSeconds") or description.get("TrainingTimeInSeconds") or 0
    return int(seconds) * int(description.get("ResourceConfig", {}).get("InstanceCount", 1))


def spot_saving(descriptions: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the share of the jobs' time that was not billed; None where all were on demand or none ran."""
    spot = [job for job in descriptions if job.get("EnableManagedSpotTraining")]
    trained = sum(int(job.get("TrainingTimeInSeconds") or 0) for job in spot)
    if not trained:
        return None
    billed = sum(int(job.get("BillableTimeInSeconds") or 0) for job in spot)
    return max(0.0, 1 - billed / trained)


def cost_of(description: Mapping[str, Any], seconds: float) -> float | None:
    """Returns what billable seconds on a job's instance cost at list price; None where there is none."""
    region = str(description["TrainingJobArn"]).split(":")[3]
    return load_prices().of_training(
        region, str(description.get("ResourceConfig", {}).get("InstanceType")), seconds
    )


def moment_of(description: Mapping[str, Any]) -> str | None:
    """Returns when a job was created, ISO in UTC; None where its description does not say."""
    created: datetime | None = description.get("CreationTime")
    return None if created is None else created.astimezone(UTC).isoformat(timespec="seconds")

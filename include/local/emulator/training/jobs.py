"""SageMaker's operations on training jobs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from botocore.model import StructureShape

from include.local.emulator.machine import storage
from include.local.emulator.machine.workers import Workers
from include.local.emulator.resources.store import Store
from include.local.emulator.training import container
from include.local.emulator.training.job_run import JobRun, Machine
from include.local.emulator.training.job_state import UNDER_WAY, TrainingJob
from include.local.emulator.training.logs import remove_streams
from include.local.emulator.wire.errors import AwsError, validation_error
from include.local.emulator.wire.faults import Faults
from include.local.emulator.wire.shapes import operation, pick


class TrainingJobs:
    """The training jobs of one emulator.

    Args:
        url: Address of the emulator, known once it listens.
        folder: Where each job gets a folder of its name.
        ml_python: Interpreter that runs the scripts.
        stop_grace_seconds: Time between TERM and KILL (AWS gives 120 s).
        faults: What goes wrong on demand.
        state: Where the resources' files lie.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        ml_python: str,
        stop_grace_seconds: float,
        faults: Faults,
        state: Path | None = None,
    ) -> None:
        self._workers = Workers()
        closing = self._workers.closing
        self._machine = Machine(url, folder, ml_python, stop_grace_seconds, faults, closing)
        self.store = _JobStore(state)

    def create(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateTrainingJob."""
        self.check(region, request)
        job = TrainingJob(request["TrainingJobName"], region, request)
        self.start(job)
        return {"TrainingJobArn": job.arn}

    def check(self, region: str, request: dict[str, Any]) -> None:
        """Refuses what SageMaker, or this machine, would not run.

        Raises:
            AwsError: `ValidationException` or `ResourceLimitExceeded`.
        """
        container.check_job(request)
        self._check_channels(region, request)

    def start(self, job: TrainingJob) -> None:
        """Runs a job that has been checked.

        Raises:
            AwsError: `ResourceInUse` or `ServiceUnavailable`.
        """
        if any(other.name == job.name for other in self.store):  # two regions share the folder
            raise self.store.already_exists(job)
        self.store.add(job)
        job.step("Starting")
        self._run(job, resumed=False)

    def resume(self) -> None:
        """Goes on with the jobs that were under way when the emulator last ended, as after a spot loss."""
        for job in self.store:
            if job.status not in UNDER_WAY:
                continue
            with job.lock:
                job.since = None
            if job.status == "Stopping":
                job.stop_asked.set()
            else:
                job.step("Interrupted")
                job.step("Starting")
            self._run(job, resumed=True)

    def describe(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeTrainingJob."""
        job = self.store.get(region, request["TrainingJobName"])
        shape = operation("DescribeTrainingJob").output_shape
        assert isinstance(shape, StructureShape)
        with job.lock:
            answer = pick(shape, job.request)
            answer |= {
                "TrainingJobArn": job.arn,
                "ModelArtifacts": {"S3ModelArtifacts": storage.join_uri(job.output_uri, "model.tar.gz")},
                "TrainingJobStatus": job.status,
                "SecondaryStatus": job.secondary,
                "StoppingCondition": {
                    **job.request.get("StoppingCondition", {}),
                    "MaxRuntimeInSeconds": job.max_runtime,
                },
                "CreationTime": job.created,
                "LastModifiedTime": job.modified,
                "SecondaryStatusTransitions": [dict(transition) for transition in job.transitions],
                "FinalMetricDataList": [
                    {"MetricName": name, "Value": value, "Timestamp": moment}
                    for name, (value, moment) in job.metrics.items()
                ],
                **job.times(),
            }
            if job.failure_reason:
                answer["FailureReason"] = job.failure_reason
            if job.tuning_arn:
                answer["TuningJobArn"] = job.tuning_arn
        return answer

    def stop(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """StopTrainingJob."""
        job = self.store.get(region, request["TrainingJobName"])
        with job.lock:
            if job.status not in UNDER_WAY:
                raise validation_error(
                    f"The request was rejected because the training job is in status {job.status}."
                )
            if not job.stop_asked.is_set():
                job.status = "Stopping"
                job.stop_asked.set()
                job.step("Stopping")
        return {}

    def delete(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteTrainingJob: forgets a job that has ended, with its log; S3 keeps what it made."""
        job = self.store.get(region, request["TrainingJobName"])
        with job.lock:
            if job.status in UNDER_WAY:
                raise AwsError(
                    "ResourceInUse", f"Training job {job.arn} is in status {job.status}: stop it first."
                )
            self.store.remove(region, job.name)
        remove_streams(storage.client("logs", self._machine.url, region), job.name)
        shutil.rmtree(self._machine.folder / job.name, ignore_errors=True)
        return {}

    def list_jobs(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListTrainingJobs."""
        return self.store.page(region, request, "TrainingJobSummaries", _summary)

    def close(self) -> None:
        """Ends every job and its processes; on disk they are in progress, and `resume` goes on with them."""
        self.store.freeze()
        self._workers.close()
        for job in self.store:
            with job.lock:
                if job.status == "InProgress":
                    job.status = "Stopping"
                job.stop_asked.set()
        self._workers.join(self._machine.grace_seconds + 10)

    def _run(self, job: TrainingJob, *, resumed: bool) -> None:
        run = JobRun(job, self._machine)
        self._workers.start(f"training-{job.name}", lambda: run.run(resumed=resumed))

    def _check_channels(self, region: str, request: dict[str, Any]) -> None:
        s3 = storage.client("s3", self._machine.url, region)
        for channel in request.get("InputDataConfig", []):
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            if not storage.has_objects(s3, uri):
                raise validation_error(
                    f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure '
                    f"that the bucket exists in the selected region ({region}), that objects exist under "
                    f'that S3 prefix, and that the role "{request["RoleArn"]}" has "s3:ListBucket" '
                    "permissions on the bucket."
                )


class _JobStore(Store[TrainingJob]):
    """Jobs are the one kind whose errors have codes of their own."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__(TrainingJob, folder)

    def already_exists(self, item: TrainingJob) -> AwsError:
        return AwsError(
            "ResourceInUse",
            "Training job names must be unique within an AWS account and region: there is a training job "
            f"with that name already ({item.arn})",
        )

    def not_found(self, region: str, name: str) -> AwsError:
        # The API's description promises ResourceNotFound; the service itself has always sent this.
        return validation_error("Requested resource not found.")


def _summary(job: TrainingJob) -> dict[str, Any]:
    summary = {
        "TrainingJobName": job.name,
        "TrainingJobArn": job.arn,
        "CreationTime": job.created,
        "LastModifiedTime": job.modified,
        "TrainingJobStatus": job.status,
        "SecondaryStatus": job.secondary,
    }
    return summary if job.ended is None else {**summary, "TrainingEndTime": job.ended}

"""Training jobs that really train: states, transitions, processes."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from botocore.model import StructureShape

from include.local.emulator import storage, training
from include.local.emulator.archives import HostileArchiveError, extract, pack
from include.local.emulator.errors import AwsError, JobFailure, validation_error
from include.local.emulator.logs import JobLog
from include.local.emulator.persistence import LIVE
from include.local.emulator.processes import ChildProcess, clean_environment
from include.local.emulator.resources import Resource, Store, now
from include.local.emulator.shapes import operation, pick
from include.local.emulator.workers import Workers

_DEFAULT_MAX_RUNTIME = 86_400
_REASON_LENGTH = 1024
_POLL_SECONDS = 0.2
_MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading the training data and code",
    "Training": "Training in progress",
    "Uploading": "Uploading generated training model",
    "Interrupted": "The training job was interrupted and goes on from its last checkpoint",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
}
log = logging.getLogger(__name__)


class _Stopped(Exception):
    """Unwinds a job that was asked to stop."""


@dataclass
class TrainingJob(Resource):
    """A job and where it stands.

    Attributes:
        tuning_arn: The tuning job whose trial it is.
    """

    kind: ClassVar[str] = "training-job"
    label: ClassVar[str] = "training job"

    tuning_arn: str | None = None
    status: str = "InProgress"
    secondary: str = ""
    transitions: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, tuple[float, datetime]] = field(default_factory=dict)
    failure_reason: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    stop_asked: threading.Event = field(default_factory=threading.Event, metadata=LIVE)

    @property
    def state(self) -> str:
        """TrainingJobStatus."""
        return self.status

    @property
    def output_uri(self) -> str:
        """Where `model.tar.gz` and `output.tar.gz` go."""
        return storage.join_uri(self.request["OutputDataConfig"]["S3OutputPath"], self.name, "output")

    @property
    def checkpoint_uri(self) -> str:
        """Where checkpoints are kept; empty if nowhere."""
        return str(self.request.get("CheckpointConfig", {}).get("S3Uri", ""))

    @property
    def max_runtime(self) -> int:
        """Limit of the script's run, in seconds."""
        return int(self.request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", _DEFAULT_MAX_RUNTIME))

    def step(self, secondary: str, message: str | None = None) -> None:
        """Enters a secondary status and notes the transition."""
        with self.lock:
            moment = now()
            if self.transitions:
                self.transitions[-1]["EndTime"] = moment
            text = message or _MESSAGES[secondary]
            self.transitions.append({"Status": secondary, "StartTime": moment, "StatusMessage": text})
            self.secondary, self.modified = secondary, moment

    def advance(self, secondary: str) -> None:
        """Enters the next step of a job that nobody has asked to stop.

        Raises:
            _Stopped: Somebody has.
        """
        with self.lock:
            if self.stop_asked.is_set():
                raise _Stopped
            self.step(secondary)

    def end(self, status: str, secondary: str, reason: str | None = None) -> None:
        """Enters its last state."""
        with self.lock:
            self.step(secondary)
            self.failure_reason = reason[:_REASON_LENGTH] if reason else None
            if reason:
                self.transitions[-1]["StatusMessage"] = self.failure_reason
            self.transitions[-1]["EndTime"] = self.modified
            self.ended, self.status = self.modified, status


class TrainingJobs:
    """The training jobs of one emulator.

    Args:
        url: Address of the emulator, known once it listens.
        folder: Where each job gets a folder of its name.
        ml_python: Interpreter that runs the scripts.
        stop_grace_seconds: Time between TERM and KILL (AWS gives 120 s).
        state: Where the resources' files lie.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        ml_python: str,
        stop_grace_seconds: float,
        state: Path | None = None,
    ) -> None:
        self._url = url
        self._folder = folder
        self._ml_python = ml_python
        self._grace = stop_grace_seconds
        self._workers = Workers()
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
        training.check_job(request)
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
        self._workers.start(f"training-{job.name}", lambda: self._run(job))

    def resume(self) -> None:
        """Goes on with the jobs that were under way when the emulator last ended, as after a spot loss."""
        for job in self.store:
            if job.status == "Stopping":
                job.stop_asked.set()
            elif job.status != "InProgress":
                continue
            else:
                self._keep_checkpoints(job, training.Workspace(self._folder / job.name))
                job.step("Interrupted")
                job.step("Starting")
            self._workers.start(f"training-{job.name}", partial(self._run, job))

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
                **_times(job),
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
            if job.status not in ("InProgress", "Stopping"):
                raise validation_error(
                    f"The request was rejected because the training job is in status {job.status}."
                )
            if not job.stop_asked.is_set():
                job.status = "Stopping"
                job.stop_asked.set()
                job.step("Stopping")
        return {}

    def list_jobs(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListTrainingJobs."""
        return self.store.page(region, request, "TrainingJobSummaries", _summary)

    def close(self) -> None:
        """Ends every job and its processes; on disk they are in progress, and `resume` goes on with them."""
        self._workers.close()
        self.store.freeze()
        for job in self.store:
            with job.lock:
                if job.status == "InProgress":
                    job.status = "Stopping"
                job.stop_asked.set()
        self._workers.join(self._grace + 10)

    def _check_channels(self, region: str, request: dict[str, Any]) -> None:
        s3 = storage.client("s3", self._url, region)
        for channel in request.get("InputDataConfig", []):
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            if not storage.has_objects(s3, uri):
                raise validation_error(
                    f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure '
                    f"that the bucket exists in the selected region ({region}), that objects exist under "
                    f'that S3 prefix, and that the role "{request["RoleArn"]}" has "s3:ListBucket" '
                    "permissions on the bucket."
                )

    def _run(self, job: TrainingJob) -> None:
        workspace = training.Workspace(self._folder / job.name)
        try:
            self._train(job, workspace)
        except _Stopped:
            job.end("Stopped", "Stopped")
        except JobFailure as failure:
            job.end("Failed", "Failed", str(failure))
        except Exception as error:
            log.exception("training job %s", job.name)
            job.end("Failed", "Failed", f"InternalServerError: {type(error).__name__}: {error}")

    def _train(self, job: TrainingJob, workspace: training.Workspace) -> None:
        if workspace.root.exists():  # of an earlier run of the emulator
            shutil.rmtree(workspace.root)
        workspace.make()
        s3 = storage.client("s3", self._url, job.region)
        job.advance("Downloading")
        with job.lock:
            job.started = job.started or job.modified
        self._fetch(s3, job, workspace)
        job.advance("Training")
        outcome = self._execute(job, workspace)
        if self._workers.closing.is_set():
            raise _Stopped
        # As on AWS, what a stopped script has left in its model folder is kept.
        if outcome == "Completed":
            job.advance("Uploading")
        self._store(s3, job, workspace)
        with job.lock:
            if job.stop_asked.is_set() and outcome == "Completed":
                raise _Stopped
            job.end("Completed" if outcome == "Completed" else "Stopped", outcome)

    def _fetch(self, s3: Any, job: TrainingJob, workspace: training.Workspace) -> None:
        training.write_config(workspace, job.request)
        for channel in job.request.get("InputDataConfig", []):
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            try:
                storage.download_prefix(s3, uri, workspace.channel(channel["ChannelName"]))
            except (storage.MissingObjectError, ValueError) as error:
                raise JobFailure(f"ClientError: Data download failed:{error}") from error
        if (kept := job.checkpoint_uri) and storage.has_objects(s3, kept):
            storage.download_prefix(s3, kept, workspace.checkpoints)
        hyper_parameters = training.decode_hyper_parameters(job.request["HyperParameters"])
        self._fetch_code(s3, hyper_parameters, workspace)

    @staticmethod
    def _fetch_code(s3: Any, hyper_parameters: dict[str, Any], workspace: training.Workspace) -> None:
        uri = hyper_parameters[training.SUBMIT_DIRECTORY]
        archive = workspace.root / "sourcedir.tar.gz"
        try:
            storage.download(s3, uri, archive)
            extract(archive, workspace.code)
        except storage.MissingObjectError as error:
            raise JobFailure(f"AlgorithmError: there is no source archive at {uri}") from error
        except HostileArchiveError as error:
            raise JobFailure(f"AlgorithmError: the source archive {uri} is refused: {error}") from error
        program = (workspace.code / hyper_parameters[training.PROGRAM]).resolve()
        if not (program.is_file() and program.is_relative_to(workspace.code.resolve())):
            raise JobFailure(f"AlgorithmError: {program.name} is not in the source archive {uri}")

    def _execute(self, job: TrainingJob, workspace: training.Workspace) -> str:
        """Runs the script and returns the job's last secondary status, if it did not fail."""
        decoded = training.decode_hyper_parameters(job.request["HyperParameters"])
        command = [
            self._ml_python,
            decoded[training.PROGRAM],
            *training.arguments(training.user_hyper_parameters(decoded)),
        ]
        patterns = training.metric_patterns(job.request["AlgorithmSpecification"])
        job_log = JobLog(storage.client("logs", self._url, job.region), job.name, workspace.log, patterns)
        job.metrics = job_log.metrics
        env = clean_environment(training.environment(workspace, job.name, job.region, self._url, job.request))
        child = ChildProcess(command, env=env, cwd=workspace.code)
        try:
            job_log.follow(child.output)
            outcome = self._watch(job, child, job_log)
        finally:
            child.end(self._grace)
            job_log.finish()
            self._keep_checkpoints(job, workspace)
        if outcome == "Completed" and (status := child.poll()):
            raise JobFailure(_algorithm_error(status, workspace, job_log))
        return outcome

    def _keep_checkpoints(self, job: TrainingJob, workspace: training.Workspace) -> None:
        # SageMaker copies them all along; here a script's end, however it came, is soon enough.
        if job.checkpoint_uri and not self._workers.closing.is_set():
            s3 = storage.client("s3", self._url, job.region)
            for path in sorted(path for path in workspace.checkpoints.rglob("*") if path.is_file()):
                name = path.relative_to(workspace.checkpoints).as_posix()
                storage.upload(s3, path, storage.join_uri(job.checkpoint_uri, name))

    @staticmethod
    def _watch(job: TrainingJob, child: ChildProcess, job_log: JobLog) -> str:
        deadline = time.monotonic() + job.max_runtime
        while child.wait(_POLL_SECONDS) is None:
            job_log.flush()
            if job.stop_asked.is_set():
                return "Stopped"
            if time.monotonic() > deadline:
                return "MaxRuntimeExceeded"
        return "Completed"

    @staticmethod
    def _store(s3: Any, job: TrainingJob, workspace: training.Workspace) -> None:
        packed = (("model.tar.gz", workspace.model), ("output.tar.gz", workspace.output / "data"))
        for name, folder in packed:
            if name == "model.tar.gz" and job.status == "InProgress" or any(folder.iterdir()):
                archive = workspace.root / name
                pack(folder, archive)
                storage.upload(s3, archive, storage.join_uri(job.output_uri, name))
                archive.unlink()


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


def _algorithm_error(status: int, workspace: training.Workspace, job_log: JobLog) -> str:
    """Returns the reason of a script that failed: its own words, or else its last lines."""
    failure = workspace.output / "failure"
    head = f"AlgorithmError: ExecuteUserScriptError, exit code: {status}\n"
    room = _REASON_LENGTH - len(head)
    told = failure.read_text(encoding="utf-8", errors="replace").strip() if failure.is_file() else ""
    return head + (told[-room:] or job_log.tail(room))


def _times(job: TrainingJob) -> dict[str, Any]:
    times: dict[str, Any] = {}
    if job.started is not None:
        times["TrainingStartTime"] = job.started
    if job.ended is not None:
        times["TrainingEndTime"] = job.ended
    if job.started is not None and job.ended is not None:
        seconds = max(1, math.ceil((job.ended - job.started).total_seconds()))
        times |= {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": seconds}
    return times


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

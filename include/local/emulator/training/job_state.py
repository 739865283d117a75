"""A training job and where it stands: its states in AWS's order, with AWS's words."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from include.local.emulator.machine import storage
from include.local.emulator.machine.persistence import LIVE
from include.local.emulator.resources.store import Resource, now
from include.local.emulator.training.container import DEFAULT_MAX_RUNTIME

UNDER_WAY = ("InProgress", "Stopping")
REASON_LENGTH = 1024
OWN_FAILURE = "InternalServerError"
_SPOT_SHARE = 0.3  # of the on-demand price: AWS tells a spot job's saving as billable of training seconds
_MESSAGES = {
    "Starting": "Starting the training job",
    "Pending": "Training job waiting for capacity",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Interrupted": "Training job interrupted",
    "Restarting": "Restarting the training job",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "MaxWaitTimeExceeded": "Training job wait time exceeded MaxWaitTimeInSeconds provided",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
}


class JobStopped(Exception):
    """Unwinds a job that ends as Stopped.

    Attributes:
        secondary: Its last secondary status.
    """

    def __init__(self, secondary: str = "Stopped") -> None:
        super().__init__(secondary)
        self.secondary = secondary


@dataclass
class TrainingJob(Resource):
    """A job and where it stands.

    Attributes:
        tuning_arn: The tuning job whose trial it is.
        retries: How often it was begun anew after a failure of SageMaker's own.
        since: When its present instance took it up.
        instance_seconds: Its time on instances before the present one.
        script_seconds: How long its script has run on them.
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
    retries: int = 0
    since: datetime | None = None
    instance_seconds: float = 0.0
    script_seconds: float = 0.0
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
    def is_spot(self) -> bool:
        """Whether its instance can be taken away."""
        return bool(self.request.get("EnableManagedSpotTraining"))

    @property
    def max_runtime(self) -> int:
        """Limit of the script's run, in seconds."""
        return int(self.request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME))

    @property
    def max_wait(self) -> float:
        """Limit of a spot job's run and its waiting together, in seconds."""
        return float(self.request.get("StoppingCondition", {}).get("MaxWaitTimeInSeconds", math.inf))

    @property
    def max_retries(self) -> int:
        """How often SageMaker's own failures are to be retried."""
        return int(self.request.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0))

    @property
    def is_retryable(self) -> bool:
        """Whether it failed for a reason of SageMaker's own."""
        return self.status == "Failed" and (self.failure_reason or "").startswith(OWN_FAILURE)

    def step(self, secondary: str) -> None:
        """Enters a secondary status and notes the transition."""
        with self.lock:
            moment = now()
            if self.transitions:
                self.transitions[-1]["EndTime"] = moment
            entered = {"Status": secondary, "StartTime": moment, "StatusMessage": _MESSAGES[secondary]}
            self.transitions.append(entered)
            self.secondary, self.modified = secondary, moment

    def say(self, message: str) -> None:
        """Says more of the secondary status in which the job is."""
        with self.lock:
            self.transitions[-1]["StatusMessage"] = message
            self.modified = now()

    def advance(self, secondary: str) -> None:
        """Enters the next step of a job that nobody has asked to stop.

        Raises:
            JobStopped: Somebody has.
        """
        with self.lock:
            if self.stop_asked.is_set():
                raise JobStopped
            self.step(secondary)

    def enter_instance(self) -> None:
        """Has an instance, whose time is counted from now on."""
        with self.lock:
            self.since = now()
            self.started = self.started or self.since

    def leave_instance(self) -> None:
        """Has none any more."""
        with self.lock:
            if self.since is not None:
                self.instance_seconds += (now() - self.since).total_seconds()
                self.since = None

    def end(self, status: str, secondary: str, reason: str | None = None) -> None:
        """Enters its last state."""
        with self.lock:
            self.leave_instance()
            self.step(secondary)
            self.failure_reason = reason[:REASON_LENGTH] if reason else None
            self.transitions[-1]["EndTime"] = self.modified
            self.ended, self.status = self.modified, status

    def times(self) -> dict[str, Any]:
        """Returns the members that tell of time, as far as they are known."""
        times: dict[str, Any] = {"TrainingStartTime": self.started, "TrainingEndTime": self.ended}
        if self.started is not None and self.ended is not None:
            seconds = max(1, math.ceil(self.instance_seconds))
            billable = max(1, math.floor(seconds * _SPOT_SHARE)) if self.is_spot else seconds
            times |= {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": billable}
        return {member: value for member, value in times.items() if value is not None}

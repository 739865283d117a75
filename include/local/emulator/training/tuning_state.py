"""A search and where it stands, and what lists tell of it and of its trials."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from include.local.emulator.machine.persistence import LIVE
from include.local.emulator.resources.store import Resource, now
from include.local.emulator.training.job_state import UNDER_WAY, TrainingJob
from include.local.emulator.training.search import OBJECTIVE

# What a definition has and a training job's request has not.
_NOT_OF_A_TRIAL = (
    "DefinitionName",
    "StaticHyperParameters",
    "TuningObjective",
    "HyperParameterRanges",
    "HyperParameterTuningResourceConfig",
)


@dataclass
class Trial:
    """One training of the search.

    Attributes:
        values: What it was given of that which is searched.
    """

    job: TrainingJob
    values: dict[str, str]


@dataclass
class TuningJob(Resource):
    """A search and where it stands.

    Attributes:
        noted: The trials as a file holds them: name of the job, and what it was given.
    """

    kind: ClassVar[str] = "hyper-parameter-tuning-job"
    label: ClassVar[str] = "tuning job"

    status: str = "InProgress"
    trials: list[Trial] = field(default_factory=list, metadata=LIVE)
    noted: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    failure_reason: str | None = None
    ended: datetime | None = None
    stop_asked: threading.Event = field(default_factory=threading.Event, metadata=LIVE)

    def to_state(self) -> dict[str, Any]:
        """Returns what is kept of it on disk; its trials are files of their own."""
        self.noted = [(trial.job.name, trial.values) for trial in self.trials]
        return super().to_state()

    @property
    def state(self) -> str:
        """HyperParameterTuningJobStatus."""
        return self.status

    @property
    def config(self) -> dict[str, Any]:
        """HyperParameterTuningJobConfig."""
        config: dict[str, Any] = self.request["HyperParameterTuningJobConfig"]
        return config

    @property
    def objective(self) -> str:
        """Name of the metric that is compared."""
        return str(self.config["HyperParameterTuningJobObjective"]["MetricName"])

    def trial_request(self, values: dict[str, str]) -> dict[str, Any]:
        """Returns the CreateTrainingJob request of a trial, named as AWS names it."""
        definition = self.request["TrainingJobDefinition"]
        number = len(self.trials) + 1
        content = f"{self.arn} {number} {sorted(values.items())}"
        return {
            **{member: value for member, value in definition.items() if member not in _NOT_OF_A_TRIAL},
            "ResourceConfig": _instance(definition),
            "TrainingJobName": f"{self.name}-{number:03d}-{hashlib.sha256(content.encode()).hexdigest()[:8]}",
            "HyperParameters": {
                **definition.get("StaticHyperParameters", {}),
                OBJECTIVE: self.objective,
                **values,
            },
            "Tags": self.request.get("Tags", []),
        }

    def score(self, trial: Trial) -> float | None:
        """Returns the last value of the objective that a completed trial told, None where there is none."""
        if trial.job.status != "Completed" or self.objective not in trial.job.metrics:
            return None
        return trial.job.metrics[self.objective][0]

    def best(self) -> Trial | None:
        """Returns the trial that leads; of equals the first."""
        sign = 1 if self.config["HyperParameterTuningJobObjective"]["Type"] == "Maximize" else -1
        scored = [(score, trial) for trial in list(self.trials) if (score := self.score(trial)) is not None]
        return max(scored, key=lambda pair: sign * pair[0])[1] if scored else None

    def end(self, status: str, reason: str | None = None) -> None:
        """Enters its last state."""
        with self.lock:
            self.status, self.failure_reason = status, reason
            self.ended = self.modified = now()


def _instance(definition: dict[str, Any]) -> dict[str, Any]:
    """Returns the trials' ResourceConfig, which a search may say in either of two ways."""
    if (own := definition.get("HyperParameterTuningResourceConfig")) is None:
        found: dict[str, Any] = definition.get("ResourceConfig", {})
        return found
    kept = ("InstanceType", "InstanceCount", "VolumeSizeInGB", "VolumeKmsKeyId")
    first: dict[str, Any] = next(iter(own.get("InstanceConfigs", [])), {})
    return {member: value for member, value in (own | first).items() if member in kept}


def summary(tuning: TuningJob) -> dict[str, Any]:
    """Returns a search as lists tell of it."""
    trials = list(tuning.trials)
    statuses = Counter(trial.job.status for trial in trials)
    objectives = Counter(_objective_status(tuning, trial) for trial in trials)
    retryable = sum(trial.job.is_retryable for trial in trials)
    told = {
        "HyperParameterTuningJobName": tuning.name,
        "HyperParameterTuningJobArn": tuning.arn,
        "HyperParameterTuningJobStatus": tuning.status,
        "Strategy": tuning.config["Strategy"],
        "ResourceLimits": tuning.config["ResourceLimits"],
        "CreationTime": tuning.created,
        "LastModifiedTime": tuning.modified,
        "TrainingJobStatusCounters": {
            "Completed": statuses["Completed"],
            "InProgress": statuses["InProgress"] + statuses["Stopping"],
            "RetryableError": retryable,
            "NonRetryableError": statuses["Failed"] - retryable,
            "Stopped": statuses["Stopped"],
        },
        "ObjectiveStatusCounters": {state: objectives[state] for state in ("Succeeded", "Pending", "Failed")},
    }
    return told if tuning.ended is None else {**told, "HyperParameterTuningEndTime": tuning.ended}


def _objective_status(tuning: TuningJob, trial: Trial) -> str:
    if trial.job.status in UNDER_WAY:
        return "Pending"
    return "Failed" if tuning.score(trial) is None else "Succeeded"


def trial_summary(tuning: TuningJob, trial: Trial) -> dict[str, Any]:
    """Returns a trial as lists tell of it."""
    job = trial.job
    with job.lock:
        score = tuning.score(trial)
        objective = {"MetricName": tuning.objective, "Value": score}
        told = {
            "TrainingJobName": job.name,
            "TrainingJobArn": job.arn,
            "CreationTime": job.created,
            "TrainingStartTime": job.started,
            "TrainingEndTime": job.ended,
            "TrainingJobStatus": job.status,
            "TunedHyperParameters": trial.values,
            "FailureReason": job.failure_reason,
            "FinalHyperParameterTuningJobObjectiveMetric": None if score is None else objective,
            "ObjectiveStatus": _objective_status(tuning, trial),
        }
    return {member: value for member, value in told.items() if value is not None}

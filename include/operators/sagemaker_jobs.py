"""The two jobs that make a model, a training and a search of many, with one face for the operator.

One object follows one job. `label` is what messages call it, `console` where AWS's console shows it; the two
members are where a request holds its name and a description its status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from botocore.exceptions import ClientError

from include.contracts import Snapshot, TrainedModel
from include.sagemaker.logs import JobLog
from include.sagemaker.results import trained_model
from include.sagemaker.training import TrainingOutcome, limit_of, progress_of, training_outcome
from include.sagemaker.tuning import best_trial, search_progress, trial_sentence, tuned_model, tuning_outcome

# What a failure tells travels through Airflow's database where the triggerer saw it.
_LONGEST_LINE = 1000


class TrainingJob:
    """One training job; its log goes to the task's."""

    kind: Literal["training"] = "training"
    label = "Training job"
    console = "jobs"
    name_member = "TrainingJobName"
    status_member = "TrainingJobStatus"

    def __init__(self, hook: SageMakerHook, log: Any) -> None:
        self._hook = hook
        self._client: Any = hook.get_conn()
        self._log = log
        self._lines: JobLog | None = None
        self._phase = ""
        self._start: Mapping[str, str | None] = {}

    @property
    def place(self) -> dict[str, str | None]:
        """Where in its news this follower stands, for another one to go on from."""
        return self._lines.place if self._lines else {}

    def go_on_from(self, place: Mapping[str, Any]) -> None:
        """Leaves out what another follower has logged."""
        self._start = place

    def seconds(self, request: Mapping[str, Any]) -> int:
        """Returns the time that SageMaker gives it, by its request or its description."""
        return limit_of(request["StoppingCondition"])

    def create(self, request: dict[str, Any]) -> None:
        """Starts it."""
        # The provider's own method looks at the bucket as a whole first, which our role may not.
        self._client.create_training_job(**request)

    def describe(self, name: str) -> dict[str, Any]:
        """Returns SageMaker's description."""
        description: dict[str, Any] = self._hook.describe_training_job(name)
        return description

    def stop(self, name: str) -> None:
        """Tells it to stop."""
        self._client.stop_training_job(TrainingJobName=name)

    def stop_command(self, name: str) -> str:
        """Returns how a person stops it."""
        return f"aws sagemaker stop-training-job --training-job-name {name}"

    def outcome(self, description: Mapping[str, Any]) -> TrainingOutcome:
        """Reads a description."""
        return training_outcome(description)

    def result(
        self, description: Mapping[str, Any], snapshot: Snapshot
    ) -> tuple[TrainedModel, dict[str, Any]]:
        """Returns the claim check of a finished job, and the description of the training behind it."""
        return trained_model(description, snapshot), dict(description)

    def watch(self, name: str, description: Mapping[str, Any]) -> None:
        """Logs what is new since the last look."""
        if self._phase != (phase := str(description.get("SecondaryStatus", "unknown"))):
            self._phase = phase
            self._log.info("Training job %s: %s", name, phase)
        if self._lines is None:
            self._lines = JobLog(self._hook.logs_hook.get_conn(), name, place=self._start)
        trouble = self._lines.trouble
        for line in self._lines.new_lines():
            self._log.info("%s", line)
            if progress := progress_of(line):
                self._log.info("Progress: %s", progress)
        if self._lines.trouble and self._lines.trouble != trouble:
            self._log.warning("The job's log cannot be read: %s", self._lines.trouble)

    def last_words(self) -> str:
        """Returns what tells more about a failure than its reason; empty where nothing does."""
        lines = self._lines.last_lines if self._lines else ()
        return _indented("The end of its log:", lines)


class TuningJob:
    """A search; each trial's state and score go to the task's log, its lines stay in CloudWatch."""

    kind: Literal["tuning"] = "tuning"
    label = "Tuning job"
    console = "hyper-tuning-jobs"
    name_member = "HyperParameterTuningJobName"
    status_member = "HyperParameterTuningJobStatus"

    def __init__(self, hook: SageMakerHook, log: Any) -> None:
        self._hook = hook
        self._client: Any = hook.get_conn()
        self._log = log
        self._seen: dict[str, str] = {}
        self._failed: str | None = None
        self._watched = True

    @property
    def place(self) -> dict[str, str | None]:
        """Where in its news this follower stands, for another one to go on from."""
        return dict(self._seen)

    def go_on_from(self, place: Mapping[str, Any]) -> None:
        """Leaves out what another follower has logged."""
        self._seen = dict(place)

    def seconds(self, request: Mapping[str, Any]) -> int:
        """Returns the time that SageMaker gives it, by its request or its description."""
        return int(request["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxRuntimeInSeconds"])

    def create(self, request: dict[str, Any]) -> None:
        """Starts it."""
        self._client.create_hyper_parameter_tuning_job(**request)

    def describe(self, name: str) -> dict[str, Any]:
        """Returns SageMaker's description."""
        return self._hook.describe_tuning_job(name)

    def stop(self, name: str) -> None:
        """Tells it to stop."""
        self._client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)

    def stop_command(self, name: str) -> str:
        """Returns how a person stops it."""
        return f"aws sagemaker stop-hyper-parameter-tuning-job --hyper-parameter-tuning-job-name {name}"

    def outcome(self, description: Mapping[str, Any]) -> TrainingOutcome:
        """Reads a description."""
        return tuning_outcome(description)

    def result(
        self, description: Mapping[str, Any], snapshot: Snapshot
    ) -> tuple[TrainedModel, dict[str, Any]]:
        """Returns the claim check of a finished job, and the description of the training behind it."""
        trials = self._trials(str(description[self.name_member]))
        # Their summaries do not say what is billed.
        jobs = {
            trial["TrainingJobName"]: self._hook.describe_training_job(trial["TrainingJobName"])
            for trial in trials
        }
        best = jobs[best_trial(description) or ""]
        return tuned_model(description, best, trials, list(jobs.values()), snapshot), best

    def watch(self, name: str, description: Mapping[str, Any]) -> None:
        """Logs what is new since the last look."""
        try:
            trials = self._trials(name)
        except ClientError as error:
            # The search goes on without being watched; giving up on it would leave it running, and billed.
            if self._watched:
                self._log.warning("Cannot list the trials of %s: %s", name, error)
            self._watched = False
            return
        before = dict(self._seen)
        for trial in trials:
            trial_name, sentence = trial["TrainingJobName"], trial_sentence(trial)
            if trial["TrainingJobStatus"] == "Failed":
                self._failed = trial_name
            if self._seen.get(trial_name) != sentence:
                self._seen[trial_name] = sentence
                self._log.info("%s", sentence)
        if self._seen != before:
            self._log.info("Progress: %s", search_progress(description, trials))

    def last_words(self) -> str:
        """Returns what tells more about a failure than its reason; empty where nothing does."""
        told = _indented("Its trials:", self._seen.values())
        if self._failed is None:
            return told
        log = JobLog(self._hook.logs_hook.get_conn(), self._failed)
        log.new_lines()
        return told + _indented(f"The end of the log of {self._failed}:", log.last_lines)

    def _trials(self, name: str) -> list[dict[str, Any]]:
        pages = self._client.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
        request = {"HyperParameterTuningJobName": name, "SortBy": "CreationTime", "SortOrder": "Ascending"}
        return [trial for page in pages.paginate(**request) for trial in page["TrainingJobSummaries"]]


Job: TypeAlias = TrainingJob | TuningJob
JOBS: dict[str, type[TrainingJob] | type[TuningJob]] = {"training": TrainingJob, "tuning": TuningJob}


def _indented(title: str, lines: Iterable[str]) -> str:
    told = "".join(f"\n    {line[:_LONGEST_LINE]}" for line in lines)
    return f"\n{title}{told}" if told else ""

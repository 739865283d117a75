"""Tuning jobs that really run their trials, as training jobs.

Where AWS learns from the trials before, this draws lots: `Bayesian` is a random search too. The same seed
draws the same points.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from include.local.emulator.machine.workers import Workers
from include.local.emulator.resources.store import Store, now, page_of
from include.local.emulator.training.job_state import UNDER_WAY, TrainingJob
from include.local.emulator.training.jobs import TrainingJobs
from include.local.emulator.training.search import OBJECTIVE, check_search, draw
from include.local.emulator.training.tuning_state import Trial, TuningJob, summary, trial_summary
from include.local.emulator.wire.errors import AwsError, validation_error

_ATTEMPTS = 5  # trials without a success, after which AWS gives up
_POLL_SECONDS = 0.1
log = logging.getLogger(__name__)


class TuningJobs:
    """The tuning jobs of one emulator.

    Args:
        jobs: Runs the trials.
        state: Where the resources' files lie.
    """

    def __init__(self, jobs: TrainingJobs, state: Path | None = None) -> None:
        self._jobs = jobs
        self._workers = Workers()
        self.store = _TuningStore(state)
        for tuning in self.store:
            # A trial whose own file is lost is no trial any more.
            found = [(self._trial_job(tuning, name), values) for name, values in tuning.noted]
            tuning.trials = [Trial(job, values) for job, values in found if job is not None]

    def create(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateHyperParameterTuningJob."""
        check_search(request)
        tuning = TuningJob(request["HyperParameterTuningJobName"], region, request)
        # A trial is refused now, not one by one later.
        self._jobs.check(region, tuning.trial_request(draw(_ranges(tuning), _chance(tuning))))
        self.store.add(tuning)
        self._start(tuning)
        return {"HyperParameterTuningJobArn": tuning.arn}

    def resume(self) -> None:
        """Goes on with the searches that were under way when the emulator last ended."""
        for tuning in self.store:
            if tuning.status in UNDER_WAY:
                if tuning.status == "Stopping":
                    tuning.stop_asked.set()
                self._start(tuning)

    def describe(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeHyperParameterTuningJob."""
        tuning = self.store.get(region, request["HyperParameterTuningJobName"])
        definition = tuning.request["TrainingJobDefinition"]
        static = {**definition.get("StaticHyperParameters", {}), OBJECTIVE: tuning.objective}
        with tuning.lock:
            answer = {
                **summary(tuning),
                "HyperParameterTuningJobConfig": tuning.config,
                "TrainingJobDefinition": {**definition, "StaticHyperParameters": static},
                "ConsumedResources": {
                    "RuntimeInSeconds": round(((tuning.ended or now()) - tuning.created).total_seconds())
                },
            }
            if best := tuning.best():
                answer["BestTrainingJob"] = trial_summary(tuning, best)
            if tuning.failure_reason:
                answer["FailureReason"] = tuning.failure_reason
        del answer["Strategy"], answer["ResourceLimits"]
        return answer

    def stop(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """StopHyperParameterTuningJob."""
        tuning = self.store.get(region, request["HyperParameterTuningJobName"])
        with tuning.lock:
            if tuning.status not in UNDER_WAY:
                raise validation_error(
                    f"The request was rejected because the tuning job is in status {tuning.status}."
                )
            tuning.status, tuning.modified = "Stopping", now()
            tuning.stop_asked.set()
        return {}

    def delete(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteHyperParameterTuningJob: forgets a search that has ended; its trials stay."""
        tuning = self.store.get(region, request["HyperParameterTuningJobName"])
        with tuning.lock:
            if tuning.status in UNDER_WAY:
                raise AwsError(
                    "ResourceInUse", f"Tuning job {tuning.arn} is in status {tuning.status}: stop it first."
                )
            self.store.remove(region, tuning.name)
        return {}

    def list_jobs(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListHyperParameterTuningJobs."""
        sorting = {"SortBy": request.get("SortBy", "Name")}
        return self.store.page(region, request | sorting, "HyperParameterTuningJobSummaries", summary)

    def list_trials(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListTrainingJobsForHyperParameterTuningJob."""
        tuning = self.store.get(region, request["HyperParameterTuningJobName"])
        wanted, descending = request.get("StatusEquals"), request.get("SortOrder") == "Descending"
        found = [trial for trial in list(tuning.trials) if wanted in (None, trial.job.status)]
        keys: dict[str, Callable[[Trial], Any]] = {
            "Name": lambda trial: trial.job.name,
            "CreationTime": lambda trial: trial.job.created,
            "Status": lambda trial: (trial.job.status, trial.job.created),
            # Trials without a score come last whichever way.
            "FinalObjectiveMetricValue": lambda trial: (
                (tuning.score(trial) is not None) == descending,
                tuning.score(trial) or 0.0,
            ),
        }
        found.sort(key=keys[request.get("SortBy", "Name")], reverse=descending)
        return page_of(found, request, "TrainingJobSummaries", lambda trial: trial_summary(tuning, trial))

    def close(self) -> None:
        """Starts no more trials; those that run are ended with the training jobs."""
        self.store.freeze()
        self._workers.close()
        self._workers.join(10)

    def _start(self, tuning: TuningJob) -> None:
        self._workers.start(f"tuning-{tuning.name}", lambda: self._run(tuning, _chance(tuning)))

    def _run(self, tuning: TuningJob, chance: random.Random) -> None:
        try:
            self._search(tuning, chance)
        except Exception as error:
            log.exception("tuning job %s", tuning.name)
            self._stop_trials(tuning)
            tuning.end("Failed", f"InternalServerError: {type(error).__name__}: {error}")

    def _search(self, tuning: TuningJob, chance: random.Random) -> None:
        limits = tuning.config["ResourceLimits"]
        longest = limits.get("MaxRuntimeInSeconds", float("inf"))
        while True:
            running = [trial for trial in tuning.trials if trial.job.status in UNDER_WAY]
            ended = len(tuning.trials) - len(running)
            succeeded = sum(trial.job.status == "Completed" for trial in tuning.trials)
            hopeless = not succeeded and ended >= _ATTEMPTS
            late = (now() - tuning.created).total_seconds() > longest
            over = tuning.stop_asked.is_set() or late or hopeless
            if self._workers.closing.is_set():
                tuning.end("Stopped")
                return
            if over:
                self._stop_trials(tuning)
            full = over or len(tuning.trials) == limits["MaxNumberOfTrainingJobs"]
            if full and not running:
                break
            if not full and len(running) < limits["MaxParallelTrainingJobs"]:
                self._start_trial(tuning, chance)
                continue
            self._workers.closing.wait(_POLL_SECONDS)
        if tuning.stop_asked.is_set():
            tuning.end("Stopped")
        elif succeeded:
            tuning.end("Completed")
        else:
            tuning.end(
                "Failed",
                f"No training job succeeded after {ended} attempts. "
                "Please take a look at the training job failures to get more details.",
            )

    def _start_trial(self, tuning: TuningJob, chance: random.Random) -> None:
        values = draw(_ranges(tuning), chance)
        request = tuning.trial_request(values)
        # A search that goes on draws what it drew before: the last trial may have begun, and not been noted.
        job = self._trial_job(tuning, request["TrainingJobName"])
        if job is None:
            job = TrainingJob(request["TrainingJobName"], tuning.region, request, tuning_arn=tuning.arn)
            self._jobs.start(job)
        with tuning.lock:
            tuning.trials.append(Trial(job, values))
            tuning.modified = now()

    def _trial_job(self, tuning: TuningJob, name: str) -> TrainingJob | None:
        found = (job for job in self._jobs.store if job.name == name and job.tuning_arn == tuning.arn)
        return next(found, None)

    def _stop_trials(self, tuning: TuningJob) -> None:
        for trial in tuning.trials:
            # It may have ended a moment ago.
            with contextlib.suppress(AwsError):
                self._jobs.stop(tuning.region, {"TrainingJobName": trial.job.name})


class _TuningStore(Store[TuningJob]):
    def __init__(self, folder: Path | None) -> None:
        super().__init__(TuningJob, folder)

    def already_exists(self, item: TuningJob) -> AwsError:
        return AwsError(
            "ResourceInUse",
            "Hyper parameter tuning job names must be unique within an AWS account and region: there is a "
            f"tuning job with that name already ({item.arn})",
        )

    def not_found(self, region: str, name: str) -> AwsError:
        return AwsError(
            "ResourceNotFound", f"Amazon SageMaker can't find a tuning job called {name}. Type another name."
        )


def _chance(tuning: TuningJob) -> random.Random:
    """Returns the state of chance after the points that were drawn already."""
    chance = random.Random(tuning.config.get("RandomSeed", tuning.name))
    for _ in tuning.trials:
        draw(_ranges(tuning), chance)
    return chance


def _ranges(tuning: TuningJob) -> dict[str, Any]:
    ranges: dict[str, Any] = tuning.config["ParameterRanges"]
    return ranges

"""Tuning jobs: many trainings with hyper-parameters from a space; the best one by validation MRR goes on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from include.contracts import BadInputError, Snapshot, TrainedModel, Tuning
from include.sagemaker.naming import tuning_job_name
from include.sagemaker.results import billable_seconds, cost_of, moment_of, spot_saving, trained_model
from include.sagemaker.training import FINAL_METRIC, WORTH_ANOTHER_JOB, TrainingOutcome, limit_of

MAX_TRIALS = 50
# SageMaker's own default quota.
MAX_PARALLEL = 10
SEED = 42
# SageMaker's bounds of a search, in seconds.
_SHORTEST, _LONGEST = 120, 30 * 24 * 3600
# Before a trial's clock starts a machine is found, and before it and after it data and model are moved.
_AROUND_A_TRIAL_SECONDS = 900
# What a trial shares with a training job. Not its checkpoints: trials in one folder would go on with each
# other's weights.
_SHARED = (
    "RoleArn",
    "AlgorithmSpecification",
    "InputDataConfig",
    "VpcConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
    "RetryStrategy",
    "Environment",
)


class Range(NamedTuple):
    """Any number from `low` to `high`."""

    low: float
    high: float
    scaling: Literal["Linear", "Logarithmic"] = "Linear"


# Around train.py's own defaults. Numbers that cost time or memory by their size are a choice of few.
SPACE: dict[str, Range | tuple[int, ...]] = {
    "learning-rate": Range(0.003, 0.03, "Logarithmic"),
    "dropout": Range(0.1, 0.6),
    "embedding-dim": (32, 64, 96, 128, 192),
    "batch-size": (64, 128, 256, 512),
}


def tuning_request(training: Mapping[str, Any], *, trials: int, parallel: int) -> dict[str, Any]:
    """Returns the whole CreateHyperParameterTuningJob request.

    Args:
        training: The CreateTrainingJob request of one training. What it sets itself is not searched.
        trials: Number of trainings.
        parallel: Trainings at a time, at most.

    Raises:
        BadInputError: A number is out of bounds, or nothing is left to search.
    """
    if not 1 <= trials <= MAX_TRIALS or not 1 <= parallel <= MAX_PARALLEL:
        raise BadInputError(
            f"A tuning job has 1 to {MAX_TRIALS} trials, 1 to {MAX_PARALLEL} of them at a time, "
            f"not {trials} and {parallel}."
        )
    fixed: dict[str, str] = dict(training["HyperParameters"])
    space = {name: values for name, values in SPACE.items() if name not in fixed}
    if not space:
        raise BadInputError(f"Nothing is left to search: the run sets {', '.join(SPACE)} itself.")
    at_a_time = min(parallel, trials)
    trial_seconds = limit_of(training["StoppingCondition"]) + _AROUND_A_TRIAL_SECONDS
    limits = {"MaxNumberOfTrainingJobs": trials, "MaxParallelTrainingJobs": at_a_time}
    search = {
        "Strategy": "Bayesian",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": FINAL_METRIC},
        "ResourceLimits": limits,
        "ParameterRanges": _ranges(space),
        # train.py stops by itself where validation no longer rises, and exports its best weights; a job that
        # SageMaker stops exports nothing.
        "TrainingJobEarlyStoppingType": "Off",
        "RandomSeed": SEED,
    }
    seconds = min(max(math.ceil(trials / at_a_time) * trial_seconds, _SHORTEST), _LONGEST)
    return {
        # How long it may take is no part of the name: it changes nothing of what is learned.
        "HyperParameterTuningJobName": tuning_job_name(str(training["TrainingJobName"]), search),
        "HyperParameterTuningJobConfig": {
            **search,
            "ResourceLimits": {**limits, "MaxRuntimeInSeconds": seconds},
        },
        "TrainingJobDefinition": {
            **{member: training[member] for member in _SHARED if member in training},
            # In a tuning job the TensorFlow container reads `model_dir`, and crashes where there is none.
            "StaticHyperParameters": {**fixed, "model_dir": '"/opt/ml/model"'},
        },
        "Tags": training["Tags"],
    }


def tuning_outcome(description: Mapping[str, Any]) -> TrainingOutcome:
    """Reads a DescribeHyperParameterTuningJob answer.

    Some trials may have failed; one that ended and told its score is enough. A search that was stopped is a
    failure, like a training job: its best so far is not the answer to what was asked.
    """
    name = description.get("HyperParameterTuningJobName", "")
    status = description.get("HyperParameterTuningJobStatus", "")
    if status in {"InProgress", "Stopping"}:
        return TrainingOutcome("running")
    if status == "Completed":
        if best_trial(description) is not None:
            return TrainingOutcome("done")
        return TrainingOutcome(
            "failed",
            f"No trial of tuning job {name} told its {FINAL_METRIC}: see their logs, and whether the "
            "snapshot has validation sessions.",
        )
    if status == "Stopped":
        return TrainingOutcome("failed", f"Tuning job {name} was stopped before it had finished.")
    if status == "Failed":
        reason = str(description.get("FailureReason") or "SageMaker gave no reason.")
        return TrainingOutcome(
            "failed", f"Tuning job {name} failed: {reason}", worth_retry=reason.startswith(WORTH_ANOTHER_JOB)
        )
    return TrainingOutcome("failed", f"Tuning job {name} is in the unexpected state {status!r}.")


def best_trial(description: Mapping[str, Any]) -> str | None:
    """Returns the name of the training job that leads the search, None where none has ended with a score."""
    best: Mapping[str, Any] = description.get("BestTrainingJob") or {}
    return best.get("TrainingJobName")


def tuned_model(
    tuning: Mapping[str, Any],
    best: Mapping[str, Any],
    trials: Iterable[Mapping[str, Any]],
    jobs: Sequence[Mapping[str, Any]],
    snapshot: Snapshot,
) -> TrainedModel:
    """Returns the claim check of the model that won a search.

    Args:
        tuning: Answer of DescribeHyperParameterTuningJob.
        best: Answer of DescribeTrainingJob, about its best trial.
        trials: Summaries of all its trials.
        jobs: Answers of DescribeTrainingJob, about all its trials.
        snapshot: The data the job was given.

    Raises:
        BadInputError: The best trial is not completed or names no artefact.
    """
    won = tuning["BestTrainingJob"]
    seconds = sum(map(billable_seconds, jobs))
    return trained_model(best, snapshot).model_copy(
        update={
            "billable_seconds": seconds,
            "cost_usd": cost_of(best, seconds),
            "spot_saving": spot_saving(jobs),
            # Of the search: it decides over the winner, whichever trial that was.
            "trained_at": moment_of(tuning),
            "tuning": Tuning(
                job_name=tuning["HyperParameterTuningJobName"],
                trials=sum(trial.get("ObjectiveStatus") == "Succeeded" for trial in trials),
                val_mrr=won["FinalHyperParameterTuningJobObjectiveMetric"]["Value"],
                hyperparameters=plain_values(won),
            ),
        }
    )


def trial_sentence(trial: Mapping[str, Any]) -> str:
    """Returns what a trial's summary says: its state, its score or reason, and what it was given."""
    score = trial.get("FinalHyperParameterTuningJobObjectiveMetric")
    told = f", {score['MetricName']}={score['Value']:.4f}" if score else ""
    # A reason may be a traceback.
    why = f" ({' '.join(trial['FailureReason'].split())})" if trial.get("FailureReason") else ""
    given = " ".join(f"{name}={value}" for name, value in plain_values(trial).items())
    return f"Trial {trial['TrainingJobName']}: {trial['TrainingJobStatus']}{told}{why}; {given}"


def search_progress(tuning: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """Returns how many trials of a search have ended, and the best score so far."""
    ended = sum(trial["TrainingJobStatus"] not in {"InProgress", "Stopping"} for trial in trials)
    limits = tuning.get("HyperParameterTuningJobConfig", {}).get("ResourceLimits", {})
    wanted = int(limits.get("MaxNumberOfTrainingJobs", len(trials)))
    told = f"{ended} of {wanted} trials have ended ({100 * ended // max(wanted, 1)} %)"
    best: Mapping[str, Any] = tuning.get("BestTrainingJob") or {}
    score = best.get("FinalHyperParameterTuningJobObjectiveMetric")
    return f"{told}, best {score['MetricName']}={score['Value']:.4f}" if score else told


def plain_values(trial: Mapping[str, Any]) -> dict[str, str]:
    """Returns a trial's own hyper-parameters as text."""
    values = trial["TunedHyperParameters"]
    return {name: str(values[name]).strip('"') for name in sorted(values)}


def _ranges(space: Mapping[str, Range | tuple[int, ...]]) -> dict[str, list[dict[str, Any]]]:
    continuous: list[dict[str, Any]] = []
    categorical: list[dict[str, Any]] = []
    for name, values in space.items():
        if isinstance(values, Range):
            bounds = {"MinValue": str(values.low), "MaxValue": str(values.high)}
            continuous.append({"Name": name, **bounds, "ScalingType": values.scaling})
        else:
            categorical.append({"Name": name, "Values": [str(value) for value in values]})
    return {"ContinuousParameterRanges": continuous, "CategoricalParameterRanges": categorical}

"""The space of a tuning job: what SageMaker, or this machine, would not search, and how a point is drawn."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from include.local.emulator.wire.errors import AwsError, validation_error

OBJECTIVE = "_tuning_objective_metric"
# SageMaker's quotas, as an account has them at first.
_MAX_TRIALS, _MAX_PARALLEL, _MAX_SEARCHED = 750, 10, 30
_STRATEGIES = ("Bayesian", "Random")


def check_search(request: Mapping[str, Any]) -> None:
    """Refuses a CreateHyperParameterTuningJob request that SageMaker, or this machine, would not run.

    Raises:
        AwsError: `ValidationException` or `ResourceLimitExceeded`.
    """
    config = request["HyperParameterTuningJobConfig"]
    for part, members in (
        (request, ("TrainingJobDefinitions", "WarmStartConfig", "Autotune")),
        (config, ("StrategyConfig", "TuningJobCompletionCriteria")),
    ):
        for member in members:
            if part.get(member):
                raise validation_error(f"The local emulator does not have {member}.")
    if "TrainingJobDefinition" not in request:
        raise validation_error("You must specify either TrainingJobDefinition or TrainingJobDefinitions.")
    if config["Strategy"] not in _STRATEGIES:
        raise validation_error(f"The local emulator has the strategies {' and '.join(_STRATEGIES)} only.")
    if config.get("TrainingJobEarlyStoppingType", "Off") != "Off":
        raise validation_error(
            "The local emulator stops no trial early: TrainingJobEarlyStoppingType is Off."
        )
    _check_limits(config["ResourceLimits"])
    _check_objective(config, request["TrainingJobDefinition"])
    _check_space(config.get("ParameterRanges", {}), request["TrainingJobDefinition"])


def draw(ranges: Mapping[str, Any], chance: random.Random) -> dict[str, str]:
    """Returns one point of the space, each value as the text that a training job gets.

    Args:
        ranges: `ParameterRanges` of the request.
        chance: The same state gives the same point.
    """
    values: dict[str, str] = {}
    for entry in ranges.get("ContinuousParameterRanges", []):
        values[entry["Name"]] = repr(_between(entry, chance, 0.0))
    for entry in ranges.get("IntegerParameterRanges", []):
        # Half a step wider on either side, so that the ends are as likely as the others.
        low, high = int(entry["MinValue"]), int(entry["MaxValue"])
        values[entry["Name"]] = str(min(max(round(_between(entry, chance, 0.5)), low), high))
    for entry in ranges.get("CategoricalParameterRanges", []):
        values[entry["Name"]] = chance.choice(entry["Values"])
    return values


def _between(entry: Mapping[str, Any], chance: random.Random, wider: float) -> float:
    low, high = float(entry["MinValue"]) - wider, float(entry["MaxValue"]) + wider
    scaling = entry.get("ScalingType", "Auto")
    if scaling == "Logarithmic":
        value = math.exp(chance.uniform(math.log(low), math.log(high)))
    elif scaling == "ReverseLogarithmic":
        value = 1.0 - math.exp(chance.uniform(math.log(1.0 - high), math.log(1.0 - low)))
    else:
        value = chance.uniform(low, high)
    return min(max(value, low), high)  # the logarithm's rounding may step outside


def _check_limits(limits: Mapping[str, Any]) -> None:
    trials, parallel = limits.get("MaxNumberOfTrainingJobs"), limits["MaxParallelTrainingJobs"]
    if trials is None:
        raise validation_error("MaxNumberOfTrainingJobs is required for this strategy.")
    if parallel > trials:
        raise validation_error(
            f"MaxParallelTrainingJobs ({parallel}) must not be above MaxNumberOfTrainingJobs ({trials})."
        )
    for name, value, limit in (
        ("training jobs", trials, _MAX_TRIALS),
        ("parallel training jobs", parallel, _MAX_PARALLEL),
    ):
        if value > limit:
            raise AwsError(
                "ResourceLimitExceeded",
                f"The account-level service limit 'Number of {name} per hyperparameter tuning job' is "
                f"{limit}, with a request of {value}.",
            )


def _check_objective(config: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
    objective = config.get("HyperParameterTuningJobObjective")
    defined = definition["AlgorithmSpecification"].get("MetricDefinitions", [])
    if objective is None or objective["MetricName"] not in {metric["Name"] for metric in defined}:
        raise validation_error(
            "A metric is required for this hyperparameter tuning job objective. Provide a metric in the "
            "metric definitions."
        )


def _check_space(ranges: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
    if ranges.get("AutoParameters"):
        raise validation_error("The local emulator does not have AutoParameters.")
    names = [entry["Name"] for kind in ranges.values() for entry in kind]
    if not names or len(names) > _MAX_SEARCHED:
        raise validation_error(
            f"A tuning job searches 1 to {_MAX_SEARCHED} hyperparameters, not {len(names)}."
        )
    taken = [*names, *definition.get("StaticHyperParameters", {}), OBJECTIVE]
    if twice := sorted({name for name in taken if taken.count(name) > 1}):
        raise validation_error(f"Hyperparameters {', '.join(twice)} are defined more than once.")
    for kind, number in (("IntegerParameterRanges", int), ("ContinuousParameterRanges", float)):
        for entry in ranges.get(kind, []):
            for fault in _faults(entry, number):
                raise validation_error(f"Hyperparameter {entry['Name']}: {fault}")


def _faults(entry: Mapping[str, Any], number: type[int] | type[float]) -> Iterator[str]:
    try:
        low, high = number(entry["MinValue"]), number(entry["MaxValue"])
    except ValueError:
        yield f"{entry['MinValue']} and {entry['MaxValue']} must be numbers."
        return
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        yield f"MinValue {low} must be below MaxValue {high}."
    if entry.get("ScalingType") == "Logarithmic" and low <= 0:
        yield "logarithmic scaling needs values above 0."
    if entry.get("ScalingType") == "ReverseLogarithmic" and not (number is float and 0 <= low < high < 1):
        yield "reverse logarithmic scaling needs a continuous range inside [0, 1)."

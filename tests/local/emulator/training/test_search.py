from __future__ import annotations

import random
from typing import Any

import pytest

from include.local.emulator.training.search import check_search, draw
from include.local.emulator.wire.errors import AwsError

RATE = {"Name": "rate", "MinValue": "0.001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
SIZE = {"Name": "size", "MinValue": "1", "MaxValue": "3"}
KIND = {"Name": "kind", "Values": ['"gru"', '"attention"']}
SPACE = {
    "ContinuousParameterRanges": [RATE],
    "IntegerParameterRanges": [SIZE],
    "CategoricalParameterRanges": [KIND],
}


def request(space: Any = SPACE, limits: Any = None, **changes: Any) -> dict[str, Any]:
    definition = {
        "AlgorithmSpecification": {"MetricDefinitions": [{"Name": "mrr", "Regex": "mrr=(.*)"}]},
        "StaticHyperParameters": {"epochs": "3"},
    }
    config = {
        "Strategy": "Random",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "mrr"},
        "ResourceLimits": limits or {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2},
        "ParameterRanges": space,
    }
    for part in (definition, config):
        part.update({name: changes.pop(name) for name in list(changes) if name in part})
    members = {"HyperParameterTuningJobConfig": config, "TrainingJobDefinition": definition, **changes}
    return {name: value for name, value in members.items() if value is not None}


def test_a_good_search_passes() -> None:
    check_search(request())
    check_search(request(Strategy="Bayesian"))


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"TrainingJobDefinition": None}, "ValidationException", "TrainingJobDefinition"),
        ({"TrainingJobDefinitions": [{}]}, "ValidationException", "TrainingJobDefinitions"),
        ({"WarmStartConfig": {"WarmStartType": "x"}}, "ValidationException", "WarmStartConfig"),
        ({"Strategy": "Hyperband"}, "ValidationException", "Bayesian and Random"),
        ({"limits": {"MaxParallelTrainingJobs": 1}}, "ValidationException", "required"),
        (
            {"limits": {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 3}},
            "ValidationException",
            "above MaxNumberOfTrainingJobs",
        ),
        (
            {"limits": {"MaxNumberOfTrainingJobs": 751, "MaxParallelTrainingJobs": 1}},
            "ResourceLimitExceeded",
            "750",
        ),
        (
            {"limits": {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 11}},
            "ResourceLimitExceeded",
            "'Number of parallel training jobs per hyperparameter tuning job' is 10",
        ),
        (
            {"HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "loss"}},
            "ValidationException",
            "A metric is required",
        ),
        ({"HyperParameterTuningJobObjective": None}, "ValidationException", "A metric is required"),
        ({"space": {}}, "ValidationException", "not 0"),
        ({"space": {"AutoParameters": [{"Name": "x"}]}}, "ValidationException", "AutoParameters"),
        (
            {"space": {"IntegerParameterRanges": [{**SIZE, "Name": f"p{n}"} for n in range(31)]}},
            "ValidationException",
            "not 31",
        ),
        ({"StaticHyperParameters": {"rate": "1"}}, "ValidationException", "rate are defined more than once"),
        (
            {"space": {"IntegerParameterRanges": [SIZE], "ContinuousParameterRanges": [{**SIZE}]}},
            "ValidationException",
            "size are defined more than once",
        ),
        (
            {"space": {"CategoricalParameterRanges": [{**KIND, "Name": "_tuning_objective_metric"}]}},
            "ValidationException",
            "more than once",
        ),
        *(
            ({"space": {kind: [{**entry, **change}]}}, "ValidationException", said)
            for kind, entry, change, said in (
                ("IntegerParameterRanges", SIZE, {"MinValue": "3"}, "must be below"),
                ("IntegerParameterRanges", SIZE, {"MinValue": "0.5"}, "must be numbers"),
                ("ContinuousParameterRanges", RATE, {"MaxValue": "high"}, "must be numbers"),
                ("ContinuousParameterRanges", RATE, {"MaxValue": "inf"}, "must be below"),
                ("ContinuousParameterRanges", RATE, {"MinValue": "0"}, "values above 0"),
                ("IntegerParameterRanges", SIZE, {"ScalingType": "ReverseLogarithmic"}, "inside [0, 1)"),
                ("ContinuousParameterRanges", RATE, {"MinValue": "nan"}, "must be below"),
            )
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_refused(changes: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(AwsError) as error:
        check_search(request(**changes))
    assert error.value.code == code
    assert said in error.value.message


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("TrainingJobEarlyStoppingType", "Auto"),
        ("TuningJobCompletionCriteria", {"TargetObjectiveMetricValue": 1.0}),
        ("StrategyConfig", {"HyperbandStrategyConfig": {}}),
    ],
)
def test_what_is_not_imitated_is_said(member: str, value: object) -> None:
    asked = request()
    asked["HyperParameterTuningJobConfig"][member] = value
    with pytest.raises(AwsError, match="The local emulator"):
        check_search(asked)


def test_the_same_seed_draws_the_same_points() -> None:
    def points(seed: int) -> list[dict[str, str]]:
        chance = random.Random(seed)
        return [draw(SPACE, chance) for _ in range(20)]

    assert points(42) == points(42) != points(43)
    assert len({tuple(point.items()) for point in points(42)}) == 20


def test_points_fill_the_space_and_stay_inside() -> None:
    chance = random.Random(1)
    points = [draw(SPACE, chance) for _ in range(2000)]
    rates = [float(point["rate"]) for point in points]
    assert 0.001 <= min(rates) < 0.00105 and 0.095 < max(rates) <= 0.1
    # Half of a logarithmic range lies below its geometric mean.
    assert 0.45 < sum(rate < 0.01 for rate in rates) / len(rates) < 0.55
    sizes = [point["size"] for point in points]
    assert all(0.28 < sizes.count(size) / len(sizes) < 0.39 for size in ("1", "2", "3"))
    assert {point["kind"] for point in points} == {'"gru"', '"attention"'}


@pytest.mark.parametrize("scaling", ["Auto", "Linear", "Logarithmic", "ReverseLogarithmic"])
def test_every_scaling_stays_inside(scaling: str) -> None:
    entry = {"Name": "x", "MinValue": "0.2", "MaxValue": "0.9", "ScalingType": scaling}
    chance = random.Random(1)
    values = [float(draw({"ContinuousParameterRanges": [entry]}, chance)["x"]) for _ in range(2000)]
    assert 0.2 <= min(values) < 0.21 and 0.89 < max(values) <= 0.9
    middle = {"Logarithmic": 0.424, "ReverseLogarithmic": 0.717}.get(scaling, 0.55)
    assert 0.45 < sum(value < middle for value in values) / len(values) < 0.55

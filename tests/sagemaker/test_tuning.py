from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from include.contracts import BadInputError
from include.sagemaker import tuning
from include.sagemaker.naming import MAX_NAMES, attempt_name
from include.sagemaker.training import METRIC_DEFINITIONS
from include.sagemaker.tuning import (
    SPACE,
    Range,
    best_trial,
    search_progress,
    trial_sentence,
    tuned_model,
    tuning_outcome,
    tuning_request,
)
from tests.sagemaker.test_results import SPOT, described
from tests.sagemaker.test_training import EVERYTHING, SNAPSHOT
from tests.sagemaker.test_training import request as training_request

MODEL = botocore.session.get_session().get_service_model("sagemaker")
START = datetime(2026, 11, 24, tzinfo=UTC)


def once(**changes: Any) -> dict[str, Any]:
    return training_request(hyperparameters={"epochs": 3, "architecture": "gru"}, **changes)


def request(trials: int = 4, parallel: int = 2, **changes: Any) -> dict[str, Any]:
    return tuning_request(once(**changes), trials=trials, parallel=parallel)


def search(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["HyperParameterTuningJobConfig"]
    return found


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_request_fits_the_service_model(changes: dict[str, Any]) -> None:
    shape = MODEL.operation_model("CreateHyperParameterTuningJob").input_shape
    report = ParamValidator().validate(request(**changes), shape)
    assert not report.has_errors(), report.generate_report()
    config = search(request())
    for member, name in (
        ("Strategy", "HyperParameterTuningJobStrategyType"),
        ("TrainingJobEarlyStoppingType", "TrainingJobEarlyStoppingType"),
    ):
        assert config[member] in MODEL.shape_for(name).enum
    scales = [entry["ScalingType"] for entry in config["ParameterRanges"]["ContinuousParameterRanges"]]
    assert set(scales) <= set(MODEL.shape_for("HyperParameterScalingType").enum)
    known = MODEL.shape_for("HyperParameterTrainingJobDefinition").members
    assert set(request()["TrainingJobDefinition"]) <= set(known)
    assert set(tuning._SHARED) <= set(known)


def test_objective_is_a_metric_that_the_jobs_define() -> None:
    objective = search(request())["HyperParameterTuningJobObjective"]
    assert objective["Type"] == "Maximize"
    assert objective["MetricName"] in {definition["Name"] for definition in METRIC_DEFINITIONS}
    algorithm = request()["TrainingJobDefinition"]["AlgorithmSpecification"]
    assert algorithm["MetricDefinitions"] == list(METRIC_DEFINITIONS)


def test_a_trial_is_the_training_job_but_for_what_is_searched() -> None:
    definition, training = request()["TrainingJobDefinition"], once()
    for member in ("RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition"):
        assert definition[member] == training[member]
    # Without it SageMaker's TensorFlow container crashes in a tuning job.
    static = {**training["HyperParameters"], "model_dir": '"/opt/ml/model"'}
    assert definition["StaticHyperParameters"] == static
    assert request()["Tags"] == training["Tags"]


def test_trials_are_tracked_like_a_training_and_the_search_keeps_its_name() -> None:
    tracked = request(tracking="mlflow", environment={"MLFLOW_TRACKING_URI": "http://m:5000"})
    definition = tracked["TrainingJobDefinition"]
    assert definition["StaticHyperParameters"]["tracking"] == '"mlflow"'
    assert definition["Environment"] == {"MLFLOW_TRACKING_URI": "http://m:5000"}
    assert tracked["HyperParameterTuningJobName"] == request()["HyperParameterTuningJobName"]


def test_spot_settings_go_on_and_shared_checkpoints_do_not() -> None:
    training = {
        **once(),
        "EnableManagedSpotTraining": True,
        "CheckpointConfig": {"S3Uri": "s3://b/checkpoints"},
        "DebugHookConfig": {"S3OutputPath": "s3://b/debug"},
    }
    definition = tuning_request(training, trials=2, parallel=1)["TrainingJobDefinition"]
    assert definition["EnableManagedSpotTraining"] is True
    assert "CheckpointConfig" not in definition and "DebugHookConfig" not in definition


def test_space_is_written_as_text() -> None:
    ranges = search(request())["ParameterRanges"]
    assert {entry["Name"] for kind in ranges.values() for entry in kind} == set(SPACE)
    [rate] = [entry for entry in ranges["ContinuousParameterRanges"] if entry["Name"] == "learning-rate"]
    assert rate == {
        "Name": "learning-rate",
        "MinValue": "0.003",
        "MaxValue": "0.03",
        "ScalingType": "Logarithmic",
    }
    [size] = [entry for entry in ranges["CategoricalParameterRanges"] if entry["Name"] == "batch-size"]
    assert size["Values"] == ["64", "128", "256", "512"]


@pytest.mark.parametrize("name", SPACE)
def test_space_is_sound(name: str) -> None:
    values = SPACE[name]
    if isinstance(values, Range):
        assert values.low < values.high
        assert values.scaling == "Linear" or values.low > 0
    else:
        assert 2 <= len(set(values)) == len(values) <= 30


def test_what_the_run_sets_is_not_searched() -> None:
    training = training_request(hyperparameters={"dropout": 0.3, "embedding-dim": 64})
    made = tuning_request(training, trials=2, parallel=1)
    ranges = search(made)["ParameterRanges"]
    assert {entry["Name"] for kind in ranges.values() for entry in kind} == {"learning-rate", "batch-size"}
    assert made["TrainingJobDefinition"]["StaticHyperParameters"]["dropout"] == "0.3"


@pytest.mark.parametrize(
    ("trials", "parallel", "minutes", "limits"),
    [
        (1, 1, 60, (1, 1, 4500)),
        (5, 2, 60, (5, 2, 13_500)),
        (3, 10, 60, (3, 3, 4500)),
        (50, 1, 1440, (50, 1, 2_592_000)),
    ],
    ids=["one", "rounds", "never more at a time than trials", "SageMaker's own bound"],
)
def test_time_is_that_of_the_rounds(
    trials: int, parallel: int, minutes: int, limits: tuple[int, int, int]
) -> None:
    made = search(request(trials, parallel, max_runtime_seconds=minutes * 60))["ResourceLimits"]
    members = ("MaxNumberOfTrainingJobs", "MaxParallelTrainingJobs", "MaxRuntimeInSeconds")
    assert tuple(made[member] for member in members) == limits


@pytest.mark.parametrize(
    ("trials", "parallel", "fixed"),
    [(0, 1, {}), (51, 1, {}), (2, 0, {}), (2, 11, {}), (2, 1, dict.fromkeys(SPACE, 1))],
    ids=["no trial", "too many", "none at a time", "too many at a time", "nothing to search"],
)
def test_unusable_search_is_refused(trials: int, parallel: int, fixed: dict[str, object]) -> None:
    with pytest.raises(BadInputError):
        tuning_request(training_request(hyperparameters=fixed), trials=trials, parallel=parallel)


def test_names_follow_content_and_leave_room() -> None:
    names = [
        made["HyperParameterTuningJobName"]
        for made in (request(), request(5), request(4, 1), request(job_name="pms-other"))
    ]
    assert len(set(names)) == 4
    assert names[0] == request()["HyperParameterTuningJobName"]
    limit = MODEL.shape_for("HyperParameterTuningJobName").metadata["max"]
    assert all(len(attempt_name(name, MAX_NAMES)) <= limit for name in names)


WON: dict[str, Any] = {
    "TrainingJobName": "pms-x-002-0a1b2c3d",
    "TrainingJobStatus": "Completed",
    "TrainingStartTime": START,
    "TrainingEndTime": START + timedelta(seconds=90.5),
    "TunedHyperParameters": {"learning-rate": "0.0123", "batch-size": '"64"'},
    "FinalHyperParameterTuningJobObjectiveMetric": {
        "MetricName": "validation:final_mrr@20",
        "Value": 0.25,
    },
    "ObjectiveStatus": "Succeeded",
}
LOST: dict[str, Any] = {
    "TrainingJobName": "pms-x-001-0a1b2c3d",
    "TrainingJobStatus": "Failed",
    "FailureReason": "AlgorithmError: exit code: 1\n  nan loss",
    "TrainingStartTime": START,
    "TrainingEndTime": START + timedelta(seconds=10),
    "TunedHyperParameters": {"learning-rate": "0.02"},
    "ObjectiveStatus": "Failed",
}
PENDING: dict[str, Any] = {
    "TrainingJobName": "pms-x-003-0a1b2c3d",
    "TrainingJobStatus": "InProgress",
    "TunedHyperParameters": {"learning-rate": "0.01"},
    "ObjectiveStatus": "Pending",
}


@pytest.mark.parametrize(
    ("description", "state", "reason", "worth_retry"),
    [
        ({"HyperParameterTuningJobStatus": "InProgress"}, "running", "", False),
        ({"HyperParameterTuningJobStatus": "InProgress", "BestTrainingJob": WON}, "running", "", False),
        ({"HyperParameterTuningJobStatus": "Stopping"}, "running", "", False),
        ({"HyperParameterTuningJobStatus": "Completed", "BestTrainingJob": WON}, "done", "", False),
        ({"HyperParameterTuningJobStatus": "Completed"}, "failed", "validation sessions", False),
        ({"HyperParameterTuningJobStatus": "Stopped", "BestTrainingJob": WON}, "failed", "stopped", False),
        ({"HyperParameterTuningJobStatus": "Failed"}, "failed", "no reason", False),
        (
            {
                "HyperParameterTuningJobStatus": "Failed",
                "FailureReason": "No training job succeeded after 3 attempts.",
            },
            "failed",
            "after 3 attempts",
            False,
        ),
        (
            {"HyperParameterTuningJobStatus": "Failed", "FailureReason": "InternalServerError: x"},
            "failed",
            "x",
            True,
        ),
        ({"HyperParameterTuningJobStatus": "Deleting"}, "failed", "unexpected state 'Deleting'", False),
        ({}, "failed", "unexpected state", False),
    ],
)
def test_every_state_of_a_search_has_an_outcome(
    description: dict[str, Any], state: str, reason: str, worth_retry: bool
) -> None:
    outcome = tuning_outcome({"HyperParameterTuningJobName": "pms-x", **description})
    assert (outcome.state, outcome.worth_retry) == (state, worth_retry)
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ({"BestTrainingJob": WON}, WON["TrainingJobName"]),
        ({"BestTrainingJob": None}, None),
        ({"BestTrainingJob": {}}, None),
        ({}, None),
    ],
    ids=["there", "null", "empty", "absent"],
)
def test_best_trial(description: dict[str, Any], name: str | None) -> None:
    assert best_trial(description) == name


def test_claim_check_of_the_winner() -> None:
    tuned = {
        "HyperParameterTuningJobName": "pms-x",
        "BestTrainingJob": WON,
        "CreationTime": datetime(2026, 11, 23, tzinfo=UTC),
    }
    best = described(TrainingJobName=WON["TrainingJobName"], BillableTimeInSeconds=3500)
    lost = described(TrainingJobStatus="Failed", BillableTimeInSeconds=100)
    pending = described(TrainingJobStatus="InProgress", TrainingTimeInSeconds=None)
    model = tuned_model(tuned, best, [LOST, WON, PENDING], [lost, best, pending], SNAPSHOT)
    assert model.job_name == "pms-x-002-0a1b2c3d"
    assert model.evaluation_uri == "s3://b/p/models/pms-x-002-0a1b2c3d/output/output.tar.gz"
    assert model.billable_seconds == 3600
    assert model.cost_usd == pytest.approx(0.23)
    assert (model.data_until, model.trained_at) == ("2026-02-01", "2026-11-23T00:00:00+00:00")
    assert model.spot_saving is None
    assert tuned_model(tuned, best, [WON], [described(**SPOT), best], SNAPSHOT).spot_saving == 0.8
    assert model.tuning is not None
    assert model.tuning.to_xcom() == {
        "job_name": "pms-x",
        "trials": 1,
        "val_mrr": 0.25,
        "hyperparameters": {"batch-size": "64", "learning-rate": "0.0123"},
    }


def test_winner_without_an_artefact_has_no_claim_check() -> None:
    tuned = {"HyperParameterTuningJobName": "pms-x", "BestTrainingJob": WON}
    with pytest.raises(BadInputError, match="has no model"):
        tuned_model(tuned, described(ModelArtifacts={}), [WON], [], SNAPSHOT)


def test_progress_counts_the_trials_that_have_ended() -> None:
    tuning = {"HyperParameterTuningJobConfig": {"ResourceLimits": {"MaxNumberOfTrainingJobs": 4}}}
    assert search_progress(tuning, [PENDING]) == "0 of 4 trials have ended (0 %)"
    assert search_progress({**tuning, "BestTrainingJob": WON}, [LOST, WON, PENDING]) == (
        "2 of 4 trials have ended (50 %), best validation:final_mrr@20=0.2500"
    )


def test_where_and_how_long_it_runs_is_no_part_of_the_name() -> None:
    names = {
        request(**changes)["HyperParameterTuningJobName"]
        for changes in ({}, EVERYTHING, {"max_runtime_seconds": 7200})
    }
    assert len(names) == 1


@pytest.mark.parametrize(
    ("trial", "sentence"),
    [
        (
            WON,
            "Trial pms-x-002-0a1b2c3d: Completed, validation:final_mrr@20=0.2500; "
            "batch-size=64 learning-rate=0.0123",
        ),
        (
            LOST,
            "Trial pms-x-001-0a1b2c3d: Failed (AlgorithmError: exit code: 1 nan loss); learning-rate=0.02",
        ),
        (PENDING, "Trial pms-x-003-0a1b2c3d: InProgress; learning-rate=0.01"),
    ],
    ids=["won", "lost", "runs"],
)
def test_a_trial_is_told_in_one_line(trial: dict[str, Any], sentence: str) -> None:
    assert trial_sentence(trial) == sentence

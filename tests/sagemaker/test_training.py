from __future__ import annotations

import json
import re
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from include.contracts import BadInputError, Snapshot
from include.sagemaker.training import (
    FINAL_METRIC,
    METRIC_DEFINITIONS,
    Machines,
    limit_of,
    progress_of,
    script_hyperparameters,
    tags,
    training_outcome,
    training_request,
)

SNAPSHOT = Snapshot(
    snapshot_id="snap-1",
    uri="s3://b/p/snapshots/snap-1/",
    manifest_sha256="0" * 64,
    train_sessions=8,
    validation_sessions=1,
    test_sessions=1,
    products=5,
    start_date="2026-01-01",
    end_date="2026-02-01",
)


def request(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "job_name": "pms-0123456789ab",
        "snapshot": SNAPSHOT,
        "hyperparameters": {"epochs": 3, "architecture": "gru", "learning-rate": 0.002},
        "source_uri": "s3://b/p/code/abc/sourcedir.tar.gz",
        "output_uri": "s3://b/p/models/",
        "image": "1.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.21",
        "role_arn": "arn:aws:iam::123456789012:role/train",
        "machines": Machines("ml.m5.xlarge"),
        "max_runtime_seconds": 3600,
        "region": "us-east-1",
        **changes,
    }
    return training_request(**arguments)


EVERYTHING = {
    "machines": Machines(
        "ml.m5.xlarge",
        instances=2,
        volume_gb=80,
        spot_wait_seconds=600,
        network={"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]},
        kms_key_id="arn:aws:kms:us-east-1:123456789012:key/k",
    ),
    "resource_tags": {"team": "search", "project": "mine"},
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_request_fits_the_service_model(changes: dict[str, Any]) -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape
    report = ParamValidator().validate(request(**changes), shape)
    assert not report.has_errors(), report.generate_report()
    assert request()["ResourceConfig"]["InstanceType"] in model.shape_for("TrainingInstanceType").enum
    for definition in METRIC_DEFINITIONS:
        assert len(definition["Regex"]) <= 500


def test_request_asks_for_what_the_settings_say() -> None:
    made = request(**EVERYTHING)
    assert made["ResourceConfig"] == {
        "InstanceCount": 2,
        "InstanceType": "ml.m5.xlarge",
        "VolumeSizeInGB": 80,
        "VolumeKmsKeyId": "arn:aws:kms:us-east-1:123456789012:key/k",
    }
    assert made["OutputDataConfig"]["KmsKeyId"] == "arn:aws:kms:us-east-1:123456789012:key/k"
    assert made["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]}
    assert made["EnableManagedSpotTraining"] is True
    assert made["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 4200}
    assert limit_of(made["StoppingCondition"]) == 4200
    assert {"Key": "team", "Value": "search"} in made["Tags"]


def test_request_without_wishes_leaves_them_out() -> None:
    made = request()
    assert made["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    assert made["EnableManagedSpotTraining"] is False
    assert "VpcConfig" not in made
    assert made["OutputDataConfig"] == {"S3OutputPath": "s3://b/p/models"}
    assert limit_of(made["StoppingCondition"]) == 3600


def test_tags_of_others_cannot_hide_the_projects_own() -> None:
    made = {tag["Key"]: tag["Value"] for tag in tags({"project": "mine", "team": "search"}, job="x")}
    assert made == {"project": "post-modern-stack", "team": "search", "job": "x"}


@pytest.mark.parametrize(
    ("instance_type", "local"),
    [
        ("ml.m5.xlarge", False),
        ("ml.m6i.xlarge", False),
        ("ml.c5n.xlarge", False),
        ("ml.c7i.2xlarge", False),
        ("ml.p3.2xlarge", False),
        ("ml.r5.large", False),
        ("ml.m5d.xlarge", True),
        ("ml.c5d.xlarge", True),
        ("ml.r5dn.xlarge", True),
        ("ml.m6id.xlarge", True),
        ("ml.g4dn.xlarge", True),
        ("ml.g5.xlarge", True),
        ("ml.g6.xlarge", True),
        ("ml.g6e.xlarge", True),
        ("ml.p3dn.24xlarge", True),
        ("ml.p4de.24xlarge", True),
        ("ml.p5.48xlarge", True),
        ("ml.trn1.2xlarge", True),
    ],
)
def test_disk_of_the_instance_itself_takes_neither_size_nor_key(instance_type: str, local: bool) -> None:
    made = request(machines=Machines(instance_type, kms_key_id="k"))
    assert ("VolumeKmsKeyId" not in made["ResourceConfig"]) is local
    assert ("VolumeSizeInGB" not in made["ResourceConfig"]) is local
    assert made["OutputDataConfig"]["KmsKeyId"] == "k"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "epoch=3/8 loss=5.1234 val_mrr@20=0.2371 val_hit_rate@20=0.55 seconds=4.2",
            "epoch 3/8 (37 %), loss 5.1234, validation MRR@20 0.2371",
        ),
        ("epoch=8/8 loss=5.0", "epoch 8/8 (100 %), loss 5.0"),
        ("refit=1/3 loss=4.5", "again with the validation sessions, epoch 1/3 (33 %), loss 4.5"),
        ("step 3/9 of epoch 1: 5.2", None),
        ("a shop said epoch=3/8 once", None),
        ("epoch=1/0 x", "epoch 1/0 (100 %)"),
    ],
)
def test_progress_is_read_from_the_log(line: str, told: str | None) -> None:
    assert progress_of(line) == told


def test_checkpoints_are_kept_beside_the_output() -> None:
    kept = request()["CheckpointConfig"]
    assert kept == {
        "S3Uri": "s3://b/p/models/pms-0123456789ab/checkpoints/",
        "LocalPath": "/opt/ml/checkpoints",
    }


def test_hyperparameters_are_json_in_strings() -> None:
    made = request()["HyperParameters"]
    assert made == {
        "epochs": "3",
        "architecture": '"gru"',
        "learning-rate": "0.002",
        "sagemaker_program": '"train.py"',
        "sagemaker_submit_directory": '"s3://b/p/code/abc/sourcedir.tar.gz"',
        "sagemaker_container_log_level": "20",
        "sagemaker_region": '"us-east-1"',
    }
    assert all(isinstance(json.loads(value), str | int | float) for value in made.values())


def test_hyperparameter_without_a_value_is_left_out() -> None:
    assert "seed" not in script_hyperparameters({"seed": None}, "s3://b/x.tar.gz", None)


@pytest.mark.parametrize(
    ("changes", "tracking", "environment"),
    [
        ({}, None, None),
        ({"tracking": "none", "environment": {}}, None, None),
        (
            {"tracking": "mlflow", "environment": {"MLFLOW_TRACKING_URI": "http://m:5000"}},
            '"mlflow"',
            {"MLFLOW_TRACKING_URI": "http://m:5000"},
        ),
        ({"tracking": "comet"}, '"comet"', None),
    ],
    ids=["not asked for", "none", "mlflow", "comet"],
)
def test_tracking_is_an_option_and_variables(
    changes: dict[str, Any], tracking: str | None, environment: dict[str, str] | None
) -> None:
    made = request(**changes)
    assert made["HyperParameters"].get("tracking") == tracking
    assert made.get("Environment") == environment


@pytest.mark.parametrize(
    "changes",
    [{"hyperparameters": {"sagemaker_program": "evil.py"}}, {"max_runtime_seconds": 0}],
    ids=["reserved name", "no time"],
)
def test_unusable_request_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        request(**changes)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "epoch=3/10 loss=5.1234 val_mrr@20=0.2371 val_hit_rate@20=0.5512 seconds=4.2",
            {"epoch": "3", "train:loss": "5.1234", "validation:mrr@20": "0.2371"},
        ),
        ("epoch=10/10 loss=1e-05 val_mrr@20=0.1", {"epoch": "10", "train:loss": "1e-05"}),
        ("epoch=1/10 val_loss=7.5 loss=5.0 val_mrr@20=0.1", {"train:loss": "5.0"}),
        (
            "blend network=0.5 companions=0.3 own=0.2 val_mrr@20=0.2512",
            {FINAL_METRIC: "0.2512"},
        ),
        ("blend val_mrr@20=None val_hit_rate@20=None", {}),
        ("refit=2/3 loss=5.1234 interactions_per_second=900.0", {}),
        ("loading the snapshot", {}),
    ],
)
def test_metrics_are_found_in_the_log_lines(line: str, found: dict[str, str]) -> None:
    seen = {
        definition["Name"]: match[1]
        for definition in METRIC_DEFINITIONS
        if (match := re.search(definition["Regex"], line))
    }
    assert found.items() <= seen.items()
    assert bool(found) == bool(seen)


@pytest.mark.parametrize(
    ("description", "state", "reason", "worth_retry"),
    [
        ({"TrainingJobStatus": "InProgress"}, "running", "", False),
        ({"TrainingJobStatus": "Stopping"}, "running", "", False),
        ({"TrainingJobStatus": "Completed"}, "done", "", False),
        ({"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped"}, "failed", "was stopped", False),
        (
            {
                "TrainingJobStatus": "Stopped",
                "SecondaryStatus": "MaxRuntimeExceeded",
                "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            },
            "failed",
            "after 60 s",
            False,
        ),
        (
            {
                "TrainingJobStatus": "Stopped",
                "SecondaryStatus": "MaxWaitTimeExceeded",
                "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 90},
            },
            "failed",
            "spare capacity within 90 s",
            False,
        ),
        ({"TrainingJobStatus": "Failed"}, "failed", "no reason", False),
        (
            {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: nan"},
            "failed",
            "AlgorithmError: nan",
            False,
        ),
        (
            {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: InternalServerError in log"},
            "failed",
            "AlgorithmError",
            False,
        ),
        ({"TrainingJobStatus": "Failed", "FailureReason": "InternalServerError: x"}, "failed", "x", True),
        ({"TrainingJobStatus": "Failed", "FailureReason": "CapacityError: x"}, "failed", "x", True),
        ({"TrainingJobStatus": "Deleting"}, "failed", "unexpected state 'Deleting'", False),
        ({}, "failed", "unexpected state", False),
    ],
)
def test_every_state_of_a_job_has_an_outcome(
    description: dict[str, Any], state: str, reason: str, worth_retry: bool
) -> None:
    outcome = training_outcome({"TrainingJobName": "pms-x", **description})
    assert (outcome.state, outcome.worth_retry) == (state, worth_retry)
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("end", "hint"),
    [
        (
            'ExecuteUserScriptError:\nExitCode -9\nErrorMessage ""',
            "(exit code -9: it was killed, most likely",
        ),
        ("See the log, exit code: 137", "memory ran out: choose a larger instance"),
        ("Exit Code: 134", "(exit code 134: native code gave up"),
        ("exit code: 139", "(exit code 139: native code crashed"),
        ("ExitCode 1, exit code: 1", ""),
        ("1137 of 9 rows", ""),
    ],
)
def test_exit_code_that_names_a_signal_is_explained(end: str, hint: str) -> None:
    failed = {"TrainingJobStatus": "Failed", "FailureReason": f"AlgorithmError: {end}"}
    reason = training_outcome(failed).reason
    assert hint in reason
    assert hint or reason.endswith(end)

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.model import StructureShape

from include.local.emulator.wire.errors import AwsError
from include.local.emulator.wire.shapes import check_request, java_pattern, pick, service_model, violations

JOB: dict[str, Any] = {
    "TrainingJobName": "job-1",
    "RoleArn": "arn:aws:iam::123456789012:role/sagemaker",
    "AlgorithmSpecification": {"TrainingImage": "image:1", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/models"},
    "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}


def _changed(path: str, value: object) -> dict[str, Any]:
    request: dict[str, Any] = {key: dict(v) if isinstance(v, dict) else v for key, v in JOB.items()}
    *parents, last = path.split(".")
    target = request
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return request


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("TrainingJobName", ..., "'trainingJobName' failed to satisfy constraint: Member must not be null"),
        ("TrainingJobName", None, "Member must not be null"),
        ("TrainingJobName", "under_score", "regular expression pattern"),
        ("TrainingJobName", "../../etc", "regular expression pattern"),
        ("TrainingJobName", "name\n", "regular expression pattern"),
        ("TrainingJobName", "a" * 64, "length less than or equal to 63"),
        ("TrainingJobName", 7, "must be of type string"),
        ("RoleArn", "role", "length greater than or equal to 20"),
        ("RoleArn", "not-an-arn-but-long-enough", "regular expression pattern"),
        ("OutputDataConfig.S3OutputPath", "bucket/models", "regular expression pattern"),
        ("ResourceConfig.InstanceType", "ml.giant.9xlarge", "enum value set"),
        ("ResourceConfig.InstanceCount", "1", "must be of type integer"),
        ("ResourceConfig.InstanceCount", True, "must be of type integer"),
        ("ResourceConfig.VolumeSizeInGB", -1, "greater than or equal to"),
        ("StoppingCondition.MaxRuntimeInSeconds", 0, "value greater than or equal to 1"),
        ("AlgorithmSpecification.TrainingInputMode", "Floppy", "enum value set: [Pipe, File, FastFile]"),
        ("InputDataConfig", [{"ChannelName": "a b"}], "'inputDataConfig.1.member.channelName'"),
        ("InputDataConfig", {}, "must be of type list"),
        ("HyperParameters", {"epochs": 3}, "'hyperParameters.epochs' failed"),
        ("Tags", [{"Key": "k"}], "'tags.1.member.value'"),
        ("Tags", [{"Key": "k%", "Value": ""}], "'tags.1.member.key'"),
        ("EnableManagedSpotTraining", "yes", "must be of type boolean"),
    ],
)
def test_a_wrong_parameter_is_refused_and_named(path: str, value: object, said: str) -> None:
    with pytest.raises(AwsError) as error:
        check_request("CreateTrainingJob", _changed(path, value))
    assert error.value.code == "ValidationException"
    assert said in error.value.message


def test_a_good_request_passes_and_nulls_are_absent() -> None:
    request = JOB | {"VpcConfig": None, "Tags": [{"Key": "Équipe/1", "Value": "a b"}]}
    assert check_request("CreateTrainingJob", request) == {k: v for k, v in request.items() if v is not None}


def test_every_violation_is_told_at_once() -> None:
    with pytest.raises(AwsError, match=r"^ValidationException: 3 validation errors detected: "):
        check_request("CreateTrainingJob", {})


@pytest.mark.parametrize("request_", [[], "text", 7, None])
def test_what_is_no_object_is_refused(request_: object) -> None:
    with pytest.raises(AwsError, match="SerializationException"):
        check_request("CreateTrainingJob", request_)


@pytest.mark.parametrize("name", ["", "CreateMagic", "createTrainingJob", "../x"])
def test_an_unknown_operation_is_refused(name: str) -> None:
    with pytest.raises(AwsError, match="UnknownOperationException"):
        check_request(name, {})


def test_every_pattern_of_the_service_model_is_understood() -> None:
    model = service_model()
    patterns = {model.shape_for(name).metadata.get("pattern") for name in model.shape_names} - {None}
    assert len(patterns) > 100
    for pattern in patterns:
        java_pattern(pattern)


@pytest.mark.parametrize(
    ("shape", "value", "fits"),
    [
        ("TagKey", "owner-é", True),
        ("TagKey", "own%er", False),
        ("CustomerMetadataKey", "snapshot id", True),
        ("CustomerMetadataKey", "snapshot;id", False),
        ("EntityDescription", "any text – with (marks)!", True),
        ("TableName", "a\u0007b", False),
        ("TableName", "a\U0001f600b", True),
    ],
)
def test_java_property_classes(shape: str, value: str, fits: bool) -> None:
    found = list(violations(service_model().shape_for(shape), value))
    assert (found == []) is fits


def test_the_models_misprinted_pattern_takes_no_exponential_time() -> None:
    started = time.monotonic()
    list(violations(service_model().shape_for("CustomerMetadataKey"), "a" * 120 + ";"))
    assert time.monotonic() - started < 1


def test_a_closed_shape_knows_no_other_members() -> None:
    shape = service_model().operation_model("CreateModel").output_shape
    assert shape is not None
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model/m"
    assert list(violations(shape, {"ModelArn": arn}, closed=True)) == []
    assert list(violations(shape, {"ModelArn": arn, "Extra": 1}, closed=True)) == [
        "'extra' is not a member of CreateModelOutput"
    ]


def test_pick_keeps_the_members_of_the_shape() -> None:
    shape = service_model().operation_model("CreateModel").output_shape
    assert isinstance(shape, StructureShape)
    assert pick(shape, {"ModelArn": "a", "Tags": [], "Other": None}) == {"ModelArn": "a"}

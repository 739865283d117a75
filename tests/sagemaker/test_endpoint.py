from __future__ import annotations

from functools import cache
from typing import Any

import botocore.session
import pytest
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from include.contracts import TrainedModel
from include.sagemaker.endpoint import (
    create_endpoint_request,
    deployment_config,
    deployment_seconds,
    differences,
    endpoint_config_request,
    ephemeral_settings,
    model_request,
    update_endpoint_request,
)
from include.settings import Settings

TRAINED = TrainedModel(
    job_name="pms-0123456789ab",
    job_arn="arn:x",
    snapshot_id="snap-1",
    model_uri="s3://b/p/models/pms-0123456789ab/output/model.tar.gz",
    evaluation_uri="s3://b/p/models/pms-0123456789ab/output/output.tar.gz",
    billable_seconds=1,
    data_until="2026-02-01",
    trained_at="2026-02-01T03:04:05+00:00",
)
SETTINGS = Settings(bucket="b", prefix="p")
SERVERLESS = {"endpoint_serverless": True}
NETWORK = {"vpc_subnets": "subnet-1, subnet-2", "vpc_security_groups": "sg-1"}


def with_(**values: Any) -> Settings:
    return Settings(**{"bucket": "b", "prefix": "p", **values})


def model_of(settings: Settings) -> dict[str, Any]:
    return model_request(TRAINED, settings, image="serving:2.20", environment={"A": "1"})


def config_of(settings: Settings) -> dict[str, Any]:
    return endpoint_config_request(TRAINED, "pms-model", settings)


def update_of(settings: Settings) -> dict[str, Any]:
    deployment = deployment_config(settings, settings.alarm_names)
    return update_endpoint_request("shop", "pms-1", deployment=deployment, keep_capacity=True)


CONFIG = config_of(SETTINGS)


@cache
def service() -> ServiceModel:
    return botocore.session.get_session().get_service_model("sagemaker")


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        with_(**SERVERLESS, **NETWORK, kms_key_id="key"),
        with_(endpoint_instance_type="ml.g5.xlarge", kms_key_id="key", resource_tags={"team": "shop"}),
        with_(traffic_shift="canary", endpoint_instance_count=3, **NETWORK, capture_percent=0),
        with_(traffic_shift="linear", endpoint_instance_count=10, bake_seconds=2700),
        with_(bake_seconds=3600, rollback_on_alarms=False, kms_key_id="key"),
    ],
    ids=["defaults", "serverless", "gpu", "canary in a network", "slowest", "unwatched"],
)
def test_requests_fit_the_service_model(settings: Settings) -> None:
    for operation, request in {
        "CreateModel": model_of(settings),
        "CreateEndpointConfig": config_of(settings),
        "CreateEndpoint": create_endpoint_request("shop", "pms-1", settings),
        "UpdateEndpoint": update_of(settings),
    }.items():
        report = ParamValidator().validate(request, service().operation_model(operation).input_shape)
        assert not report.has_errors(), f"{operation}: {report.generate_report()}"
    wait = deployment_config(settings, ()) or {"BlueGreenUpdatePolicy": {}}
    # The validator reads minima only.
    assert wait["BlueGreenUpdatePolicy"].get("MaximumExecutionTimeoutInSeconds", 600) <= 28800


def test_config_serves_the_model_whole_on_the_machines_of_the_settings() -> None:
    settings = with_(endpoint_instance_type="ml.g5.xlarge", endpoint_instance_count=3)
    [variant] = config_of(settings)["ProductionVariants"]
    assert (variant["VariantName"], variant["ModelName"]) == ("AllTraffic", "pms-model")
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.g5.xlarge", 3)
    assert model_of(settings)["PrimaryContainer"]["ModelDataUrl"] == TRAINED.model_uri


def test_config_says_how_new_its_model_is() -> None:
    said = {tag["Key"]: tag["Value"] for tag in config_of(with_(resource_tags={"team": "shop"}))["Tags"]}
    assert said == {
        "project": "post-modern-stack",
        "team": "shop",
        "training_job": TRAINED.job_name,
        "snapshot_id": TRAINED.snapshot_id,
        "data_until": TRAINED.data_until,
        "trained_at": TRAINED.trained_at,
    }


def test_capture_keeps_requests_and_answers_within_the_projects_folder() -> None:
    capture = config_of(with_(capture_percent=35, kms_key_id="key"))["DataCaptureConfig"]
    assert (capture["EnableCapture"], capture["InitialSamplingPercentage"]) == (True, 35)
    assert (capture["DestinationS3Uri"], capture["KmsKeyId"]) == ("s3://b/p/captured", "key")
    assert [option["CaptureMode"] for option in capture["CaptureOptions"]] == ["Input", "Output"]
    assert "DataCaptureConfig" not in config_of(with_(capture_percent=0))


def test_serverless_has_no_machines_network_capture_key_or_shift() -> None:
    settings = with_(**SERVERLESS, **NETWORK, kms_key_id="key", serverless_memory_mb=4096)
    config = config_of(settings)
    [variant] = config["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 4096, "MaxConcurrency": 20}
    assert not {"InstanceType", "InitialInstanceCount"} & set(variant)
    assert not {"DataCaptureConfig", "KmsKeyId"} & set(config)
    assert "VpcConfig" not in model_of(settings)
    assert "DeploymentConfig" not in update_of(settings)


@pytest.mark.parametrize(
    ("instance", "has_key"),
    [
        ("ml.m5.large", True),
        ("ml.c6i.xlarge", True),
        ("ml.p3.2xlarge", True),
        ("ml.g4dn.xlarge", False),
        ("ml.g5.xlarge", False),
        ("ml.m5d.large", False),
        ("ml.c6gd.large", False),
    ],
)
def test_key_is_left_out_where_a_machine_has_a_disk_of_its_own(instance: str, has_key: bool) -> None:
    assert ("KmsKeyId" in config_of(with_(kms_key_id="key", endpoint_instance_type=instance))) is has_key


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint_instance_type": "ml.c5.large"},
        {"endpoint_instance_count": 2},
        {"capture_percent": 21},
        {"capture_percent": 0},
        {"kms_key_id": "key"},
        {"prefix": "other"},
        SERVERLESS,
        {**SERVERLESS, "serverless_memory_mb": 1024},
        {**SERVERLESS, "serverless_max_concurrency": 1},
    ],
    ids=str,
)
def test_whatever_is_in_a_config_is_in_its_name(change: dict[str, Any]) -> None:
    base = with_(**SERVERLESS) if len(change) == 2 else SETTINGS
    assert config_of(with_(**change))["EndpointConfigName"] != config_of(base)["EndpointConfigName"]


@pytest.mark.parametrize("change", [{"resource_tags": {"a": "b"}}, {"bake_seconds": 7}], ids=str)
def test_what_is_not_in_a_config_is_not_in_its_name(change: dict[str, Any]) -> None:
    assert config_of(with_(**change))["EndpointConfigName"] == CONFIG["EndpointConfigName"]


def test_network_is_in_the_models_name() -> None:
    assert model_of(with_(**NETWORK))["VpcConfig"] == {
        "SecurityGroupIds": ["sg-1"],
        "Subnets": ["subnet-1", "subnet-2"],
    }
    assert model_of(with_(**NETWORK))["ModelName"] != model_of(SETTINGS)["ModelName"]


@pytest.mark.parametrize(
    ("values", "routing"),
    [
        ({}, {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}),
        (
            {"traffic_shift": "canary", "endpoint_instance_count": 2, "traffic_step_percent": 10},
            {
                "Type": "CANARY",
                "WaitIntervalInSeconds": 60,
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
            },
        ),
        (
            # Half of three instances would be more than SageMaker allows.
            {"traffic_shift": "canary", "endpoint_instance_count": 3, "traffic_step_percent": 50},
            {
                "Type": "CANARY",
                "WaitIntervalInSeconds": 60,
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 33},
            },
        ),
        (
            {"traffic_shift": "linear", "endpoint_instance_count": 4, "traffic_step_percent": 25},
            {
                "Type": "LINEAR",
                "WaitIntervalInSeconds": 60,
                "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 25},
            },
        ),
    ],
    ids=["all at once", "canary", "canary of three", "linear"],
)
def test_traffic_moves_as_the_settings_say(values: dict[str, Any], routing: dict[str, Any]) -> None:
    settings = with_(bake_seconds=60, **values)
    policy = update_of(settings)["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"] == routing
    assert policy["TerminationWaitInSeconds"] == 60


@pytest.mark.parametrize(
    ("values", "waits"),
    [
        ({}, 1),
        ({"traffic_shift": "canary", "endpoint_instance_count": 2}, 2),
        ({"traffic_shift": "linear", "endpoint_instance_count": 4, "traffic_step_percent": 30}, 4),
    ],
)
def test_an_update_may_take_all_its_waits(values: dict[str, Any], waits: int) -> None:
    [short, long] = [deployment_seconds(with_(bake_seconds=seconds, **values)) for seconds in (0, 100)]
    assert (short >= 600, long - short) == (True, 100 * waits)


def test_alarms_take_an_update_back_where_they_are_wanted() -> None:
    watched = update_of(SETTINGS)["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert [alarm["AlarmName"] for alarm in watched] == list(SETTINGS.alarm_names)
    assert "AutoRollbackConfiguration" not in update_of(with_(rollback_on_alarms=False))["DeploymentConfig"]


def test_an_ephemeral_endpoint_is_one_machine_unwatched_and_uncaptured() -> None:
    wide = with_(endpoint_instance_count=4, endpoint_max_instances=8, traffic_shift="canary")
    one = ephemeral_settings(wide, "shop-0123")
    assert (one.endpoint_name, one.alarm_names) == ("shop-0123", ())
    assert "DataCaptureConfig" not in config_of(one)
    assert config_of(one)["ProductionVariants"][0]["InitialInstanceCount"] == 1


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        ({**CONFIG, "CreationTime": 1, "EndpointConfigArn": "arn"}, 0),
        ({**CONFIG, "ProductionVariants": [{**CONFIG["ProductionVariants"][0], "ModelName": "pms-2"}]}, 1),
        ({**CONFIG, "ProductionVariants": []}, 1),
        ({}, 3),
    ],
    ids=["the same and more", "another model", "no variant", "nothing"],
)
def test_differences_are_named(found: dict[str, Any], lines: int) -> None:
    assert len(differences(CONFIG, found)) == lines

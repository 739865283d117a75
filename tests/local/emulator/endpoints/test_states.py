"""The states that an endpoint only gets into when something goes wrong, and what it then takes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.local.emulator.endpoints.deployer import Deployer
from include.local.emulator.endpoints.state import Endpoint
from include.local.emulator.endpoints.traffic import Plan
from include.local.emulator.resources.models import EndpointConfig
from include.local.emulator.serving.fleets import Fleet
from include.local.emulator.wire.faults import Faults
from tests.local.cloud import Cloud, Shop, alive, eventually

SetFaults = Callable[..., None]


def _status(cloud: Cloud, endpoint: str) -> str:
    return str(cloud.sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointStatus"])


def test_a_roll_back_goes_through_its_states(cloud: Cloud, faults: SetFaults) -> None:
    name = cloud.endpoint("old")
    before = cloud.sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    faults({"endpoint": name, "event": "rollback", "reason": "as planned", "seconds": 0.7})
    seen: list[str] = []

    def settled() -> bool:
        seen.append(_status(cloud, name))
        return seen[-1] == "InService"

    with Shop(cloud, name) as shop:
        config = cloud.config("new")
        cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
        eventually(lambda: "new" in shop.said)
        eventually(lambda: _status(cloud, name) == "RollingBack")
        for refused in (
            lambda: cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config),
            lambda: cloud.sagemaker.delete_endpoint(EndpointName=name),
        ):
            with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
                refused()
        eventually(settled)
    assert seen[0] == "RollingBack"
    told = cloud.sagemaker.describe_endpoint(EndpointName=name)
    assert (told["EndpointConfigName"], told["FailureReason"]) == (before, "as planned")
    assert {cloud.invoke(name)["model"] for _ in range(5)} == {"old"}


def test_a_roll_back_that_fails_leaves_both_in_service_until_an_update(
    cloud: Cloud, faults: SetFaults
) -> None:
    name = cloud.endpoint("old", instances=2)
    faults({"endpoint": "*", "event": "rollback_failed", "reason": "stuck", "seconds": 0.2})
    half = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {
                "Type": "CANARY",
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50},
                "WaitIntervalInSeconds": 0,
            }
        }
    }
    with Shop(cloud, name) as shop:
        cloud.sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=cloud.config("new", instances=2), DeploymentConfig=half
        )
        eventually(lambda: _status(cloud, name) == "UpdateRollbackFailed")
        told = cloud.sagemaker.describe_endpoint(EndpointName=name)
        assert told["FailureReason"] == "stuck"
        assert "PendingDeploymentSummary" not in told
        start = len(shop.said)
        eventually(lambda: {"old", "new"} <= set(shop.said[start:]))
        answers = {answer["model"]: answer["pids"] for answer in (cloud.invoke(name) for _ in range(20))}
        cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("mended"))
        assert cloud.settled(name)["EndpointStatus"] == "InService"
        eventually(lambda: not any(alive(pid) for pids in answers.values() for pid in pids))
    assert cloud.invoke(name)["model"] == "mended"


def test_an_endpoint_that_rolled_back_badly_can_be_deleted(cloud: Cloud, faults: SetFaults) -> None:
    name = cloud.endpoint("old")
    faults({"endpoint": name, "event": "rollback_failed", "seconds": 0})
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("new"))
    eventually(lambda: _status(cloud, name) == "UpdateRollbackFailed")
    cloud.sagemaker.delete_endpoint(EndpointName=name)
    eventually(lambda: cloud.sagemaker.list_endpoints(NameContains=name)["Endpoints"] == [])


def test_system_updating_answers_and_takes_no_change(cloud: Cloud, faults: SetFaults) -> None:
    name, config = cloud.endpoint("old"), cloud.config("new")
    faults({"endpoint": name, "event": "system_updating", "seconds": 1})
    with Shop(cloud, name):
        assert _status(cloud, name) == "SystemUpdating"
        with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
            cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
        assert cloud.settled(name)["EndpointStatus"] == "InService"
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
    assert cloud.settled(name)["EndpointConfigName"] == config


def test_an_endpoint_fails_on_demand_and_can_only_be_deleted(cloud: Cloud, faults: SetFaults) -> None:
    created, updated = cloud.name("endpoint"), cloud.endpoint("old")
    for name in (created, updated):
        faults({"endpoint": name, "event": "fail", "reason": "no capacity", "seconds": 0})
    cloud.sagemaker.create_endpoint(EndpointName=created, EndpointConfigName=cloud.config("new"))
    cloud.sagemaker.update_endpoint(EndpointName=updated, EndpointConfigName=cloud.config("new"))
    for name in (created, updated):
        eventually(lambda name=name: _status(cloud, name) == "Failed")
        assert cloud.sagemaker.describe_endpoint(EndpointName=name)["FailureReason"] == "no capacity"
        with pytest.raises(ClientError, match="Cannot update failed endpoint"):
            cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("new"))
        with pytest.raises(ClientError, match="not found"):
            cloud.invoke(name)
        cloud.sagemaker.delete_endpoint(EndpointName=name)


class _Launcher:
    """Brings up fleets without servers."""

    def launch(self, *_: Any) -> tuple[Fleet, None]:
        return Fleet([]), None

    def remove(self, *_: Any, **__: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("InService", "InService"),
        ("Updating", "InService"),  # new weights, not a new config
        ("SystemUpdating", "InService"),
        ("RollingBack", "InService"),
        ("UpdateRollbackFailed", "UpdateRollbackFailed"),
    ],
)
def test_the_state_after_a_restart_of_the_emulator(before: str, after: str) -> None:
    config = EndpointConfig("c", "us-east-1", {"ProductionVariants": []})
    endpoint = Endpoint("e", "us-east-1", {}, status=before, config=config, failure_reason="why")
    endpoint.ready.clear()
    if before == "RollingBack":
        endpoint.pending = config
    deployer = Deployer("", _Launcher(), 0, threading.Event(), Faults())  # type: ignore[arg-type]
    deployer.resume(endpoint, endpoint.next_deployment(config, Plan()), None)
    assert (endpoint.status, endpoint.pending, endpoint.failure_reason) == (after, None, "why")
    assert endpoint.ready.is_set()
    assert len(endpoint.traffic.routes) == 1


def _resize(cloud: Cloud, endpoint: str, **wanted: Any) -> None:
    cloud.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=endpoint, DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", **wanted}]
    )


def _sizes(told: dict[str, Any]) -> tuple[float, int]:
    variant = told["ProductionVariants"][0]
    assert variant["CurrentInstanceCount"] == variant["DesiredInstanceCount"]
    return variant["CurrentWeight"], variant["CurrentInstanceCount"]


def test_weights_and_capacities_are_set_and_retained(cloud: Cloud) -> None:
    name = cloud.endpoint("old", instances=2)
    with Shop(cloud, name):
        _resize(cloud, name, DesiredInstanceCount=5, DesiredWeight=3)
        assert _sizes(cloud.settled(name)) == (3.0, 5)
        for excluded, size in (([], (3.0, 5)), (["DesiredWeight"], (1.0, 5))):
            cloud.sagemaker.update_endpoint(
                EndpointName=name,
                EndpointConfigName=cloud.config("new", instances=2),
                RetainAllVariantProperties=True,
                ExcludeRetainedVariantProperties=[{"VariantPropertyType": each} for each in excluded],
            )
            assert _sizes(cloud.settled(name)) == size
        cloud.sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=cloud.config("last", instances=2)
        )
        assert _sizes(cloud.settled(name)) == (1.0, 2)
    with pytest.raises(ClientError, match='Variant "Other" does not exist'):
        cloud.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name,
            DesiredWeightsAndCapacities=[{"VariantName": "Other", "DesiredWeight": 1}],
        )
    with pytest.raises(ClientError, match="at least 1"):
        _resize(cloud, name, DesiredInstanceCount=0)


def test_new_weights_move_the_traffic_of_two_variants(cloud: Cloud) -> None:
    config, name = cloud.name("config"), cloud.name("endpoint")
    variants = [
        cloud.variant("a", VariantName="A"),
        cloud.variant("b", VariantName="B", InitialVariantWeight=0),
    ]
    cloud.sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=variants)
    cloud.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    cloud.settled(name)
    assert {cloud.invoke(name)["model"] for _ in range(10)} == {"a"}
    cloud.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[
            {"VariantName": "A", "DesiredWeight": 0},
            {"VariantName": "B", "DesiredWeight": 1},
        ],
    )
    cloud.settled(name)
    assert {cloud.invoke(name)["model"] for _ in range(10)} == {"b"}


def _serverless(cloud: Cloud, *, model: str | None = None, **members: Any) -> str:
    name = cloud.name("config")
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": model or cloud.model("good"),
        "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 2},
    }
    cloud.sagemaker.create_endpoint_config(
        **{"EndpointConfigName": name, "ProductionVariants": [variant], **members}
    )
    return name


def test_a_serverless_endpoint_serves_and_moves_all_at_once(cloud: Cloud) -> None:
    name = cloud.name("endpoint")
    cloud.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=_serverless(cloud))
    variant = cloud.settled(name)["ProductionVariants"][0]
    assert variant["CurrentServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 2}
    assert "CurrentInstanceCount" not in variant
    assert cloud.invoke(name)["model"] == "good"
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=_serverless(cloud))
    assert cloud.settled(name)["EndpointStatus"] == "InService"
    with pytest.raises(ClientError, match="cannot be set for serverless variant"):
        _resize(cloud, name, DesiredInstanceCount=2)


def test_what_serverless_endpoints_do_not_have_is_refused(cloud: Cloud) -> None:
    capture = {
        "InitialSamplingPercentage": 10,
        "DestinationS3Uri": "s3://shop-bucket/captured",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    with pytest.raises(ClientError, match="DataCaptureConfig is not supported for serverless"):
        _serverless(cloud, DataCaptureConfig=capture)
    known = cloud.sagemaker.describe_model(ModelName=cloud.model("good"))
    name = cloud.name("model")
    cloud.sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=known["ExecutionRoleArn"],
        PrimaryContainer=known["PrimaryContainer"],
        VpcConfig={"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
    )
    with pytest.raises(ClientError, match="Models with VpcConfig are not supported for serverless"):
        _serverless(cloud, model=name)


def test_autoscaling_of_an_endpoint_is_registered_with_moto(cloud: Cloud) -> None:
    name = cloud.endpoint("good")
    scaling = cloud.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=4)
    scaling.put_scaling_policy(
        **target,
        PolicyName="requests",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 6000,
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
            },
        },
    )

    def targets() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = scaling.describe_scalable_targets(
            ServiceNamespace="sagemaker", ResourceIds=[target["ResourceId"]]
        )["ScalableTargets"]
        return found

    assert [(each["MinCapacity"], each["MaxCapacity"]) for each in targets()] == [(1, 4)]
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert "requests" in [policy["PolicyName"] for policy in policies]
    scaling.delete_scaling_policy(**target, PolicyName="requests")
    scaling.deregister_scalable_target(**target)
    assert targets() == []

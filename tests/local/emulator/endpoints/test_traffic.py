"""How updates move traffic: the plan of a request, and what the emulator does by it."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.local.emulator.endpoints.traffic import Plan, plan_of
from include.local.emulator.resources.models import EndpointConfig
from include.local.emulator.serving.fleets import Fleet, Traffic
from include.local.emulator.wire.errors import AwsError
from tests.local.cloud import Cloud, Shop, alive, eventually


def _config(name: str = "new", *, instances: int = 10, variant: str = "AllTraffic") -> EndpointConfig:
    size = {"InitialInstanceCount": instances, "InstanceType": "ml.m5.large"}
    if instances == 0:
        size = {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 1}}
    return EndpointConfig(name, "us-east-1", {"ProductionVariants": [{"VariantName": variant} | size]})


def _shift(
    kind: str, wait: int = 0, *, percent: int | None = None, count: int | None = None, **policy: Any
) -> dict[str, Any]:
    routing: dict[str, Any] = {"Type": kind, "WaitIntervalInSeconds": wait}
    member = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(kind)
    if percent is not None:
        routing[str(member)] = {"Type": "CAPACITY_PERCENT", "Value": percent}
    if count is not None:
        routing[str(member)] = {"Type": "INSTANCE_COUNT", "Value": count}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing} | policy}


@pytest.mark.parametrize(
    ("deployment", "shares"),
    [
        (None, (1.0,)),
        (_shift("ALL_AT_ONCE"), (1.0,)),
        (_shift("CANARY", percent=5), (0.05, 1.0)),
        (_shift("CANARY", percent=50), (0.5, 1.0)),
        (_shift("CANARY", count=3), (0.3, 1.0)),
        (_shift("LINEAR", percent=50), (0.5, 1.0)),
        (_shift("LINEAR", percent=30), (0.3, 0.6, 0.9, 1.0)),
        (_shift("LINEAR", count=1), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
    ],
)
def test_the_steps_of_an_update(deployment: dict[str, Any] | None, shares: tuple[float, ...]) -> None:
    assert plan_of(deployment, _config("old"), _config()).shares == shares


def test_waits_limit_and_alarms_are_those_of_the_request() -> None:
    request = _shift(
        "CANARY", 300, percent=10, TerminationWaitInSeconds=60, MaximumExecutionTimeoutInSeconds=700
    )
    request["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": "a"}, {"AlarmName": "b"}]}
    assert plan_of(request, _config("old"), _config()) == Plan((0.1, 1.0), 300, 60, 700, ("a", "b"))


@pytest.mark.parametrize(
    ("deployment", "new", "said"),
    [
        (_shift("CANARY", percent=51), _config(), "CanarySize must be less than or equal to 50%"),
        (_shift("CANARY", count=6), _config(), "CanarySize must be less than or equal to 50%"),
        (_shift("CANARY"), _config(), "CanarySize is required"),
        (_shift("LINEAR", percent=9), _config(), "LinearStepSize must be 10-50%"),
        (_shift("LINEAR", percent=60), _config(), "LinearStepSize must be less than or equal to 50%"),
        (_shift("LINEAR", count=1), _config(instances=11), "LinearStepSize must be 10-50%"),
        (_shift("LINEAR"), _config(), "LinearStepSize is required"),
        (_shift("CANARY", percent=10), _config(instances=1), "not supported for variants of one instance"),
        (_shift("LINEAR", percent=10), _config(instances=0), "not supported for serverless variants"),
        (_shift("ALL_AT_ONCE"), _config(variant="Other"), "the same variant names"),
        ({"RollingUpdatePolicy": {}}, _config(), "use a BlueGreenUpdatePolicy"),
        ({"AutoRollbackConfiguration": {"Alarms": [{}]}}, _config(), "AlarmName is required"),
        (
            _shift(
                "LINEAR",
                200,
                percent=30,
                TerminationWaitInSeconds=50,
                MaximumExecutionTimeoutInSeconds=650,
            ),
            _config(),
            r"must be larger than the total waiting time.*\(650\)",
        ),
        (
            {
                "BlueGreenUpdatePolicy": {
                    "TrafficRoutingConfiguration": {
                        "Type": "ALL_AT_ONCE",
                        "WaitIntervalInSeconds": 0,
                        "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
                    }
                }
            },
            _config(),
            "CanarySize cannot be specified with traffic routing type ALL_AT_ONCE",
        ),
    ],
)
def test_updates_that_aws_does_not_have_are_refused(
    deployment: dict[str, Any], new: EndpointConfig, said: str
) -> None:
    with pytest.raises(AwsError, match=said):
        plan_of(deployment, _config("old"), new)


def test_traffic_is_divided_by_the_step() -> None:
    blue, green = Fleet([]), Fleet([])
    traffic = Traffic(((blue, 0.7), (green, 0.3)))
    chosen = [traffic.choose() for _ in range(2000)]
    assert 450 < chosen.count(green) < 750  # 600, and seven standard deviations about it
    assert traffic.turn(((blue, 0.0), (green, 1.0))) == ((blue, 0.7), (green, 0.3))
    assert {traffic.choose() for _ in range(50)} == {green}


def _update(cloud: Cloud, name: str, config: str, deployment: dict[str, Any]) -> None:
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config, DeploymentConfig=deployment)


def test_a_canary_gets_its_share_then_everything_and_no_request_fails(cloud: Cloud) -> None:
    name, config = cloud.endpoint("blue", instances=2), cloud.config("green", instances=2)
    old = cloud.invoke(name)["pids"]
    deployment = _shift("CANARY", 1, percent=30, TerminationWaitInSeconds=1)
    with Shop(cloud, name, clients=3) as shop:
        _update(cloud, name, config, deployment)
        told = cloud.sagemaker.describe_endpoint(EndpointName=name)
        assert told["EndpointStatus"] == "Updating"
        assert told["EndpointConfigName"] != config
        pending = told["PendingDeploymentSummary"]
        assert pending["EndpointConfigName"] == config
        variant = pending["ProductionVariants"][0]
        assert (variant["VariantStatus"][0]["Status"], variant["CurrentInstanceCount"]) == ("Creating", 0)
        assert variant["DesiredInstanceCount"] == 2

        def step(percent: int) -> bool:
            told = cloud.sagemaker.describe_endpoint(EndpointName=name)
            status = told["PendingDeploymentSummary"]["ProductionVariants"][0]["VariantStatus"][0]
            return bool(status["Status"] == "Baking" and status["StatusMessage"].startswith(f"{percent}%"))

        eventually(lambda: step(30))
        eventually(lambda: {"blue", "green"} <= set(shop.said))
        eventually(lambda: step(100))
        start = len(shop.said) + 3  # what was on its way
        eventually(lambda: len(shop.said) > start + 20)
        assert set(shop.said[start:]) == {"green"}
        assert all(map(alive, old))  # until the bake is over
        told = cloud.settled(name)
        assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", config)
        assert told["LastDeploymentConfig"] == deployment
        eventually(lambda: not any(map(alive, old)))


def test_linear_steps_and_a_retained_deployment_config(cloud: Cloud) -> None:
    name, config = cloud.endpoint("blue", instances=2), cloud.config("green", instances=2)
    shares: list[str] = []

    def done() -> bool:
        told = cloud.sagemaker.describe_endpoint(EndpointName=name)
        if "PendingDeploymentSummary" in told:
            status = told["PendingDeploymentSummary"]["ProductionVariants"][0]["VariantStatus"][0]
            if status["StatusMessage"] not in shares:
                shares.append(status["StatusMessage"])
        return bool(told["EndpointStatus"] == "InService")

    with Shop(cloud, name, clients=1):
        _update(cloud, name, config, _shift("LINEAR", 1, percent=50, TerminationWaitInSeconds=1))
        eventually(done)
        assert [share.split("%")[0] for share in shares] == ["0", "50", "100"]
        shares.clear()
        with pytest.raises(ClientError, match="DeploymentConfig cannot be specified"):
            cloud.sagemaker.update_endpoint(
                EndpointName=name,
                EndpointConfigName=config,
                RetainDeploymentConfig=True,
                DeploymentConfig=_shift("ALL_AT_ONCE"),
            )
        again = cloud.config("again", instances=2)
        cloud.sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=again, RetainDeploymentConfig=True
        )
        eventually(done)
        assert [share.split("%")[0] for share in shares] == ["0", "50", "100"]


def test_a_refused_update_changes_nothing(cloud: Cloud) -> None:
    name, config = cloud.endpoint("blue"), cloud.config("green")
    with pytest.raises(ClientError, match="variants of one instance"):
        _update(cloud, name, config, _shift("CANARY", percent=10))
    told = cloud.sagemaker.describe_endpoint(EndpointName=name)
    assert told["EndpointStatus"] == "InService"
    assert "LastDeploymentConfig" not in told

"""Alarms: how they are evaluated, and that one which goes off rolls an update back."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.local.emulator.endpoints.alarms import evaluate
from include.local.emulator.serving.metrics import Sample
from tests.local.cloud import Cloud, Shop, alive, eventually

NOW = 1_000_000.0


def _alarm(**changes: Any) -> dict[str, Any]:
    return {
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocation5XXErrors",
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "StateValue": "OK",
    } | changes


def _samples(*periods: str) -> list[Sample]:
    """Requests by period, the newest last: `0` a good answer, `X` an error, `-` nothing."""
    return [
        Sample(NOW - 60 * back - 1, 500 if letter == "X" else 200, 1000.0 * (number + 1), 10.0)
        for back, letters in enumerate(reversed(periods))
        for number, letter in enumerate(letters)
        if letter != "-"
    ]


# The rows are those of CloudWatch's manual, "How alarm state is evaluated when data is missing".
@pytest.mark.parametrize(
    ("data", "needed", "missing", "ignore", "breaching", "not_breaching"),
    [
        ("0XX", 3, "OK", "OK", "OK", "OK"),
        ("XXX", 3, "ALARM", "ALARM", "ALARM", "ALARM"),
        ("--0", 3, "OK", "OK", "OK", "OK"),
        ("---", 3, "INSUFFICIENT_DATA", "told", "ALARM", "OK"),
        ("--X", 3, "ALARM", "told", "ALARM", "OK"),
        ("X0X", 2, "ALARM", "ALARM", "ALARM", "ALARM"),
        ("0X-", 2, "OK", "OK", "ALARM", "OK"),
        ("--0", 2, "OK", "OK", "ALARM", "OK"),
        ("-X-", 2, "ALARM", "told", "ALARM", "OK"),
    ],
)
def test_missing_data(
    data: str, needed: int, missing: str, ignore: str, breaching: str, not_breaching: str
) -> None:
    wanted = {"missing": missing, "ignore": ignore, "breaching": breaching, "notBreaching": not_breaching}
    found = {}
    for treat in wanted:
        alarm = _alarm(
            EvaluationPeriods=3, DatapointsToAlarm=needed, TreatMissingData=treat, StateValue="told"
        )
        found[treat] = evaluate(alarm, _samples(*data), NOW)
    assert found == wanted


@pytest.mark.parametrize(
    ("changes", "trips"),
    [
        ({"Threshold": 2.0}, True),
        ({"Threshold": 3.0}, False),
        ({"Threshold": 2.0, "ComparisonOperator": "GreaterThanThreshold"}, False),
        ({"Statistic": "Average", "Threshold": 0.5}, True),
        ({"Statistic": "Average", "Threshold": 0.51}, False),
        ({"Statistic": "SampleCount", "Threshold": 4.0}, True),
        ({"Statistic": "Minimum", "Threshold": 1.0}, False),
        ({"Statistic": "Maximum", "Threshold": 1.0}, True),
        ({"MetricName": "Invocations", "Threshold": 5.0, "ComparisonOperator": "LessThanThreshold"}, True),
        ({"MetricName": "InvocationModelErrors", "Threshold": 2.0}, True),
        ({"MetricName": "Invocation4XXErrors", "Threshold": 1.0}, False),
        ({"MetricName": "ModelLatency", "Statistic": "Maximum", "Threshold": 4000.0}, True),
        ({"MetricName": "ModelLatency", "ExtendedStatistic": "p50", "Threshold": 2500.0}, True),
        ({"MetricName": "ModelLatency", "ExtendedStatistic": "p50", "Threshold": 2501.0}, False),
        ({"MetricName": "ModelLatency", "ExtendedStatistic": "p100", "Threshold": 4000.0}, True),
        ({"MetricName": "ModelLatency", "ExtendedStatistic": "p99.9", "Threshold": 3990.0}, True),
        ({"MetricName": "OverheadLatency", "Statistic": "Sum", "Threshold": 40.0}, True),
    ],
)
def test_statistics_and_comparisons(changes: dict[str, Any], trips: bool) -> None:
    assert evaluate(_alarm(**changes), _samples("0X0X"), NOW) == ("ALARM" if trips else "OK")


@pytest.mark.parametrize(
    "changes",
    [
        {"Namespace": "shop"},
        {"MetricName": "CPUUtilization"},
        {"ComparisonOperator": "GreaterThanUpperThreshold"},
        {"ExtendedStatistic": "tm99"},
        {"Metrics": [], "MetricName": None},
    ],
)
def test_what_cannot_be_evaluated_keeps_its_state(changes: dict[str, Any]) -> None:
    assert evaluate(_alarm(**changes), _samples("XXXX"), NOW) is None


def _make_alarm(cloud: Cloud, endpoint: str, **changes: Any) -> str:
    name = cloud.name("alarm")
    dimensions = {"EndpointName": endpoint, "VariantName": "AllTraffic"} | changes.pop("dimensions", {})
    cloud.client("cloudwatch").put_metric_alarm(
        **{
            "AlarmName": name,
            "Namespace": "AWS/SageMaker",
            "MetricName": "Invocation5XXErrors",
            "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
            "Statistic": "Sum",
            "Period": 60,
            "EvaluationPeriods": 1,
            "Threshold": 3.0,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "notBreaching",
            **changes,
        }
    )
    return name


def _update(cloud: Cloud, endpoint: str, config: str, *alarms: str, wait: int = 20) -> None:
    cloud.sagemaker.update_endpoint(
        EndpointName=endpoint,
        EndpointConfigName=config,
        DeploymentConfig={
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "CANARY",
                    "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50},
                    "WaitIntervalInSeconds": wait,
                }
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]},
        },
    )


def _state(cloud: Cloud, alarm: str) -> str:
    told = cloud.client("cloudwatch").describe_alarms(AlarmNames=[alarm])
    return str(told["MetricAlarms"][0]["StateValue"])


def test_a_model_that_fails_trips_its_alarm_and_is_rolled_back(cloud: Cloud) -> None:
    name = cloud.endpoint("good", instances=2)
    before = cloud.sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    alarm, quiet = _make_alarm(cloud, name), _make_alarm(cloud, name, MetricName="Invocation4XXErrors")
    with Shop(cloud, name, tolerant=True) as shop:
        _update(cloud, name, cloud.config("status 500", instances=2), quiet, alarm)
        told = cloud.settled(name)
    assert told["EndpointStatus"] == "InService"
    assert told["EndpointConfigName"] == before
    assert alarm in told["FailureReason"]
    assert quiet not in told["FailureReason"]
    assert "PendingDeploymentSummary" not in told
    assert all("status 500" in fault for fault in shop.faults)  # the canary's, and nobody else's
    assert _state(cloud, alarm) == "ALARM"
    # What it has seen is over: a good model is not rolled back for it.
    with Shop(cloud, name):
        _update(cloud, name, cloud.config("better", instances=2), alarm, wait=1)
        told = cloud.settled(name)
    assert "FailureReason" not in told
    assert cloud.invoke(name)["model"] == "better"
    assert _state(cloud, alarm) == "OK"


def test_an_alarm_ends_once_what_it_saw_is_over(cloud: Cloud) -> None:
    name = cloud.endpoint("good", instances=2)
    alarm = _make_alarm(cloud, name, Period=1)
    with Shop(cloud, name, tolerant=True):
        _update(cloud, name, cloud.config("status 500", instances=2), alarm)
        assert alarm in cloud.settled(name)["FailureReason"]
    eventually(lambda: _state(cloud, alarm) == "OK")


def test_an_alarm_set_by_hand_rolls_back_without_a_failed_request(cloud: Cloud) -> None:
    name = cloud.endpoint("good", instances=2)
    alarm = _make_alarm(cloud, name)
    pids: list[int] = []
    with Shop(cloud, name) as shop:
        _update(cloud, name, cloud.config("next", instances=2), alarm)
        eventually(lambda: "next" in shop.said)
        while not pids:
            answer = cloud.invoke(name)
            pids = answer["pids"] if answer["model"] == "next" else []
        cloud.client("cloudwatch").set_alarm_state(
            AlarmName=alarm, StateValue="ALARM", StateReason="a person says so"
        )
        told = cloud.settled(name)
        assert not any(map(alive, pids))
        assert alarm in told["FailureReason"]
        start = len(shop.said)
        eventually(lambda: len(shop.said) > start + 10)
        assert set(shop.said[start:]) == {"good"}
    with Shop(cloud, name):  # and so does the next, until a person says otherwise
        _update(cloud, name, cloud.config("next", instances=2), alarm)
        assert alarm in cloud.settled(name)["FailureReason"]


def test_an_alarm_on_one_config_sees_its_fleet_alone(cloud: Cloud) -> None:
    name = cloud.endpoint("good", instances=2)
    config = cloud.config("next", instances=2)
    other = _make_alarm(
        cloud, name, MetricName="Invocations", dimensions={"EndpointConfigName": "other"}, Threshold=1.0
    )
    with Shop(cloud, name):
        _update(cloud, name, config, other, wait=1)
        assert "FailureReason" not in cloud.settled(name)
    config = cloud.config("last", instances=2)
    own = _make_alarm(
        cloud, name, MetricName="Invocations", dimensions={"EndpointConfigName": config}, Threshold=1.0
    )
    with Shop(cloud, name):
        _update(cloud, name, config, own)
        assert own in cloud.settled(name)["FailureReason"]


def test_an_alarm_that_does_not_exist_is_refused(cloud: Cloud) -> None:
    name = cloud.endpoint("good", instances=2)
    with pytest.raises(ClientError, match="ValidationException.*do not exist.*none-1, none-2"):
        _update(cloud, name, cloud.config("next", instances=2), "none-2", "none-1", _make_alarm(cloud, name))
    assert cloud.sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"


def test_requests_are_counted_in_cloudwatch(cloud: Cloud) -> None:
    name = cloud.endpoint("good")
    start = datetime.now(UTC) - timedelta(minutes=2)
    began = time.monotonic()
    for _ in range(3):
        cloud.invoke(name, "sleep 0.05")
    for status in (400, 500):
        with pytest.raises(ClientError):
            cloud.invoke(name, f"status {status}")
    slowest = (time.monotonic() - began) * 1e6

    def told(metric: str) -> dict[str, Any]:
        dimensions = {"EndpointName": name, "VariantName": "AllTraffic"}
        points = cloud.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=metric,
            Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
            StartTime=start,
            EndTime=start + timedelta(minutes=10),
            Period=3600,
            Statistics=["Sum", "Maximum", "SampleCount"],
        )["Datapoints"]
        return points[0] if points else {"SampleCount": 0}

    eventually(lambda: told("Invocations")["SampleCount"] == 5, 5)
    assert told("Invocations")["Sum"] == 5
    assert told("Invocation4XXErrors")["Sum"] == 1
    assert told("Invocation5XXErrors")["Sum"] == 1
    assert told("InvocationModelErrors")["Sum"] == 2
    assert 50_000 < told("ModelLatency")["Maximum"] < slowest
    assert 0 < told("OverheadLatency")["Maximum"] < slowest

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.validate import ParamValidator
from moto import mock_aws

from include.contracts import ShadowVariant, TrainedModel
from include.sagemaker.endpoint import endpoint_config_request
from include.sagemaker.recency import recency_in, recency_of
from include.sagemaker.shadow import (
    SHADOW,
    judge,
    measure,
    shadow_config_request,
    shadow_of,
    why_not,
)
from include.settings import Settings

SETTINGS = Settings(_env_file=None, endpoint_instance_count=2)  # type: ignore[call-arg]
SHAPES = botocore.session.get_session().get_service_model("sagemaker")


def trained(job: str, data_until: str) -> TrainedModel:
    return TrainedModel(
        job_name=job,
        job_arn="arn",
        snapshot_id=f"snap-of-{job}",
        model_uri="s3://b/m.tar.gz",
        evaluation_uri="s3://b/o.tar.gz",
        billable_seconds=1,
        data_until=data_until,
        trained_at="2026-11-01T00:00:00+00:00",
    )


LIVE = endpoint_config_request(trained("old", "2026-01-01"), "pms-live", SETTINGS)


def request(live: dict[str, Any] = LIVE, model: str = "pms-new", **settings: Any) -> dict[str, Any]:
    chosen = SETTINGS.model_copy(update=settings)
    return shadow_config_request(live, LIVE["Tags"], trained("new", "2026-02-01"), model, chosen)


def test_customers_are_served_as_before_and_all_they_ask_is_copied() -> None:
    wanted = request()
    assert (
        not ParamValidator()
        .validate(wanted, SHAPES.operation_model("CreateEndpointConfig").input_shape)
        .has_errors()
    )
    assert wanted["ProductionVariants"] == LIVE["ProductionVariants"]
    [shadow] = wanted["ShadowProductionVariants"]
    assert (shadow["VariantName"], shadow["ModelName"]) == (SHADOW, "pms-new")
    assert shadow["InitialVariantWeight"] == LIVE["ProductionVariants"][0]["InitialVariantWeight"]
    capture = wanted["DataCaptureConfig"]
    assert capture["InitialSamplingPercentage"] == 100
    # Where the execution role may write, and apart from what is captured day by day.
    assert capture["DestinationS3Uri"] == f"{SETTINGS.home}/captured/shadow"


def test_name_is_a_function_of_both_models() -> None:
    other = {**LIVE, "ProductionVariants": [{**LIVE["ProductionVariants"][0], "ModelName": "pms-other"}]}
    found = [request(), request(), request(model="pms-newer"), request(other)]
    names = [one["EndpointConfigName"] for one in found]
    assert names[0] == names[1]
    assert len({*names, LIVE["EndpointConfigName"]}) == 4


def test_tests_that_lead_back_to_different_configurations_are_different() -> None:
    # The live capture is no part of a test's content.
    captures = endpoint_config_request(
        trained("old", "2026-01-01"), "pms-live", SETTINGS.model_copy(update={"capture_percent": 7})
    )
    assert captures["EndpointConfigName"] != LIVE["EndpointConfigName"]
    found = [request(), request(captures)]
    assert [shadow_of(one["Tags"]) for one in found] == [
        LIVE["EndpointConfigName"],
        captures["EndpointConfigName"],
    ]
    assert found[0]["EndpointConfigName"] != found[1]["EndpointConfigName"]


@pytest.mark.parametrize(
    ("live", "settings", "machines"),
    [
        (2, {}, 2),
        (5, {}, 5),  # brought there by hand
        (2, {"endpoint_max_instances": 4}, 4),  # autoscaling
        (1, {"endpoint_instance_count": 3}, 3),
    ],
)
def test_shadow_has_as_many_machines_as_may_answer_the_live_traffic(
    live: int, settings: dict[str, int], machines: int
) -> None:
    described = {
        **LIVE,
        "ProductionVariants": [{**LIVE["ProductionVariants"][0], "InitialInstanceCount": live}],
    }
    [shadow] = request(described, **settings)["ShadowProductionVariants"]
    assert shadow["InitialInstanceCount"] == machines


def test_test_is_as_new_as_the_live_model_and_names_the_way_back() -> None:
    tags = request()["Tags"]
    assert recency_in(tags) == recency_of(trained("old", "2026-01-01"))
    assert shadow_of(tags) == LIVE["EndpointConfigName"]
    assert shadow_of(LIVE["Tags"]) is None
    assert {"Key": "project", "Value": "post-modern-stack"} in tags


@pytest.mark.parametrize(
    ("variants", "reason"),
    [
        ([{"ModelName": "a"}], None),
        ([{"ModelName": "a"}, {"ModelName": "b"}], "one variant"),
        ([{"ModelName": "a", "ServerlessConfig": {"MemorySizeInMB": 1024}}], "serverless"),
        ([{}], "no model"),
    ],
)
def test_what_sagemaker_copies_nothing_of_is_known(variants: list[Any], reason: str | None) -> None:
    said = why_not({"ProductionVariants": variants}, SETTINGS)
    assert (said is None) if reason is None else (reason in str(said))


@pytest.mark.parametrize(
    ("more", "machine", "reason"),
    [
        ({"ShadowProductionVariants": [{"ModelName": "b"}]}, "ml.m5.large", "a shadow of its own"),
        ({"ExplainerConfig": {"ClarifyExplainerConfig": {}}}, "ml.m5.large", "explains"),
        ({"KmsKeyId": "key"}, "ml.g5.xlarge", "none for those of ml.g5.xlarge"),
        ({"KmsKeyId": "key"}, "ml.m5.large", None),
        ({}, "ml.g5.xlarge", None),
    ],
)
def test_what_sagemaker_would_refuse_is_not_asked_for(
    more: dict[str, Any], machine: str, reason: str | None
) -> None:
    chosen = SETTINGS.model_copy(update={"endpoint_instance_type": machine})
    said = why_not({"ProductionVariants": [{"ModelName": "a"}], **more}, chosen)
    assert (said is None) if reason is None else (reason in str(said))


@pytest.mark.parametrize(
    ("live", "challenger", "passed"),
    [
        ((1000, 0), (1000, 10), True),
        ((1000, 0), (1000, 11), False),
        ((1000, 200), (1000, 205), True),  # the customers' own mistakes
        ((1000, 0), (3, 1), True),  # a single bad moment
        ((30, 0), (30, 1), True),
        ((100, 2), (60, 2), True),
        ((1000, 0), (30, 5), False),
        ((1000, 0), (3, 3), False),  # it answers nothing
        ((3, 3), (3, 3), True),
        ((500, 0), (0, 0), True),
        ((1000, 0), (0, 0), True),
        ((0, 0), (0, 0), True),
    ],
)
def test_challenger_fails_for_what_the_live_model_can_answer(
    live: tuple[int, int], challenger: tuple[int, int], passed: bool
) -> None:
    variants = [ShadowVariant(requests=requests, errors=errors) for requests, errors in (live, challenger)]
    found, reason = judge(*variants)
    assert found is passed
    assert (f"{challenger[1]} of {challenger[0]:,}" in reason) is bool(challenger[0])


def test_copies_that_were_not_seen_are_not_told_as_no_traffic() -> None:
    _, reason = judge(ShadowVariant(requests=500, errors=0), ShadowVariant(requests=0, errors=0))
    assert "None of the live model's 500 requests" in reason and "nothing was compared" in reason


def test_each_variant_is_measured_for_itself_and_for_the_time_of_the_test() -> None:
    start = datetime(2026, 11, 30, 9, tzinfo=UTC)
    with mock_aws():
        cloudwatch = boto3.client("cloudwatch", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")

        def put(variant: str, minute: int, **values: float) -> None:
            names = [{"Name": "EndpointName", "Value": "e"}, {"Name": "VariantName", "Value": variant}]
            cloudwatch.put_metric_data(
                Namespace="AWS/SageMaker",
                MetricData=[
                    {
                        "MetricName": name,
                        "Dimensions": names,
                        "Timestamp": start + timedelta(minutes=minute),
                        "Value": value,
                    }
                    for name, value in values.items()
                ],
            )

        put("AllTraffic", 1, Invocations=1, ModelLatency=3000)
        for minute in (-5, 1, 2, 20):
            put(SHADOW, minute, Invocations=1, InvocationModelErrors=1, ModelLatency=1000 * (minute + 6))
        put(SHADOW, 2, Invocation5XXErrors=1)
        end = start + timedelta(minutes=10)
        live = measure(cloudwatch, "e", "AllTraffic", start, end)
        challenger = measure(cloudwatch, "e", SHADOW, start, end)
        nobody = measure(cloudwatch, "another", SHADOW, start, end)
    assert live == ShadowVariant(requests=1, errors=0, latency_ms=3.0, slowest_ms=3.0)
    assert challenger == ShadowVariant(requests=2, errors=2, latency_ms=7.5, slowest_ms=8.0)
    assert nobody == ShadowVariant(requests=0, errors=0)

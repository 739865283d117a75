from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from include.sagemaker.scaling import (
    find_target_request,
    policy_request,
    register_request,
    target,
    wants_scaling,
)
from include.settings import Settings

SETTINGS = Settings(endpoint_name="shop", endpoint_instance_count=2, endpoint_max_instances=6)


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("DescribeScalableTargets", find_target_request("shop")),
        ("RegisterScalableTarget", register_request(SETTINGS)),
        ("PutScalingPolicy", policy_request(SETTINGS)),
        ("DeregisterScalableTarget", target("shop")),
    ],
)
def test_requests_fit_the_service_model(operation: str, request_: dict[str, Any]) -> None:
    service = botocore.session.get_session().get_service_model("application-autoscaling")
    report = ParamValidator().validate(request_, service.operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()
    dimension = service.shape_for("ScalableDimension").metadata["enum"]
    assert request_["ScalableDimension"] in dimension


def test_bounds_are_those_of_the_settings() -> None:
    request = register_request(SETTINGS)
    assert (request["MinCapacity"], request["MaxCapacity"]) == (2, 6)
    assert request["ResourceId"] == "endpoint/shop/variant/AllTraffic"


def test_metric_is_one_that_autoscaling_knows() -> None:
    service = botocore.session.get_session().get_service_model("application-autoscaling")
    tracked = policy_request(SETTINGS)["TargetTrackingScalingPolicyConfiguration"]
    metric = tracked["PredefinedMetricSpecification"]["PredefinedMetricType"]
    assert metric in service.shape_for("MetricType").metadata["enum"]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, False),
        ({"endpoint_max_instances": 2}, True),
        ({"endpoint_instance_count": 2, "endpoint_max_instances": 2}, False),
        ({"endpoint_instance_count": 3, "endpoint_max_instances": 2}, False),
        ({"endpoint_max_instances": 2, "endpoint_serverless": True}, False),
    ],
    ids=str,
)
def test_autoscaling_is_wanted_where_there_is_room_above(values: dict[str, Any], wanted: bool) -> None:
    assert wants_scaling(Settings(**values)) is wanted

"""Requests that let Application Auto Scaling choose the number of machines behind an endpoint."""

from __future__ import annotations

from typing import Any

from include.sagemaker.endpoint import VARIANT
from include.settings import Settings

POLICY = "requests-per-instance"


def wants_scaling(settings: Settings) -> bool:
    """Tells whether the endpoint may have more machines than it begins with; a serverless one has none."""
    return (
        not settings.endpoint_serverless
        and settings.endpoint_max_instances > settings.endpoint_instance_count
    )


def target(endpoint: str) -> dict[str, Any]:
    """Returns what names the endpoint's variant in every request but the one that looks for it."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def find_target_request(endpoint: str) -> dict[str, Any]:
    """Returns the DescribeScalableTargets request."""
    named = target(endpoint)
    return {"ResourceIds": [named.pop("ResourceId")], **named}


def register_request(settings: Settings) -> dict[str, Any]:
    """Returns the RegisterScalableTarget request; a second one changes the bounds of the first."""
    return {
        **target(settings.endpoint_name),
        "MinCapacity": settings.endpoint_instance_count,
        "MaxCapacity": settings.endpoint_max_instances,
    }


def policy_request(settings: Settings) -> dict[str, Any]:
    """Returns the PutScalingPolicy request, which replaces a policy of its name."""
    return {
        **target(settings.endpoint_name),
        "PolicyName": POLICY,
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": float(settings.endpoint_invocations_per_instance),
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
            },
        },
    }

"""What DescribeEndpoint says of an endpoint."""

from __future__ import annotations

import contextlib
from typing import Any

from include.local.emulator.endpoints.state import Deployment, Endpoint
from include.local.emulator.resources.models import Models
from include.local.emulator.wire.errors import AwsError


def describe(endpoint: Endpoint, models: Models) -> dict[str, Any]:
    """Returns the answer of DescribeEndpoint. Hold the endpoint's lock.

    Args:
        endpoint: The endpoint.
        models: Models by name, for their images.
    """
    assert endpoint.config is not None
    answer: dict[str, Any] = {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointConfigName": endpoint.config.name,
        "EndpointStatus": endpoint.status,
        "CreationTime": endpoint.created,
        "LastModifiedTime": endpoint.modified,
    }
    if endpoint.status != "Failed":
        for member, variants in endpoint.config.variants_by_member.items():
            answer[member] = [_in_service(endpoint, variant, models) for variant in variants]
    if endpoint.failure_reason:
        answer["FailureReason"] = endpoint.failure_reason
    if endpoint.last_deployment:
        answer["LastDeploymentConfig"] = endpoint.last_deployment
    if endpoint.deployment is not None:
        answer["PendingDeploymentSummary"] = _pending(endpoint, endpoint.deployment, models)
    if capture := endpoint.config.request.get("DataCaptureConfig"):
        answer["DataCaptureConfig"] = {
            "EnableCapture": capture.get("EnableCapture", True),
            "CaptureStatus": "Started" if capture.get("EnableCapture", True) else "Stopped",
            "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
            "DestinationS3Uri": capture["DestinationS3Uri"],
            "KmsKeyId": capture.get("KmsKeyId", ""),
        }
    return answer


def _in_service(endpoint: Endpoint, variant: dict[str, Any], models: Models) -> dict[str, Any]:
    summary = _summary(endpoint, variant, models)
    if endpoint.status == "Creating":
        summary["VariantStatus"] = [{"Status": "Creating", "StartTime": endpoint.created}]
        if "CurrentInstanceCount" in summary:
            summary["CurrentInstanceCount"] = 0
    return summary


def _pending(endpoint: Endpoint, deployment: Deployment, models: Models) -> dict[str, Any]:
    status = {
        "Status": deployment.stage,
        "StatusMessage": f"{deployment.share * 100:g}% of the traffic is on the new fleet.",
        "StartTime": deployment.stage_since,
    }
    answer: dict[str, Any] = {"EndpointConfigName": deployment.config.name, "StartTime": deployment.since}
    for member, variants in deployment.config.variants_by_member.items():
        answer[member] = []
        for variant in variants:
            summary = _summary(endpoint, variant, models) | {"VariantStatus": [status]}
            if "InstanceType" in variant:
                summary["InstanceType"] = variant["InstanceType"]
                if deployment.stage == "Creating":
                    summary["CurrentInstanceCount"] = 0
            answer[member].append(summary)
    return answer


def _summary(endpoint: Endpoint, variant: dict[str, Any], models: Models) -> dict[str, Any]:
    set_since = endpoint.sizes.get(variant["VariantName"], {})
    weight = float(set_since.get("DesiredWeight", variant.get("InitialVariantWeight", 1.0)))
    summary: dict[str, Any] = {
        "VariantName": variant["VariantName"],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
    }
    if serverless := variant.get("ServerlessConfig"):
        summary |= {"CurrentServerlessConfig": serverless, "DesiredServerlessConfig": serverless}
    else:
        wanted = int(set_since.get("DesiredInstanceCount", variant.get("InitialInstanceCount", 1)))
        summary |= {"CurrentInstanceCount": wanted, "DesiredInstanceCount": wanted}
    with contextlib.suppress(AwsError):  # the model may be deleted while it serves
        image = models.models.get(endpoint.region, variant["ModelName"]).container.get("Image")
        if image:
            summary["DeployedImages"] = [{"SpecifiedImage": image, "ResolvedImage": image}]
    return summary

"""Requests for models, endpoint configurations and endpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from include.contracts import TrainedModel
from include.sagemaker.disks import has_own_disk
from include.sagemaker.naming import endpoint_config_name, model_name
from include.settings import Settings
from include.tags import tags

VARIANT = "AllTraffic"
# Downloading and loading the artefact; a vocabulary of 100,000 products loads in seconds.
STARTUP_SECONDS = 600
# Machines, download and start of a new fleet, besides the waits that alarms are given.
_FLEET_SECONDS = 600 + 2 * STARTUP_SECONDS
CAPTURED = "captured"


def model_request(
    trained: TrainedModel, settings: Settings, *, image: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the CreateModel request for a job's artefact.

    Args:
        trained: The artefact, used byte for byte.
        settings: Execution role, network and tags.
        image: Serving image.
        environment: Environment of the container.
    """
    container: dict[str, Any] = {"Image": image, "ModelDataUrl": trained.model_uri}
    if environment:
        container["Environment"] = dict(environment)
    # A serverless endpoint refuses a model that has a network.
    network = None if settings.endpoint_serverless else settings.network
    role = settings.sagemaker_role_arn
    return {
        "ModelName": model_name(trained.job_name, image, trained.model_uri, environment, role, network),
        "PrimaryContainer": container,
        "ExecutionRoleArn": role,
        **({"VpcConfig": network} if network else {}),
        "Tags": project_tags(settings, training_job=trained.job_name, snapshot_id=trained.snapshot_id),
    }


def production_variant(model: str, settings: Settings) -> dict[str, Any]:
    """Returns the variant that serves a model: on instances of a CPU or a GPU, or serverless."""
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": model, "InitialVariantWeight": 1.0}
    if settings.endpoint_serverless:
        return variant | {
            "ServerlessConfig": {
                "MemorySizeInMB": settings.serverless_memory_mb,
                "MaxConcurrency": settings.serverless_max_concurrency,
            }
        }
    return variant | {
        "InitialInstanceCount": settings.endpoint_instance_count,
        "InstanceType": settings.endpoint_instance_type,
        "ModelDataDownloadTimeoutInSeconds": STARTUP_SECONDS,
        "ContainerStartupHealthCheckTimeoutInSeconds": STARTUP_SECONDS,
    }


def endpoint_config(model: str, settings: Settings) -> dict[str, Any]:
    """Returns the content of the configuration that puts a model behind an endpoint, named after it.

    Args:
        model: Name of the SageMaker model.
        settings: Machines, captured share and key.
    """
    content: dict[str, Any] = {"ProductionVariants": [production_variant(model, settings)]}
    on_instances = not settings.endpoint_serverless
    if on_instances and settings.capture_percent:
        content["DataCaptureConfig"] = data_capture(settings, settings.capture_percent, CAPTURED)
    if on_instances and settings.kms_key_id and not has_own_disk(settings.endpoint_instance_type):
        content["KmsKeyId"] = settings.kms_key_id
    return {"EndpointConfigName": endpoint_config_name(content), **content}


def data_capture(settings: Settings, percent: int, folder: str) -> dict[str, Any]:
    """Returns the `DataCaptureConfig` that keeps a share of requests and answers.

    Args:
        settings: The project's place on S3, and the key.
        percent: The share.
        folder: Where in that place.
    """
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": percent,
        "DestinationS3Uri": f"{settings.home}/{folder}",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        **({"KmsKeyId": settings.kms_key_id} if settings.kms_key_id else {}),
    }


def endpoint_config_request(trained: TrainedModel, model: str, settings: Settings) -> dict[str, Any]:
    """Returns the CreateEndpointConfig request that puts a model behind an endpoint.

    Args:
        trained: Where the model is from, and how new it is; for the tags.
        model: Name of the SageMaker model.
        settings: Machines, captured share, key and tags.
    """
    return {
        **endpoint_config(model, settings),
        "Tags": project_tags(
            settings,
            training_job=trained.job_name,
            snapshot_id=trained.snapshot_id,
            data_until=trained.data_until,
            trained_at=trained.trained_at,
        ),
    }


def project_tags(settings: Settings, **values: str | None) -> list[dict[str, str]]:
    """Returns the tags of the project and of the settings, and those of the values that are known."""
    known = {name: value for name, value in values.items() if value}
    return tags(settings.resource_tags, **known)


def create_endpoint_request(endpoint: str, config: str, settings: Settings) -> dict[str, Any]:
    """Returns the CreateEndpoint request."""
    return {"EndpointName": endpoint, "EndpointConfigName": config, "Tags": project_tags(settings)}


def update_endpoint_request(
    endpoint: str,
    config: str,
    *,
    deployment: Mapping[str, Any] | None = None,
    keep_capacity: bool = False,
) -> dict[str, Any]:
    """Returns the UpdateEndpoint request; SageMaker updates blue/green.

    Args:
        endpoint: Name of the endpoint.
        config: Configuration to move to.
        deployment: Its `DeploymentConfig`; all traffic at once and unwatched without one.
        keep_capacity: Whether the new machines are as many as autoscaling has made of the old ones.
    """
    request: dict[str, Any] = {"EndpointName": endpoint, "EndpointConfigName": config}
    if deployment is not None:
        request["DeploymentConfig"] = dict(deployment)
    if keep_capacity:
        request["RetainAllVariantProperties"] = True
    return request


def deployment_config(
    settings: Settings, alarms: Sequence[str], instances: int | None = None
) -> dict[str, Any] | None:
    """Returns how an update moves traffic, and what takes it back; None where SageMaker has no choice.

    All at once, what alarms may watch is the wait before the old machines go.

    Args:
        settings: Way, steps and waits of the shift.
        alarms: CloudWatch alarms; one that goes off takes the update back.
        instances: As many machines as the endpoint keeps, where not as many as the settings say.
    """
    if settings.endpoint_serverless:
        return None
    policy = {
        "TrafficRoutingConfiguration": _routing(settings, instances or settings.endpoint_instance_count),
        "TerminationWaitInSeconds": settings.bake_seconds,
        "MaximumExecutionTimeoutInSeconds": deployment_seconds(settings, instances),
    }
    watched = [{"AlarmName": name} for name in alarms]
    return {
        "BlueGreenUpdatePolicy": policy,
        **({"AutoRollbackConfiguration": {"Alarms": watched}} if watched else {}),
    }


def _routing(settings: Settings, instances: int) -> dict[str, Any]:
    # Of one machine, to which somebody may have brought it by hand, there is no share.
    if settings.traffic_shift == "all_at_once" or instances < 2:
        return {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
    step = {"Type": "CAPACITY_PERCENT", "Value": _step_percent(settings, instances)}
    size = "CanarySize" if settings.traffic_shift == "canary" else "LinearStepSize"
    return {
        "Type": settings.traffic_shift.upper(),
        "WaitIntervalInSeconds": settings.bake_seconds,
        size: step,
    }


def _step_percent(settings: Settings, instances: int) -> int:
    # Of three instances half is one and a half, and SageMaker takes no more than half of them.
    return min(settings.traffic_step_percent, 100 * (instances // 2) // instances)


def deployment_seconds(settings: Settings, instances: int | None = None) -> int:
    """Returns how long an update may take, with all its waits, before SageMaker gives it up.

    Args:
        settings: Way, steps and waits of the shift.
        instances: As many machines as the endpoint keeps, where not as many as the settings say.
    """
    instances = instances or settings.endpoint_instance_count
    steps = 1
    if settings.traffic_shift == "canary":
        steps = 2
    elif settings.traffic_shift == "linear" and instances > 1:
        steps = math.ceil(100 / _step_percent(settings, instances))
    return _FLEET_SECONDS + steps * settings.bake_seconds


def ephemeral_settings(settings: Settings, endpoint: str) -> Settings:
    """Returns the settings of an endpoint that is tested and deleted: one machine, unwatched, uncaptured.

    Args:
        settings: Those of the lasting endpoint.
        endpoint: Name of the other one.
    """
    return settings.model_copy(
        update={
            "endpoint_name": endpoint,
            "endpoint_instance_count": 1,
            "endpoint_max_instances": 1,
            "traffic_shift": "all_at_once",
            "rollback_on_alarms": False,
            "capture_percent": 0,
        }
    )


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Compares a create request with the description of what has its name.

    Args:
        wanted: CreateModel or CreateEndpointConfig request.
        found: Answer of the matching Describe call; what it has besides does not matter.

    Returns:
        A line for each thing that is different; none where the request would change nothing.
    """
    lines: list[str] = []
    for name, value in wanted.items():
        if name != "Tags":
            _compare(name, value, found.get(name), lines)
    return lines


def _compare(path: str, wanted: Any, found: Any, lines: list[str]) -> None:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for name, value in wanted.items():
            _compare(f"{path}.{name}", value, found.get(name), lines)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, value in enumerate(wanted):
            _compare(f"{path}[{index}]", value, found[index], lines)
    elif wanted != found:
        lines.append(f"{path}: wanted {wanted!r}, found {found!r}")

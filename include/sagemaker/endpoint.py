"""Requests for models, endpoint configurations and endpoints, and what an endpoint's state means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from include.contracts import TrainedModel
from include.sagemaker.naming import endpoint_config_name, model_name
from include.sagemaker.training import tags

VARIANT = "AllTraffic"
# Downloading and loading the artefact; a vocabulary of 100,000 products loads in seconds.
STARTUP_SECONDS = 600

_MOVING = {
    "Creating": "is being created",
    "Updating": "is being updated",
    "SystemUpdating": "is under SageMaker's own maintenance and cannot be changed until that ends",
    "RollingBack": "is rolling back to its previous configuration",
    "Deleting": "is being deleted",
}


def model_request(
    trained: TrainedModel, *, image: str, role_arn: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the CreateModel request for a job's artefact.

    Args:
        trained: The artefact, used byte for byte.
        image: Serving image.
        role_arn: Execution role of the model.
        environment: Environment of the container.
    """
    container: dict[str, Any] = {"Image": image, "ModelDataUrl": trained.model_uri}
    if environment:
        container["Environment"] = dict(environment)
    return {
        "ModelName": model_name(trained.job_name, image, trained.model_uri, environment, role_arn),
        "PrimaryContainer": container,
        "ExecutionRoleArn": role_arn,
        "Tags": tags(training_job=trained.job_name, snapshot_id=trained.snapshot_id),
    }


def endpoint_config_request(
    trained: TrainedModel, model: str, *, instance_type: str, instance_count: int = 1
) -> dict[str, Any]:
    """Returns the CreateEndpointConfig request that puts a model on instances.

    Args:
        trained: Where the model is from; for the tags.
        model: Name of the SageMaker model.
        instance_type: Instance behind the endpoint.
        instance_count: Number of instances.
    """
    return {
        "EndpointConfigName": endpoint_config_name(model, instance_type, instance_count),
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": model,
                "InitialInstanceCount": instance_count,
                "InstanceType": instance_type,
                "InitialVariantWeight": 1.0,
                "ModelDataDownloadTimeoutInSeconds": STARTUP_SECONDS,
                "ContainerStartupHealthCheckTimeoutInSeconds": STARTUP_SECONDS,
            }
        ],
        "Tags": tags(training_job=trained.job_name, snapshot_id=trained.snapshot_id),
    }


def create_endpoint_request(endpoint: str, config: str) -> dict[str, Any]:
    """Returns the CreateEndpoint request."""
    return {"EndpointName": endpoint, "EndpointConfigName": config, "Tags": tags()}


def update_endpoint_request(endpoint: str, config: str) -> dict[str, Any]:
    """Returns the UpdateEndpoint request; SageMaker updates blue/green."""
    return {"EndpointName": endpoint, "EndpointConfigName": config}


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


class EndpointState(NamedTuple):
    """What an endpoint's description means for the configuration that is wanted on it.

    Attributes:
        state: `absent`; `moving` (wait); `live` (InService on the wanted configuration); `elsewhere`
            (InService, but on another one); `failed` (needs a person).
        live_config: The configuration it is on; while moving, the one it comes from or None.
        moves_to: While moving, the configuration it goes to; None where SageMaker does not say.
        message: A sentence about it, with SageMaker's reason.
        reason: SageMaker's FailureReason, empty where it gave none.
    """

    state: Literal["absent", "moving", "live", "elsewhere", "failed"]
    message: str
    live_config: str | None = None
    moves_to: str | None = None
    reason: str = ""


def endpoint_state(description: Mapping[str, Any] | None, endpoint: str, wanted: str) -> EndpointState:
    """Reads a DescribeEndpoint answer.

    Args:
        description: The answer; None where there is no such endpoint.
        endpoint: Name of the endpoint.
        wanted: Name of the configuration it should be on.
    """
    if description is None:
        return EndpointState("absent", f"Endpoint {endpoint} does not exist.")
    status = str(description.get("EndpointStatus", ""))
    config = description.get("EndpointConfigName")
    reason = str(description.get("FailureReason") or "")
    if status in _MOVING:
        pending = description.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
        moves_to = _target(status, config, pending, wanted)
        return EndpointState("moving", f"Endpoint {endpoint} {_MOVING[status]}.", config, moves_to, reason)
    if status == "InService":
        if config == wanted:
            return EndpointState("live", f"Endpoint {endpoint} is live on {wanted}.", config)
        said = f" SageMaker says: {reason}" if reason else ""
        return EndpointState(
            "elsewhere",
            f"Endpoint {endpoint} is live on {config}, not on {wanted}.{said}",
            config,
            reason=reason,
        )
    return EndpointState("failed", _mend(endpoint, status, reason), config, reason=reason)


def _target(status: str, config: str | None, pending: str | None, wanted: str) -> str | None:
    if status == "Creating":
        return config
    if status != "Updating":
        return None
    # Some answers name the new configuration at once and have no summary of what is pending.
    return pending or (wanted if config == wanted else None)


def _mend(endpoint: str, status: str, reason: str) -> str:
    said = f" SageMaker says: {reason}" if reason else " SageMaker gave no reason."
    delete = f"delete it (aws sagemaker delete-endpoint --endpoint-name {endpoint})"
    if status == "Failed":
        return (
            f"Endpoint {endpoint} is Failed and answers nobody.{said} "
            f"A failed endpoint can only be deleted: {delete}, then clear this task to create it anew."
        )
    if status == "UpdateRollbackFailed":
        return (
            f"Endpoint {endpoint} is UpdateRollbackFailed: update and roll-back both failed, and it serves a "
            f"mixture of two configurations.{said} Update it by hand to a configuration that worked, "
            f"or {delete}, then clear this task."
        )
    if status == "OutOfService":
        return (
            f"Endpoint {endpoint} is OutOfService and takes no requests.{said} "
            f"Mend its capacity, or {delete}, then clear this task."
        )
    return f"Endpoint {endpoint} is in the unexpected state {status!r}.{said}"


def is_capacity_fault(reason: str) -> bool:
    """Tells whether an endpoint failed for want of machines, so that a later try may succeed."""
    text = reason.lower()
    return "capacity" in text or "internal server" in text or "internalservererror" in text

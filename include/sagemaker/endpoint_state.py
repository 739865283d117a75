"""What an endpoint's description means for the configuration that is wanted on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

_MOVING = {
    "Creating": "is being created",
    "Updating": "is being updated",
    "SystemUpdating": "is under SageMaker's own maintenance and cannot be changed until that ends",
    "RollingBack": "is rolling back to its previous configuration",
    "Deleting": "is being deleted",
}


class EndpointState(NamedTuple):
    """What an endpoint's description means for the configuration that is wanted on it.

    Attributes:
        state: `absent`; `moving` (wait); `live` (InService on the wanted configuration); `elsewhere`
            (InService, but on another one); `failed` (needs a person).
        live_config: The configuration it is on; while moving, the one it comes from or None.
        moves_to: While moving, the configuration it goes to; None where SageMaker does not say.
        message: A sentence about it, with SageMaker's reason.
        reason: SageMaker's FailureReason, empty where it gave none. It may be of an earlier change.
        modified: When the endpoint last changed, as text; empty where it is not told.
    """

    state: Literal["absent", "moving", "live", "elsewhere", "failed"]
    message: str
    live_config: str | None = None
    moves_to: str | None = None
    reason: str = ""
    modified: str = ""


def endpoint_state(description: Mapping[str, Any] | None, endpoint: str, wanted: str) -> EndpointState:
    """Reads a DescribeEndpoint answer.

    Args:
        description: The answer; None where there is no such endpoint.
        endpoint: Name of the endpoint.
        wanted: Name of the configuration it should be on; empty for none in particular.
    """
    if description is None:
        return EndpointState("absent", f"Endpoint {endpoint} does not exist.")
    modified = description.get("LastModifiedTime")
    state = _state(description, endpoint, wanted)
    return state._replace(modified=modified.isoformat() if modified else "")


def _state(description: Mapping[str, Any], endpoint: str, wanted: str) -> EndpointState:
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
            f"Endpoint {endpoint} is live on {config}{f', not on {wanted}' if wanted else ''}.{said}",
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

from __future__ import annotations

from typing import Any

import botocore.session
import pytest

from include.sagemaker.endpoint_state import endpoint_state, is_capacity_fault


@pytest.mark.parametrize(
    ("description", "state", "moves_to", "words"),
    [
        (None, "absent", None, "does not exist"),
        ({"EndpointStatus": "InService", "EndpointConfigName": "new"}, "live", None, "is live on new"),
        ({"EndpointStatus": "InService", "EndpointConfigName": "old"}, "elsewhere", None, "not on new"),
        (
            {"EndpointStatus": "InService", "EndpointConfigName": "old", "FailureReason": "no ping"},
            "elsewhere",
            None,
            "SageMaker says: no ping",
        ),
        ({"EndpointStatus": "Creating", "EndpointConfigName": "new"}, "moving", "new", "being created"),
        ({"EndpointStatus": "Creating", "EndpointConfigName": "old"}, "moving", "old", "being created"),
        ({"EndpointStatus": "Updating", "EndpointConfigName": "old"}, "moving", None, "being updated"),
        ({"EndpointStatus": "Updating", "EndpointConfigName": "new"}, "moving", "new", "being updated"),
        (
            {
                "EndpointStatus": "Updating",
                "EndpointConfigName": "old",
                "PendingDeploymentSummary": {"EndpointConfigName": "new"},
            },
            "moving",
            "new",
            "being updated",
        ),
        (
            {
                "EndpointStatus": "Updating",
                "EndpointConfigName": "new",
                "PendingDeploymentSummary": {"EndpointConfigName": "other"},
            },
            "moving",
            "other",
            "being updated",
        ),
        ({"EndpointStatus": "SystemUpdating", "EndpointConfigName": "new"}, "moving", None, "maintenance"),
        ({"EndpointStatus": "RollingBack", "EndpointConfigName": "old"}, "moving", None, "rolling back"),
        ({"EndpointStatus": "Deleting", "EndpointConfigName": "old"}, "moving", None, "being deleted"),
        ({"EndpointStatus": "Failed", "FailureReason": "no model"}, "failed", None, "can only be deleted"),
        ({"EndpointStatus": "UpdateRollbackFailed"}, "failed", None, "mixture of two"),
        ({"EndpointStatus": "OutOfService"}, "failed", None, "takes no requests"),
        ({"EndpointStatus": "Dreaming"}, "failed", None, "unexpected state 'Dreaming'"),
    ],
)
def test_every_state_of_an_endpoint_has_a_meaning(
    description: dict[str, Any] | None, state: str, moves_to: str | None, words: str
) -> None:
    seen = endpoint_state(description, "shop", "new")
    assert (seen.state, seen.moves_to) == (state, moves_to)
    assert words in seen.message


def test_no_state_of_the_service_model_is_unknown() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    for status in model.shape_for("EndpointStatus").metadata["enum"]:
        seen = endpoint_state({"EndpointStatus": status, "EndpointConfigName": "new"}, "shop", "new")
        assert "unexpected" not in seen.message, status


@pytest.mark.parametrize(
    ("reason", "capacity"),
    [
        ("Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity", True),
        ("Request to service failed with an internal server error", True),
        ("The primary container did not pass the ping health check", False),
        ("", False),
    ],
)
def test_want_of_machines_is_told_from_a_bad_model(reason: str, capacity: bool) -> None:
    assert is_capacity_fault(reason) is capacity

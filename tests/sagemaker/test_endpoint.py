from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from include.contracts import TrainedModel
from include.sagemaker.endpoint import (
    create_endpoint_request,
    differences,
    endpoint_config_request,
    endpoint_state,
    is_capacity_fault,
    model_request,
    update_endpoint_request,
)

TRAINED = TrainedModel(
    job_name="pms-0123456789ab",
    job_arn="arn:x",
    snapshot_id="snap-1",
    model_uri="s3://b/p/models/pms-0123456789ab/output/model.tar.gz",
    evaluation_uri="s3://b/p/models/pms-0123456789ab/output/output.tar.gz",
    billable_seconds=1,
)
MODEL = model_request(
    TRAINED, image="serving:2.20", role_arn="arn:aws:iam::123456789012:role/r", environment={}
)
CONFIG = endpoint_config_request(TRAINED, MODEL["ModelName"], instance_type="ml.m5.large")


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("CreateModel", MODEL),
        (
            "CreateModel",
            model_request(
                TRAINED, image="i", role_arn="arn:aws:iam::123456789012:role/r", environment={"A": "1"}
            ),
        ),
        ("CreateEndpointConfig", CONFIG),
        ("CreateEndpoint", create_endpoint_request("shop-recommender", "pms-1")),
        ("UpdateEndpoint", update_endpoint_request("shop-recommender", "pms-1")),
    ],
)
def test_requests_fit_the_service_model(operation: str, request_: dict[str, Any]) -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    report = ParamValidator().validate(request_, model.operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()


def test_config_serves_the_model_whole() -> None:
    [variant] = CONFIG["ProductionVariants"]
    assert variant["ModelName"] == MODEL["ModelName"]
    assert variant["InitialVariantWeight"] == 1.0
    assert MODEL["PrimaryContainer"]["ModelDataUrl"] == TRAINED.model_uri


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
    ("found", "lines"),
    [
        ({**CONFIG, "CreationTime": 1, "EndpointConfigArn": "arn"}, 0),
        ({**CONFIG, "ProductionVariants": [{**CONFIG["ProductionVariants"][0], "ModelName": "pms-2"}]}, 1),
        ({**CONFIG, "ProductionVariants": []}, 1),
        ({}, 2),
    ],
    ids=["the same and more", "another model", "no variant", "nothing"],
)
def test_differences_are_named(found: dict[str, Any], lines: int) -> None:
    assert len(differences(CONFIG, found)) == lines


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

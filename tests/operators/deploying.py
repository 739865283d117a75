"""What the tests of the deploy group share."""

from __future__ import annotations

from typing import Any

from include.contracts import Deployment
from include.operators.deploy_endpoint import DeployEndpointOperator
from tests.operators.fake_sagemaker import TaskStore

ENDPOINT = "shop-recommender"


def execute(kind: Any, claims: dict[str, Any], store: TaskStore | None = None, **extra: Any) -> Any:
    context: dict[str, Any] = {"run_id": "run"}
    if store is not None:
        context["task_state_store"] = store
    return kind(task_id="step", **claims, **extra).execute(context)


def deploy(claims: dict[str, Any], store: TaskStore | None = None) -> Deployment:
    return Deployment.model_validate(execute(DeployEndpointOperator, claims, store))


def in_service(config: str, **more: Any) -> dict[str, Any]:
    return {"EndpointName": ENDPOINT, "EndpointStatus": "InService", "EndpointConfigName": config, **more}


def updating(config: str, pending: str | None = None) -> dict[str, Any]:
    summary = {"PendingDeploymentSummary": {"EndpointConfigName": pending}} if pending else {}
    return in_service(config, EndpointStatus="Updating", **summary)

"""What the tests of the deploy group share."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from include.contracts import Deployment
from include.operators.deploy_endpoint import DeployEndpointOperator
from include.operators.register_model import RegisterModelOperator
from include.settings import get_settings
from tests.operators.fake_sagemaker import TaskStore

ENDPOINT = "shop-recommender"


def execute(kind: Any, claims: dict[str, Any], store: TaskStore | None = None, **extra: Any) -> Any:
    context: dict[str, Any] = {"run_id": "run"}
    if store is not None:
        context["task_state_store"] = store
    return kind(task_id="step", **claims, **extra).execute(context)


def register(claims: dict[str, Any]) -> dict[str, Any]:
    """Has the registry know the model, as the task before a deploy does."""
    return dict(RegisterModelOperator(task_id="register", **claims).execute({}))  # type: ignore[typeddict-item]


def deploy(claims: dict[str, Any], store: TaskStore | None = None, **extra: Any) -> Deployment:
    extra = {"registered": register(claims), **extra}
    return Deployment.model_validate(execute(DeployEndpointOperator, claims, store, **extra))


def choose(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """Has the process's settings be these."""
    for name, value in settings.items():
        monkeypatch.setenv(f"PMS_{name.upper()}", str(value))
    get_settings.cache_clear()


def in_service(config: str, **more: Any) -> dict[str, Any]:
    return {"EndpointName": ENDPOINT, "EndpointStatus": "InService", "EndpointConfigName": config, **more}


def updating(config: str, pending: str | None = None) -> dict[str, Any]:
    summary = {"PendingDeploymentSummary": {"EndpointConfigName": pending}} if pending else {}
    return in_service(config, EndpointStatus="Updating", **summary)


def scaled() -> list[tuple[int, int, float]]:
    """What autoscaling may do: lowest and highest number of machines, requests a minute of each."""
    scaling = boto3.client("application-autoscaling", aws_access_key_id="x", aws_secret_access_key="x")
    targets = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    # AWS drops the policies with their target, moto keeps them.
    return [
        (
            target["MinCapacity"],
            target["MaxCapacity"],
            policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"],
        )
        for target in targets
        for policy in policies
    ]

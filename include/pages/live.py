"""Which model the endpoint serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from include.sagemaker.errors import is_missing


@dataclass(frozen=True)
class Live:
    """What an endpoint serves.

    Attributes:
        status: SageMaker's own word, such as `InService`.
        model_name: SageMaker's model; None while it is unknown.
        model_uri: Its `model.tar.gz`.
        since: When the endpoint last changed.
    """

    status: str
    config: str
    model_name: str | None
    model_uri: str | None
    since: Any


def live_model(sagemaker: Any, endpoint: str) -> Live | None:
    """Follows an endpoint to its model's files.

    Args:
        sagemaker: boto3 SageMaker client.
        endpoint: Name of the endpoint.

    Returns:
        None where there is no such endpoint. A configuration or model that was deleted under the running
        endpoint leaves the fields behind it empty.

    Raises:
        ClientError: SageMaker refused.
    """
    described = _unless_missing(sagemaker.describe_endpoint, EndpointName=endpoint)
    if described is None:
        return None
    config = str(described["EndpointConfigName"])
    found = _unless_missing(sagemaker.describe_endpoint_config, EndpointConfigName=config) or {}
    variants = found.get("ProductionVariants") or [{}]
    name = variants[0].get("ModelName")
    model = (_unless_missing(sagemaker.describe_model, ModelName=name) if name else None) or {}
    container = model.get("PrimaryContainer") or (model.get("Containers") or [{}])[0]
    return Live(
        status=str(described["EndpointStatus"]),
        config=config,
        model_name=name,
        model_uri=container.get("ModelDataUrl"),
        since=described.get("LastModifiedTime"),
    )


def _unless_missing(describe: Any, **names: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = describe(**names)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return found

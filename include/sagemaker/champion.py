"""Finds the live model that a challenger is held against: endpoint, configuration, variant, model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from include.contracts import BadInputError, Champion
from include.gate.rival import NOTHING_LIVE, Rival
from include.sagemaker.errors import explain, is_missing, is_permanent

log = logging.getLogger(__name__)
# In these states an endpoint has no model that answers anybody.
_SERVES_NOBODY = {"Creating": "is being created", "Deleting": "is being deleted", "Failed": "has failed"}


def find_champion(sagemaker: Any, endpoint: str) -> Rival:
    """Returns the model behind the endpoint, or why there is none.

    What was deleted under a live endpoint is a fault and no first deploy: customers are served from it.

    Args:
        sagemaker: boto3 SageMaker client.
        endpoint: Name of the endpoint.

    Raises:
        ClientError: SageMaker refused to say.
    """
    described = _found(lambda: sagemaker.describe_endpoint(EndpointName=endpoint))
    if described is None:
        return NOTHING_LIVE
    status = str(described.get("EndpointStatus", ""))
    if status in _SERVES_NOBODY:
        return Rival(absent=f"Nothing is live: endpoint {endpoint} {_SERVES_NOBODY[status]}.")
    name = str(described.get("EndpointConfigName", ""))
    config = _found(lambda: sagemaker.describe_endpoint_config(EndpointConfigName=name))
    if config is None:
        return Rival(fault=f"The live model cannot be known: its configuration {name} was deleted.")
    model_name = _served_most(config)
    if not model_name:
        return Rival(fault=f"The live configuration {name} names no model.")
    model = _found(lambda: sagemaker.describe_model(ModelName=model_name))
    if model is None:
        return Rival(fault=f"The live model's artefact cannot be known: model {model_name} was deleted.")
    uri = _artefact(model)
    if not uri:
        return Rival(
            fault=f"The live model {model_name} has no model.tar.gz, so this project did not make it."
        )
    tags = _tags(sagemaker, str(model.get("ModelArn", "")))
    return Rival(
        champion=Champion(
            model_name=model_name,
            model_uri=uri,
            job_name=tags.get("training_job"),
            snapshot_id=tags.get("snapshot_id"),
        )
    )


def fetch_champion(rival: Rival, fetch: Callable[[str], object]) -> Rival:
    """Gets the live model's artefact.

    Args:
        rival: From `find_champion`.
        fetch: Downloads and unpacks the artefact at a URI.

    Returns:
        The rival, with the reason why it cannot be measured where it cannot. The endpoint serves it all the
        same, from its own copy: without its artefact nobody knows whether the challenger is worse, and that
        closes the gate.

    Raises:
        ClientError: A fault of the transport, which a retry may mend.
    """
    if rival.champion is None:
        return rival
    uri = rival.champion.model_uri
    try:
        fetch(uri)
    except BadInputError as error:
        return rival.model_copy(update={"fault": f"The live model cannot be measured: {uri}: {error}"})
    except ClientError as error:
        # S3 says no, and would again: what lies there may be sound.
        if not is_permanent(error):
            raise
        return rival.model_copy(update={"fault": f"The live model cannot be read: {uri}: {explain(error)}"})
    return rival


def _found(describe: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    try:
        return describe()
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def _served_most(config: Mapping[str, Any]) -> str:
    """Returns the model of the variant with the most traffic; ours have one variant."""
    variants = [variant for variant in config.get("ProductionVariants", []) if variant.get("ModelName")]
    if not variants:
        return ""
    return str(max(variants, key=lambda variant: variant.get("InitialVariantWeight", 1.0))["ModelName"])


def _artefact(model: Mapping[str, Any]) -> str:
    container: Mapping[str, Any] = model.get("PrimaryContainer") or next(
        iter(model.get("Containers", [])), {}
    )
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    archived = source.get("S3Uri") if source.get("CompressionType") == "Gzip" else None
    return str(container.get("ModelDataUrl") or archived or "")


def _tags(sagemaker: Any, arn: str) -> dict[str, str]:
    """Returns what the model says of its making; it is only shown, so that a refusal is no fault."""
    try:
        answer = sagemaker.list_tags(ResourceArn=arn)
    except ClientError as error:
        if not is_permanent(error):
            raise
        log.warning("The live model's tags cannot be read: %s", explain(error))
        return {}
    return {tag["Key"]: tag["Value"] for tag in answer.get("Tags", [])}

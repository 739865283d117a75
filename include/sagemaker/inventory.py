"""What the project made in SageMaker, found by listing and by its tag."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC
from functools import partial
from typing import Any, Literal, NamedTuple

from botocore.exceptions import ClientError

from include.contracts import Contract
from include.sagemaker.errors import explain, is_denied, is_missing
from include.tags import tags

log = logging.getLogger(__name__)
Kind = Literal["endpoint", "endpoint_config", "model", "training_job", "tuning_job", "model_package_group"]
PROJECT = tags()[0]
# Operation, the answer's list, and what a thing's name and ARN begin with in it.
_LISTS: dict[Kind, tuple[str, str, str]] = {
    "endpoint": ("list_endpoints", "Endpoints", "Endpoint"),
    "endpoint_config": ("list_endpoint_configs", "EndpointConfigs", "EndpointConfig"),
    "model": ("list_models", "Models", "Model"),
    "training_job": ("list_training_jobs", "TrainingJobSummaries", "TrainingJob"),
    "tuning_job": (
        "list_hyper_parameter_tuning_jobs",
        "HyperParameterTuningJobSummaries",
        "HyperParameterTuningJob",
    ),
    "model_package_group": (
        "list_model_package_groups",
        "ModelPackageGroupSummaryList",
        "ModelPackageGroup",
    ),
}


class Item(Contract):
    """One thing.

    Attributes:
        created: ISO moment (UTC); a thing of the same name that was made later is another thing.
    """

    kind: Kind
    name: str
    arn: str
    created: str


def listed(client: Any, kind: Kind, **filters: Any) -> Iterator[Item]:
    """Yields everything of a kind in the account and region, whoever made it, newest first.

    Args:
        client: boto3 SageMaker client.
        kind: Which kind.
        **filters: Of the list operation, such as `NameContains`.
    """
    operation, member, stem = _LISTS[kind]
    pages = client.get_paginator(operation).paginate(SortBy="CreationTime", SortOrder="Descending", **filters)
    for page in pages:
        for entry in page[member]:
            yield Item(
                kind=kind,
                name=entry[f"{stem}Name"],
                arn=entry[f"{stem}Arn"],
                created=entry["CreationTime"].astimezone(UTC).isoformat(),
            )


def ours(client: Any, items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, str]]]:
    """Yields the things that have the project's tag, with all their tags.

    Args:
        client: boto3 SageMaker client.
        items: Of `listed`.

    What this identity may not look at is not the project's; it is told in the log.
    """
    for item in items:
        answer = seen(partial(client.list_tags, ResourceArn=item.arn))
        told = {tag["Key"]: tag["Value"] for tag in (answer or {}).get("Tags", [])}
        if told.get(PROJECT["Key"]) == PROJECT["Value"]:
            yield item, told


def existing(ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns an answer; None where the thing that was asked about is not there (any more)."""
    try:
        return ask()
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def seen(ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns an answer; None where the thing is not there, or this identity may not look at it."""
    try:
        return existing(ask)
    except ClientError as error:
        if not is_denied(error):
            raise
        log.warning("Somebody else's, it seems: %s", explain(error))
        return None


class InUse(NamedTuple):
    """What the endpoints of the account and region need, whoever made them.

    Attributes:
        configs: The configurations that they are on or move to, each with its models.
        known: Whether that is all: False where an endpoint or its configuration may not be looked at, or
            the configuration was deleted.
    """

    configs: Mapping[str, set[str]]
    known: bool

    @property
    def models(self) -> set[str]:
        """The models of those configurations."""
        return set().union(*self.configs.values())


def in_use(client: Any) -> InUse:
    """Looks at what the endpoints are on and move to, and at what that serves."""
    configs: dict[str, set[str]] = {}
    known = True
    for item in listed(client, "endpoint"):
        try:
            told = existing(partial(client.describe_endpoint, EndpointName=item.name)) or {}
        except ClientError as error:
            if not is_denied(error):
                raise
            log.warning("What endpoint %s serves may not be looked at: %s", item.name, explain(error))
            known = False
            continue
        for part in (told, told.get("PendingDeploymentSummary", {})):
            name = str(part.get("EndpointConfigName", ""))
            if name and name not in configs:
                config = seen(partial(client.describe_endpoint_config, EndpointConfigName=name))
                known = known and config is not None
                configs[name] = models_of(config or {})
    return InUse(configs, known)


def models_of(config: Mapping[str, Any]) -> set[str]:
    """Returns the models of a configuration's variants, those of a shadow test too."""
    variants = [*config.get("ProductionVariants", []), *config.get("ShadowProductionVariants", [])]
    return {str(variant["ModelName"]) for variant in variants if variant.get("ModelName")}


def files_of_model(model: Mapping[str, Any]) -> set[str]:
    """Returns what a model's containers are made from: addresses on S3."""
    containers = [model.get("PrimaryContainer", {}), *model.get("Containers", [])]
    sources = [
        container.get("ModelDataUrl")
        or container.get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri")
        for container in containers
    ]
    return {str(source) for source in sources if source}

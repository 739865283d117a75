"""Which endpoint configurations and models may go: the old ones that nothing needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from include.sagemaker.inventory import Item, existing, in_use, listed, models_of, ours, seen
from include.sagemaker.naming import PREFIX
from include.sagemaker.registry import Package, list_packages
from include.settings import Settings
from include.snapshots import SNAPSHOT_ID

# What a run has just made may not be in use yet.
YOUNG = timedelta(days=1)


@dataclass(frozen=True)
class Made:
    """A model or endpoint configuration of the project.

    Attributes:
        models: The models that a configuration serves; of a model, itself.
        snapshot_id: What its model was trained on.
    """

    name: str
    created: datetime
    models: frozenset[str]
    snapshot_id: str | None = None


@dataclass(frozen=True)
class Stock:
    """All that a decision rests on.

    Attributes:
        configs: The project's endpoint configurations, newest first.
        models: The project's models, newest first.
        approved: Approved packages, newest first.
        in_use: Configurations of all endpoints.
        served: Models of those configurations, other people's too.
    """

    configs: tuple[Made, ...]
    models: tuple[Made, ...]
    approved: tuple[Package, ...]
    in_use: frozenset[str]
    served: frozenset[str]


@dataclass(frozen=True)
class Surplus:
    """What may go, and the snapshots that what stays was made from."""

    configs: tuple[str, ...]
    models: tuple[str, ...]
    snapshots_in_use: frozenset[str]


def surplus(stock: Stock, keep: int, now: datetime) -> Surplus:
    """Decides what may go.

    Kept are the newest ones, those of the last day, what an endpoint is on or moves to, what the newest
    approved packages need, and the models of every configuration that is kept.

    Args:
        stock: What there is.
        keep: How many configurations, models and approved packages count as the newest.
        now: The time.
    """
    approved = stock.approved[:keep]
    wanted = {package.model_name for package in approved if package.model_name}
    kept_configs = [
        config
        for place, config in enumerate(stock.configs)
        if place < keep
        or _is_young(config, now)
        or config.name in stock.in_use
        or config.models & (wanted | stock.served)
    ]
    needed = wanted | stock.served
    needed = needed.union(*(config.models for config in kept_configs))
    kept_models = [
        model
        for place, model in enumerate(stock.models)
        if place < keep or _is_young(model, now) or model.name in needed
    ]
    origins = {made.snapshot_id for made in [*kept_configs, *kept_models]}
    origins |= {package.snapshot_id for package in approved}
    return Surplus(
        _others(stock.configs, kept_configs),
        _others(stock.models, kept_models),
        frozenset(filter(None, origins)),
    )


def _is_young(made: Made, now: datetime) -> bool:
    return now - made.created < YOUNG


def _others(every: Iterable[Made], kept: Collection[Made]) -> tuple[str, ...]:
    names = {made.name for made in kept}
    return tuple(made.name for made in every if made.name not in names)


def take_stock(client: Any, settings: Settings) -> Stock | None:
    """Looks at what there is.

    Args:
        client: boto3 SageMaker client.
        settings: Name the registry's group and the project's place on S3.

    Returns:
        None where it cannot be known what an endpoint serves, because the endpoint or its configuration may
        not be looked at, or the configuration was deleted: nothing may go then.
    """
    needed = in_use(client)
    if not needed.known:
        return None
    models = tuple(_models(client, settings))
    names = {model.name for model in models}
    packages = list_packages(client, settings.model_package_group)
    return Stock(
        configs=tuple(_configs(client, names)),
        models=models,
        approved=tuple(package for package in packages if package.approval == "Approved"),
        in_use=frozenset(needed.configs),
        served=frozenset(needed.models),
    )


def _models(client: Any, settings: Settings) -> Iterable[Made]:
    """Yields the project's models whose artefacts lie in this installation's place on S3."""
    for item, tags in ours(client, listed(client, "model", NameContains=PREFIX)):
        found = existing(partial(client.describe_model, ModelName=item.name))
        uri = str((found or {}).get("PrimaryContainer", {}).get("ModelDataUrl", ""))
        if uri.startswith(f"{settings.home}/"):
            yield _made(item, tags, {item.name})


def _configs(client: Any, models: Collection[str]) -> Iterable[Made]:
    """Yields the project's configurations of these models."""
    for item, tags in ours(client, listed(client, "endpoint_config", NameContains=PREFIX)):
        found = existing(partial(client.describe_endpoint_config, EndpointConfigName=item.name))
        of = models_of(found or {})
        if of and of <= set(models):
            yield _made(item, tags, of)


def _made(item: Item, tags: Mapping[str, str], models: Collection[str]) -> Made:
    created = datetime.fromisoformat(item.created)
    return Made(item.name, created, frozenset(models), tags.get("snapshot_id"))


def snapshots_in_training(client: Any) -> set[str]:
    """Returns the snapshots that running training and tuning jobs read, whoever started them."""
    found: set[str] = set()
    for item in listed(client, "training_job", StatusEquals="InProgress"):
        job = seen(partial(client.describe_training_job, TrainingJobName=item.name))
        found |= _snapshots_of(job or {})
    for item in listed(client, "tuning_job", StatusEquals="InProgress"):
        describe = client.describe_hyper_parameter_tuning_job
        search = seen(partial(describe, HyperParameterTuningJobName=item.name))
        found |= _snapshots_of((search or {}).get("TrainingJobDefinition", {}))
    return found


def _snapshots_of(definition: Mapping[str, Any]) -> set[str]:
    channels = definition.get("InputDataConfig", [])
    uris = [str(channel.get("DataSource", {}).get("S3DataSource", {}).get("S3Uri")) for channel in channels]
    return {name for uri in uris for name in re.findall(SNAPSHOT_ID, uri)}

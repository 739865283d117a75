"""Weights and instance counts that are set after the endpoint config, as autoscaling does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.local.emulator.resources.models import EndpointConfig
from include.local.emulator.wire.errors import validation_error

Sizes = dict[str, dict[str, Any]]
_KEPT = ("DesiredWeight", "DesiredInstanceCount")


def resized(sizes: Sizes, wanted: Sequence[Mapping[str, Any]], config: EndpointConfig) -> Sizes:
    """Returns the sizes after an UpdateEndpointWeightsAndCapacities.

    Args:
        sizes: Those before, by variant.
        wanted: `DesiredWeightsAndCapacities`.
        config: The config in service.

    Raises:
        AwsError: `ValidationException`, there is no such variant, or it has no such size.
    """
    variants = {variant["VariantName"]: variant for variant in (*config.variants, *config.shadows)}
    changed = dict(sizes)
    for each in wanted:
        name = each["VariantName"]
        if name not in variants:
            raise validation_error(f'Variant "{name}" does not exist in "{config.name}".')
        serverless = "ServerlessConfig" in variants[name]
        if serverless and "DesiredInstanceCount" in each:
            raise validation_error(f'DesiredInstanceCount cannot be set for serverless variant "{name}".')
        if "ServerlessUpdateConfig" in each:
            raise validation_error("The local emulator does not change the concurrency of a variant.")
        if each.get("DesiredInstanceCount") == 0:
            raise validation_error(f'DesiredInstanceCount of variant "{name}" must be at least 1.')
        changed[name] = changed.get(name, {}) | {key: each[key] for key in _KEPT if key in each}
    return changed


def retained_sizes(request: Mapping[str, Any], sizes: Sizes, config: EndpointConfig) -> Sizes:
    """Returns what an UpdateEndpoint keeps of the sizes.

    Args:
        request: The request: `RetainAllVariantProperties`, `ExcludeRetainedVariantProperties`.
        sizes: Those of the variants in service.
        config: The config to come.
    """
    if not request.get("RetainAllVariantProperties"):
        return {}
    excluded = {each["VariantPropertyType"] for each in request.get("ExcludeRetainedVariantProperties", [])}
    names = {variant["VariantName"] for variant in config.variants}
    return {
        name: {key: value for key, value in size.items() if key not in excluded}
        for name, size in sizes.items()
        if name in names
    }

"""How an update moves the traffic: a DeploymentConfig, checked as AWS does, as steps and waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.local.emulator.resources.models import EndpointConfig
from include.local.emulator.wire.errors import AwsError, validation_error

_HALF, _TENTH = 0.5, 0.1


@dataclass(frozen=True)
class Plan:
    """The steps of an update.

    Attributes:
        shares: Share of the traffic that the new fleet has in each step; the last is 1.
        wait: Seconds for which each step bakes, but the last.
        termination_wait: Seconds for which the last bakes, before the old fleet ends.
        timeout: Seconds after which the update is rolled back; None for no limit.
        alarms: CloudWatch alarms that roll it back.
    """

    shares: tuple[float, ...] = (1.0,)
    wait: float = 0.0
    termination_wait: float = 0.0
    timeout: float | None = None
    alarms: tuple[str, ...] = ()


def plan_of(deployment: Mapping[str, Any] | None, old: EndpointConfig, new: EndpointConfig) -> Plan:
    """Returns the plan of an update.

    Args:
        deployment: `DeploymentConfig` of the request; None for all at once, without a bake.
        old: The config in service.
        new: The config to come.

    Raises:
        AwsError: `ValidationException`, AWS has no such update.
    """
    if not deployment:
        return Plan()
    if "RollingUpdatePolicy" in deployment:
        raise validation_error("The local emulator has no RollingUpdatePolicy: use a BlueGreenUpdatePolicy.")
    policy = deployment.get("BlueGreenUpdatePolicy")
    alarms = tuple(alarm["AlarmName"] for alarm in _alarms(deployment))
    _refuse_other_variants(old, new)
    if policy is None:
        return Plan(alarms=alarms)
    routing = policy["TrafficRoutingConfiguration"]
    plan = Plan(
        shares=_shares(routing, new),
        wait=float(routing["WaitIntervalInSeconds"]),
        termination_wait=float(policy.get("TerminationWaitInSeconds", 0)),
        timeout=policy.get("MaximumExecutionTimeoutInSeconds"),
        alarms=alarms,
    )
    total = (len(plan.shares) - 1) * plan.wait + plan.termination_wait
    if plan.timeout is not None and plan.timeout <= total:
        raise validation_error(
            f"MaximumExecutionTimeoutInSeconds ({plan.timeout}) must be larger than the total waiting time "
            f"of WaitIntervalInSeconds and TerminationWaitInSeconds ({total:g})."
        )
    return plan


def _alarms(deployment: Mapping[str, Any]) -> list[dict[str, str]]:
    alarms: list[dict[str, str]] = deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])
    if any("AlarmName" not in alarm for alarm in alarms):
        raise validation_error("AlarmName is required for each alarm of AutoRollbackConfiguration.")
    return alarms


def _refuse_other_variants(old: EndpointConfig, new: EndpointConfig) -> None:
    before, after = ({each["VariantName"] for each in config.variants} for config in (old, new))
    if before != after:
        raise validation_error(
            f"A deployment configuration needs the same variant names in both endpoint configurations: "
            f'"{old.name}" has {sorted(before)}, "{new.name}" has {sorted(after)}.'
        )


def _shares(routing: Mapping[str, Any], new: EndpointConfig) -> tuple[float, ...]:
    kind = routing["Type"]
    member = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(kind)
    for name in {"CanarySize", "LinearStepSize"} - {member}:
        if name in routing:
            raise validation_error(f"{name} cannot be specified with traffic routing type {kind}.")
    if member is None:
        return (1.0,)
    if member not in routing:
        raise validation_error(f"{member} is required with traffic routing type {kind}.")
    size = _size(routing[member], member, new)
    if size > _HALF:
        raise validation_error(f"{member} must be less than or equal to 50% of the variant's capacity.")
    if kind == "CANARY":
        return (size, 1.0)
    if size < _TENTH:
        raise validation_error(f"{member} must be 10-50% of the variant's capacity.")
    steps = [round(number * size, 6) for number in range(1, 10)]
    return (*(step for step in steps if step < 1.0), 1.0)


def _size(size: Mapping[str, Any], member: str, new: EndpointConfig) -> float:
    """Returns a CapacitySize as a share of the smallest variant."""
    if any("ServerlessConfig" in variant for variant in new.variants):
        raise _refused(member, "serverless variants: they only move ALL_AT_ONCE")
    instances = min(int(variant.get("InitialInstanceCount", 1)) for variant in new.variants)
    if instances < 2:
        raise _refused(
            member, "variants of one instance: at most half of the instances may be turned on first"
        )
    value = int(size["Value"])
    return value / 100 if size["Type"] == "CAPACITY_PERCENT" else value / instances


def _refused(member: str, why: str) -> AwsError:
    return validation_error(f"{member} is not supported for {why}.")

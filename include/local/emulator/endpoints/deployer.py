"""The way of an endpoint from one config to another: step by step, or back where an alarm goes off."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from include.local.emulator.endpoints import alarms
from include.local.emulator.endpoints.state import Deployment, Endpoint
from include.local.emulator.resources.store import now
from include.local.emulator.serving.fleets import Fleet, Launcher, Routes
from include.local.emulator.wire.faults import Faults, Rule

DRAIN_SECONDS = 60.0
_LOOK_SECONDS = 0.25
log = logging.getLogger(__name__)


class Deployer:
    """Creates, updates and deletes what is behind endpoints; each call takes as long as that does.

    Args:
        url: Address of the emulator.
        launcher: Brings fleets up.
        grace_seconds: Time between TERM and KILL.
        closing: Set once the emulator stops.
        faults: What goes wrong on demand.
    """

    def __init__(
        self,
        url: str,
        launcher: Launcher,
        grace_seconds: float,
        closing: threading.Event,
        faults: Faults,
    ) -> None:
        self._url = url
        self._launcher = launcher
        self._grace = grace_seconds
        self._closing = closing
        self._faults = faults

    def create(self, endpoint: Endpoint, deployment: Deployment) -> None:
        """Brings the first fleet up."""
        if fault := self._faults.endpoint_event(endpoint.name, ("fail",)):
            self._closing.wait(fault.seconds)
            endpoint.settle("Failed", fault.reason or "The endpoint failed, as a fault rule asks.")
            return
        fleet, reason = self._launch(endpoint, deployment)
        if fleet is None:
            endpoint.settle("Failed", reason)
            return
        endpoint.traffic.turn(((fleet, 1.0),))
        endpoint.settle("InService")

    def resize(self, endpoint: Endpoint, sizes: dict[str, dict[str, Any]]) -> None:
        """Changes weights and instance counts; locally a variant is one server, however many it has."""
        for fleet, _ in endpoint.traffic.routes:
            fleet.weigh(sizes)
        with endpoint.lock:
            endpoint.sizes = sizes
            endpoint.settle("InService")

    def maintain(self, endpoint: Endpoint, seconds: float) -> None:
        """Is what SageMaker does by itself: the endpoint answers, and cannot be changed."""
        self._closing.wait(seconds)
        endpoint.settle("InService", endpoint.failure_reason)

    def resume(self, endpoint: Endpoint, current: Deployment, pending: Deployment | None) -> None:
        """Brings what was in service up again after a restart of the emulator, and goes on from there."""
        status, reason = endpoint.status, endpoint.failure_reason
        try:
            fleet, failure = self._launch(endpoint, current)
            if fleet is None:
                endpoint.settle("Failed", failure)
                return
            fleet.weigh(endpoint.sizes)
            endpoint.traffic.turn(((fleet, 1.0),))
        finally:
            endpoint.ready.set()
        self._launcher.remove(endpoint.region, endpoint.name, before=current.number)
        if pending is not None:
            self.update(endpoint, pending)
        elif status not in ("InService", "UpdateRollbackFailed"):
            endpoint.settle("InService", reason)

    def update(self, endpoint: Endpoint, deployment: Deployment) -> None:
        """Brings a second fleet up, moves the traffic to it and ends the first; or the other way round."""
        green, reason = self._launch(endpoint, deployment)
        if green is None:
            # AWS reports a rollback so, too: in service, on the old config, with a reason.
            endpoint.settle("InService", reason)
            return
        green.weigh(endpoint.pending_sizes)
        fault = self._faults.endpoint_event(endpoint.name, ("rollback", "rollback_failed", "fail"))
        blue = endpoint.traffic.routes
        try:
            reason = self._shift(endpoint, deployment, blue, green, fault)
        except Exception as error:
            log.exception("update of endpoint %s", endpoint.name)
            reason = f"InternalServerError: {type(error).__name__}: {error}"
        if self._closing.is_set():
            return  # whoever closes ends both fleets
        if reason is not None:
            self._roll_back(endpoint, deployment, blue, green, reason, fault)
            alarms.end_later(self._url, endpoint.region, deployment.plan.alarms, self._closing)
            return
        with endpoint.lock:
            endpoint.config, endpoint.sizes = deployment.config, endpoint.pending_sizes
            endpoint.settle("InService")
        endpoint.traffic.turn(((green, 1.0),))
        self._retire(blue)
        self._launcher.remove(endpoint.region, endpoint.name, before=deployment.number)

    def delete(self, endpoint: Endpoint) -> None:
        """Ends every fleet and removes the artefacts."""
        self.end(endpoint, DRAIN_SECONDS)
        self._launcher.remove(endpoint.region, endpoint.name)

    def end(self, endpoint: Endpoint, drain_seconds: float) -> None:
        """Ends every fleet."""
        self._retire(endpoint.traffic.turn(()), drain_seconds)

    def _launch(self, endpoint: Endpoint, deployment: Deployment) -> tuple[Fleet | None, str | None]:
        return self._launcher.launch(endpoint.region, endpoint.name, deployment.number, deployment.config)

    def _shift(
        self, endpoint: Endpoint, deployment: Deployment, blue: Routes, green: Fleet, fault: Rule | None
    ) -> str | None:
        """Returns the reason to roll back; None where the traffic has moved."""
        plan = deployment.plan
        look = self._watch(endpoint, deployment, blue, green)
        for share in plan.shares:
            endpoint.traffic.turn((*((fleet, part * (1 - share)) for fleet, part in blue), (green, share)))
            with endpoint.lock:
                endpoint.modified = now()
                deployment.enter("Baking", share)
            if fault is not None:
                self._closing.wait(fault.seconds)
                return fault.reason or f"The deployment went wrong ({fault.event}), as a fault rule asks."
            if reason := self._bake(plan.wait if share < 1 else plan.termination_wait, look):
                return reason
        return None

    def _watch(
        self, endpoint: Endpoint, deployment: Deployment, blue: Routes, green: Fleet
    ) -> Callable[[], str | None]:
        """Returns a look at the update: the reason to roll it back, None for none."""
        since = deployment.since.timestamp()
        variants = [
            variant for fleet in (*(fleet for fleet, _ in blue), green) for variant in fleet.everything
        ]

        def look() -> str | None:
            # Only since the update began: what an alarm saw before would roll every next try back.
            answered = [
                (variant.source, [sample for sample in tuple(variant.samples) if sample.at >= since])
                for variant in variants
            ]
            tripped = alarms.in_alarm(self._url, endpoint.region, deployment.plan.alarms, answered)
            if tripped:
                return (
                    f"The deployment of endpoint configuration {deployment.config.name} was rolled back: the "
                    f"CloudWatch alarms {tripped} were in ALARM state during the baking period."
                )
            limit = deployment.plan.timeout
            if limit is not None and time.time() - since > limit:
                return (
                    f"The deployment was rolled back: it exceeded its execution timeout of {limit} seconds."
                )
            return None

        return look

    def _bake(self, seconds: float, look: Callable[[], str | None]) -> str | None:
        deadline = time.monotonic() + seconds
        while True:
            if reason := look():
                return reason
            left = deadline - time.monotonic()
            if left <= 0 or self._closing.wait(min(left, _LOOK_SECONDS)):
                return None

    def _roll_back(
        self,
        endpoint: Endpoint,
        deployment: Deployment,
        blue: Routes,
        green: Fleet,
        reason: str,
        fault: Rule | None,
    ) -> None:
        with endpoint.lock:
            endpoint.enter("RollingBack", reason)
            deployment.enter("Deleting", 0.0)
        if fault is not None:
            self._closing.wait(fault.seconds)
        event = None if fault is None else fault.event
        if event == "rollback_failed":
            endpoint.settle("UpdateRollbackFailed", reason)  # in service with both, as on AWS
            return
        endpoint.traffic.turn(() if event == "fail" else blue)
        self._retire(((green, 0.0),))
        if event == "fail":
            self._retire(blue)
        endpoint.settle("Failed" if event == "fail" else "InService", reason)

    def _retire(self, routes: Routes, drain_seconds: float = DRAIN_SECONDS) -> None:
        for fleet, _ in routes:
            fleet.retire(drain_seconds, self._grace)

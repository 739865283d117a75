"""The state of an endpoint, and that of an update of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from include.local.emulator.endpoints.traffic import Plan
from include.local.emulator.machine.persistence import LIVE
from include.local.emulator.resources.models import EndpointConfig
from include.local.emulator.resources.store import Resource, now
from include.local.emulator.serving.fleets import Traffic


@dataclass
class Deployment:
    """A config on its way to work.

    Attributes:
        config: What is to be put to work.
        plan: How.
        number: Its number, for its folder.
        since: When it began.
        stage: VariantStatus of its variants.
        stage_since: When that began.
        share: Share of the traffic that its fleet has.
    """

    config: EndpointConfig
    plan: Plan
    number: int
    since: datetime = field(default_factory=now)
    stage: str = "Creating"
    stage_since: datetime = field(default_factory=now)
    share: float = 0.0

    def enter(self, stage: str, share: float) -> None:
        """Changes the stage. Hold the endpoint's lock."""
        self.stage, self.stage_since, self.share = stage, now(), share


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class Endpoint(Resource):
    """An endpoint and what answers behind it.

    Attributes:
        status: EndpointStatus.
        config: What is in service.
        pending: The config that an update goes to.
        pending_since: When that began.
        pending_by: The DeploymentConfig that it goes by.
        last_deployment: The DeploymentConfig that was given last.
        failure_reason: FailureReason.
        sizes: Weights and instance counts that were set after the config, by variant.
        pending_sizes: Those of them that an update retains.
        deployments: How many there have been.
        deployment: How far the update is.
        traffic: What answers.
        ready: Cleared while its servers are started again after a restart of the emulator: requests wait.
    """

    kind: ClassVar[str] = "endpoint"
    label: ClassVar[str] = "endpoint"

    status: str = "Creating"
    config: EndpointConfig | None = None
    pending: EndpointConfig | None = None
    pending_since: datetime | None = None
    pending_by: dict[str, Any] | None = None
    last_deployment: dict[str, Any] | None = None
    failure_reason: str | None = None
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    pending_sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    deployments: int = 0
    deployment: Deployment | None = field(default=None, metadata=LIVE)
    traffic: Traffic = field(default_factory=Traffic, metadata=LIVE)
    ready: threading.Event = field(default_factory=_set_event, metadata=LIVE)

    @property
    def state(self) -> str:
        """EndpointStatus."""
        return self.status

    def enter(self, status: str, reason: str | None = None) -> None:
        """Changes the status, and the reason for it."""
        with self.lock:
            self.status, self.failure_reason, self.modified = status, reason, now()

    def settle(self, status: str, reason: str | None = None) -> None:
        """Changes the status, and ends the update."""
        with self.lock:
            self.pending = self.pending_since = self.pending_by = self.deployment = None
            self.pending_sizes = {}
            self.enter(status, reason)

    def next_deployment(self, config: EndpointConfig, plan: Plan) -> Deployment:
        """Returns a deployment with a number of its own."""
        with self.lock:
            self.deployments += 1
            return Deployment(config, plan, self.deployments)

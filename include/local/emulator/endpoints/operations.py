"""The operations on endpoints: create, update, describe, list, delete, invoke."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from include.local.emulator.endpoints import alarms
from include.local.emulator.endpoints.deployer import Deployer
from include.local.emulator.endpoints.descriptions import describe
from include.local.emulator.endpoints.invocations import MAX_BODY_BYTES, Invocations
from include.local.emulator.endpoints.sizes import resized, retained_sizes
from include.local.emulator.endpoints.state import Deployment, Endpoint
from include.local.emulator.endpoints.traffic import Plan, plan_of
from include.local.emulator.machine.workers import Workers
from include.local.emulator.resources.models import EndpointConfig, Models
from include.local.emulator.resources.store import Store, now
from include.local.emulator.serving.capture import Captures
from include.local.emulator.serving.fleets import Launcher
from include.local.emulator.serving.metrics import Metrics
from include.local.emulator.serving.model_server import Answer
from include.local.emulator.wire.errors import validation_error
from include.local.emulator.wire.faults import Faults

__all__ = ["MAX_BODY_BYTES", "Endpoint", "Endpoints"]
log = logging.getLogger(__name__)
_IN_PROGRESS = ("Creating", "Updating", "RollingBack", "SystemUpdating", "Deleting")


class Endpoints:
    """The endpoints of one emulator.

    Args:
        url: Address of the emulator.
        folder: Where the artefacts are extracted.
        models: Models and endpoint configs.
        server_command: The model server, without `--model-dir` and `--port`.
        startup_seconds: Time for a server's first good ping.
        stop_grace_seconds: Time between TERM and KILL.
        state: Where the resources' files lie.
        faults: What goes wrong on demand.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        models: Models,
        server_command: Sequence[str],
        startup_seconds: float,
        stop_grace_seconds: float,
        state: Path | None,
        faults: Faults,
    ) -> None:
        self._url = url
        self._models = models
        self._patience = startup_seconds + stop_grace_seconds
        self._workers = Workers()
        closing = self._workers.closing
        launcher = Launcher(url, folder, models, server_command, startup_seconds, stop_grace_seconds, closing)
        self._faults = faults
        self._deployer = Deployer(url, launcher, stop_grace_seconds, closing, faults)
        self._metrics = Metrics(url)
        self._captures = Captures(url)
        self.store = Store(Endpoint, state)
        for endpoint in self.store:
            if _was_up(endpoint):
                endpoint.ready.clear()  # before the first request can come: it waits for `resume`
        self._invocations = Invocations(self.store, self._metrics, self._captures)

    def create(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateEndpoint."""
        config = self._models.configs.get(region, request["EndpointConfigName"])
        deployment = request.get("DeploymentConfig")
        self._plan(region, deployment, config, config)
        endpoint = Endpoint(
            request["EndpointName"], region, request, config=config, last_deployment=deployment
        )
        self.store.add(endpoint)
        self._run(endpoint, self._deployer.create, endpoint.next_deployment(config, Plan()))
        return {"EndpointArn": endpoint.arn}

    def update(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """UpdateEndpoint."""
        endpoint = self.store.get(region, request["EndpointName"])
        config = self._models.configs.get(region, request["EndpointConfigName"])
        self._touch(endpoint)
        _refuse_update(endpoint)
        assert endpoint.config is not None
        given = _deployment_config(endpoint, request)
        plan = self._plan(region, given, endpoint.config, config)
        with endpoint.lock:
            _refuse_update(endpoint)
            endpoint.last_deployment = given or endpoint.last_deployment
            endpoint.pending, endpoint.pending_since, endpoint.pending_by = config, now(), given
            endpoint.pending_sizes = retained_sizes(request, endpoint.sizes, config)
            endpoint.deployment = deployment = endpoint.next_deployment(config, plan)
            endpoint.enter("Updating")
            self._run(endpoint, self._deployer.update, deployment)
        return {"EndpointArn": endpoint.arn}

    def resize(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """UpdateEndpointWeightsAndCapacities."""
        endpoint = self.store.get(region, request["EndpointName"])
        self._touch(endpoint)
        with endpoint.lock:
            _refuse_update(endpoint)
            assert endpoint.config is not None
            sizes = resized(endpoint.sizes, request["DesiredWeightsAndCapacities"], endpoint.config)
            endpoint.enter("Updating")
            self._run(endpoint, self._deployer.resize, sizes)
        return {"EndpointArn": endpoint.arn}

    def delete(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteEndpoint."""
        endpoint = self.store.get(region, request["EndpointName"])
        self._touch(endpoint)
        with endpoint.lock:
            _refuse_in_progress(endpoint)
            endpoint.enter("Deleting")
            self._run(endpoint, self._delete)
        return {}

    def resume(self) -> None:
        """Starts the model servers that ran when the emulator last ended, and goes on with deployments."""
        for endpoint in self.store:
            try:
                self._resume(endpoint)
            except Exception as error:
                log.exception("endpoint %s", endpoint.name)
                endpoint.settle("Failed", f"InternalServerError: {type(error).__name__}: {error}")
                endpoint.ready.set()

    def _resume(self, endpoint: Endpoint) -> None:
        rollback = (endpoint.last_deployment or {}).get("AutoRollbackConfiguration", {})
        names = [alarm["AlarmName"] for alarm in rollback.get("Alarms", [])]
        alarms.end_later(self._url, endpoint.region, names, self._workers.closing)
        if endpoint.status == "Deleting":
            self._run(endpoint, self._delete)
        elif endpoint.config is not None and endpoint.status != "Failed":
            current = endpoint.next_deployment(endpoint.config, Plan())
            if endpoint.status == "Creating":
                self._run(endpoint, self._deployer.create, current)
            else:
                self._run(endpoint, self._deployer.resume, current, _pending(endpoint))

    def describe(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeEndpoint."""
        endpoint = self.store.get(region, request["EndpointName"])
        self._touch(endpoint, wait=False)
        with endpoint.lock:
            return describe(endpoint, self._models)

    def list_endpoints(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListEndpoints."""
        return self.store.page(
            region,
            request,
            "Endpoints",
            lambda item: {
                "EndpointName": item.name,
                "EndpointArn": item.arn,
                "CreationTime": item.created,
                "LastModifiedTime": item.modified,
                "EndpointStatus": item.status,
            },
        )

    def invoke(self, region: str, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[str, Answer]:
        """InvokeEndpoint; see `Invocations.invoke`."""
        return self._invocations.invoke(region, name, body, headers)

    def close(self) -> None:
        """Ends every server."""
        self.store.freeze()  # first: what is cut short from here on is not what became of an endpoint
        self._workers.close()
        for endpoint in self.store:
            endpoint.ready.set()
        self._workers.join(self._patience)
        for endpoint in self.store:
            self._deployer.end(endpoint, 0)
        self._metrics.close()
        self._captures.close()

    def _plan(
        self, region: str, deployment: Mapping[str, Any] | None, old: EndpointConfig, new: EndpointConfig
    ) -> Plan:
        plan = plan_of(deployment, old, new)
        alarms.refuse_unknown(self._url, region, plan.alarms)
        return plan

    def _run(self, endpoint: Endpoint, work: Callable[..., None], *arguments: Any) -> None:
        self._workers.start(f"endpoint-{endpoint.name}", partial(work, endpoint, *arguments))

    def _touch(self, endpoint: Endpoint, *, wait: bool = True) -> None:
        """Has happen to an endpoint in service what a fault rule asks."""
        if wait:
            endpoint.ready.wait()
        if not self._faults:
            return
        with endpoint.lock:
            if endpoint.status != "InService":
                return
            if fault := self._faults.endpoint_event(endpoint.name, ("system_updating",)):
                endpoint.enter("SystemUpdating", endpoint.failure_reason)
                self._run(endpoint, self._deployer.maintain, fault.seconds)

    def _delete(self, endpoint: Endpoint) -> None:
        self._deployer.delete(endpoint)
        self._captures.flush()
        self.store.remove(endpoint.region, endpoint.name)


def _was_up(endpoint: Endpoint) -> bool:
    return endpoint.config is not None and endpoint.status not in ("Creating", "Deleting", "Failed")


def _refuse_in_progress(endpoint: Endpoint) -> None:
    if endpoint.status in _IN_PROGRESS:
        raise validation_error(f'Cannot update in-progress endpoint "{endpoint.arn}".')


def _refuse_update(endpoint: Endpoint) -> None:
    _refuse_in_progress(endpoint)
    if endpoint.status == "Failed":
        raise validation_error(f'Cannot update failed endpoint "{endpoint.arn}"; delete it.')


def _pending(endpoint: Endpoint) -> Deployment | None:
    """Returns the update that was in progress when the emulator ended; None where there is none to go on."""
    if endpoint.config is None or endpoint.pending is None or endpoint.status != "Updating":
        return None
    plan = plan_of(endpoint.pending_by, endpoint.config, endpoint.pending)
    with endpoint.lock:
        endpoint.deployment = endpoint.next_deployment(endpoint.pending, plan)
        return endpoint.deployment


def _deployment_config(endpoint: Endpoint, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the DeploymentConfig that an update goes by.

    Raises:
        AwsError: `ValidationException`, it is given and to be retained at once.
    """
    given: dict[str, Any] | None = request.get("DeploymentConfig")
    if not request.get("RetainDeploymentConfig"):
        return given
    if given is not None:
        raise validation_error("DeploymentConfig cannot be specified when RetainDeploymentConfig is true.")
    return endpoint.last_deployment

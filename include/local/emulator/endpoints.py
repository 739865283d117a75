"""Endpoints: create, blue/green update, delete, invoke."""

from __future__ import annotations

import contextlib
import http.client
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from include.local.emulator import storage
from include.local.emulator.archives import HostileArchiveError, extract
from include.local.emulator.errors import AwsError, validation_error
from include.local.emulator.models import EndpointConfig, Model, Models
from include.local.emulator.persistence import LIVE
from include.local.emulator.resources import ACCOUNT_ID, Resource, Store, now
from include.local.emulator.serving import (
    CUSTOM_ATTRIBUTES,
    Answer,
    Fleet,
    ModelServer,
    UnhealthyServerError,
    Variant,
)
from include.local.emulator.workers import Workers

MAX_BODY_BYTES = 6 * 1024**2
_REASON_LENGTH = 1024
_DRAIN_SECONDS = 60.0
_IN_PROGRESS = ("Creating", "Updating", "Deleting")
_PASSED_TO_MODEL = ("Content-Type", "Accept", CUSTOM_ATTRIBUTES)
log = logging.getLogger(__name__)


class DeploymentError(Exception):
    """A config cannot be put to work; the text becomes the endpoint's FailureReason."""


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class Endpoint(Resource):
    """An endpoint and what answers behind it. `lock` guards the swap of fleets, too.

    Attributes:
        ready: Cleared while its servers are started again after a restart of the emulator: requests wait.
    """

    kind: ClassVar[str] = "endpoint"
    label: ClassVar[str] = "endpoint"

    status: str = "Creating"
    config: EndpointConfig | None = None
    pending: EndpointConfig | None = None
    pending_since: datetime | None = None
    last_deployment: dict[str, Any] | None = None
    failure_reason: str | None = None
    fleet: Fleet | None = field(default=None, metadata=LIVE)
    ready: threading.Event = field(default_factory=_set_event, metadata=LIVE)
    deployments: int = 0

    @property
    def state(self) -> str:
        """EndpointStatus."""
        return self.status


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
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        models: Models,
        server_command: Sequence[str],
        startup_seconds: float,
        stop_grace_seconds: float,
        state: Path | None = None,
    ) -> None:
        self._url = url
        self._folder = folder
        self._models = models
        self._command = tuple(server_command)
        self._startup = startup_seconds
        self._grace = stop_grace_seconds
        self._workers = Workers()
        self.store = Store(Endpoint, state)

    def create(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateEndpoint."""
        config = self._models.configs.get(region, request["EndpointConfigName"])
        endpoint = Endpoint(request["EndpointName"], region, request, config=config)
        self.store.add(endpoint)
        self._begin(endpoint, config, self._create)
        return {"EndpointArn": endpoint.arn}

    def update(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """UpdateEndpoint."""
        endpoint = self.store.get(region, request["EndpointName"])
        config = self._models.configs.get(region, request["EndpointConfigName"])
        endpoint.ready.wait()
        with endpoint.lock:
            if endpoint.status in _IN_PROGRESS:
                raise validation_error(f'Cannot update in-progress endpoint "{endpoint.arn}".')
            if endpoint.status == "Failed":
                raise validation_error(f'Cannot update failed endpoint "{endpoint.arn}"; delete it.')
            endpoint.status, endpoint.modified = "Updating", now()
            endpoint.pending, endpoint.pending_since = config, now()
            endpoint.last_deployment = request.get("DeploymentConfig", endpoint.last_deployment)
        self._begin(endpoint, config, self._update)
        return {"EndpointArn": endpoint.arn}

    def delete(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteEndpoint."""
        endpoint = self.store.get(region, request["EndpointName"])
        endpoint.ready.wait()
        with endpoint.lock:
            if endpoint.status in _IN_PROGRESS:
                raise validation_error(f'Cannot update in-progress endpoint "{endpoint.arn}".')
            endpoint.status, endpoint.modified = "Deleting", now()
        self._workers.start(f"endpoint-{endpoint.name}", lambda: self._delete(endpoint))
        return {}

    def resume(self) -> None:
        """Starts the model servers that ran when the emulator last ended, and goes on with deployments."""
        for endpoint in self.store:
            if endpoint.status == "Deleting":
                self._workers.start(f"endpoint-{endpoint.name}", partial(self._delete, endpoint))
            elif endpoint.config is not None and endpoint.status == "Creating":
                self._begin(endpoint, endpoint.config, self._create)
            elif endpoint.config is not None and endpoint.status != "Failed":
                endpoint.ready.clear()
                self._begin(endpoint, endpoint.config, self._resume)

    def describe(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeEndpoint."""
        endpoint = self.store.get(region, request["EndpointName"])
        with endpoint.lock:
            assert endpoint.config is not None
            answer: dict[str, Any] = {
                "EndpointName": endpoint.name,
                "EndpointArn": endpoint.arn,
                "EndpointConfigName": endpoint.config.name,
                "EndpointStatus": endpoint.status,
                "CreationTime": endpoint.created,
                "LastModifiedTime": endpoint.modified,
            }
            if endpoint.status != "Failed":
                answer["ProductionVariants"] = self._summaries(endpoint, endpoint.config)
            if endpoint.failure_reason:
                answer["FailureReason"] = endpoint.failure_reason
            if endpoint.last_deployment:
                answer["LastDeploymentConfig"] = endpoint.last_deployment
            if endpoint.pending is not None:
                answer["PendingDeploymentSummary"] = {
                    "EndpointConfigName": endpoint.pending.name,
                    "StartTime": endpoint.pending_since,
                }
        capture = endpoint.config.request.get("DataCaptureConfig")
        if capture is not None:
            answer["DataCaptureConfig"] = {
                "EnableCapture": capture.get("EnableCapture", False),
                "CaptureStatus": "Stopped",  # the emulator captures nothing
                "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
                "DestinationS3Uri": capture["DestinationS3Uri"],
                "KmsKeyId": capture.get("KmsKeyId", ""),
            }
        return answer

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
        """InvokeEndpoint.

        Args:
            region: Region of the caller.
            name: Endpoint name.
            body: The request's bytes, as the model gets them.
            headers: The request's headers, by their canonical names.

        Returns:
            Name of the production variant, and its answer.

        Raises:
            AwsError: `ValidationError`, `ModelError` or `ServiceUnavailable`, as the runtime API has them.
        """
        if len(body) > MAX_BODY_BYTES:
            raise AwsError("ValidationError", f"Request {len(body)} bytes is too large.", 413)
        passed = {name: headers[name] for name in _PASSED_TO_MODEL if headers.get(name)}
        with self._live_fleet(region, name) as fleet:
            variant = fleet.choose(headers.get("X-Amzn-SageMaker-Target-Variant"))
            try:
                answer = variant.server.invoke(body, passed)
            except TimeoutError as error:
                raise _model_error(504, "Your invocation timed out while waiting for a response.") from error
            except (OSError, http.client.HTTPException) as error:
                raise AwsError("ServiceUnavailable", f"The model server is gone: {error}", 503) from error
        if answer.status >= 400:
            raise _model_error(answer.status, answer.body.decode("utf-8", errors="replace"))
        return variant.name, answer

    def close(self) -> None:
        """Ends every server."""
        self._workers.close()
        self.store.freeze()
        self._workers.join(self._startup + self._grace)
        for endpoint in self.store:
            with endpoint.lock:
                fleet, endpoint.fleet = endpoint.fleet, None
            if fleet is not None:
                fleet.retire(0, self._grace)

    @contextlib.contextmanager
    def _live_fleet(self, region: str, name: str) -> Iterator[Fleet]:
        not_found = AwsError("ValidationError", f"Endpoint {name} of account {ACCOUNT_ID} not found.")
        try:
            endpoint = self.store.get(region, name)
        except AwsError as error:
            raise not_found from error
        endpoint.ready.wait()
        with contextlib.ExitStack() as stack:
            with endpoint.lock:
                fleet = endpoint.fleet
                if fleet is None or endpoint.status == "Deleting":
                    raise not_found
                # Counted before the lock is given back: a swap cannot come between.
                stack.enter_context(fleet.request())
            yield fleet

    def _begin(
        self,
        endpoint: Endpoint,
        config: EndpointConfig,
        deploy: Callable[[Endpoint, EndpointConfig], None],
    ) -> None:
        with endpoint.lock:
            endpoint.deployments += 1
        self._workers.start(f"endpoint-{endpoint.name}", lambda: deploy(endpoint, config))

    def _create(self, endpoint: Endpoint, config: EndpointConfig) -> None:
        fleet, reason = self._try_start_fleet(endpoint, config)
        with endpoint.lock:
            endpoint.fleet, endpoint.failure_reason, endpoint.modified = fleet, reason, now()
            endpoint.status = "InService" if fleet is not None else "Failed"

    def _resume(self, endpoint: Endpoint, config: EndpointConfig) -> None:
        number, fleet, reason = endpoint.deployments, None, None
        try:
            fleet, reason = self._try_start_fleet(endpoint, config)
            with endpoint.lock:
                endpoint.fleet = fleet
                if fleet is None:
                    endpoint.status, endpoint.failure_reason = "Failed", reason
                    endpoint.pending, endpoint.pending_since, endpoint.modified = None, None, now()
        finally:
            endpoint.ready.set()
        self._remove_artefacts(endpoint, before=number)
        if fleet is not None and endpoint.pending is not None:
            with endpoint.lock:
                endpoint.deployments += 1
            self._update(endpoint, endpoint.pending)

    def _update(self, endpoint: Endpoint, config: EndpointConfig) -> None:
        number = endpoint.deployments
        new, reason = self._try_start_fleet(endpoint, config)
        old = None
        with endpoint.lock:
            endpoint.failure_reason, endpoint.modified = reason, now()
            endpoint.pending = endpoint.pending_since = None
            if new is not None:
                old, endpoint.fleet, endpoint.config = endpoint.fleet, new, config
            # AWS reports a rollback so, too: in service, on the old config, with a reason.
            endpoint.status = "InService"
        if old is not None:
            old.retire(_DRAIN_SECONDS, self._grace)
            self._remove_artefacts(endpoint, before=number)

    def _delete(self, endpoint: Endpoint) -> None:
        with endpoint.lock:
            fleet, endpoint.fleet = endpoint.fleet, None
        if fleet is not None:
            fleet.retire(_DRAIN_SECONDS, self._grace)
        shutil.rmtree(self._place(endpoint), ignore_errors=True)
        self.store.remove(endpoint.region, endpoint.name)

    def _try_start_fleet(self, endpoint: Endpoint, config: EndpointConfig) -> tuple[Fleet | None, str | None]:
        """Returns the fleet, or the reason for which there is none."""
        started: list[Variant] = []
        try:
            for variant in config.variants:
                started.append(self._start_variant(endpoint, variant))
            for each in started:
                self._wait_healthy(each)
            return Fleet(started), None
        except Exception as error:
            for each in started:
                each.server.end(self._grace)
            if isinstance(error, DeploymentError):
                return None, str(error)[:_REASON_LENGTH]
            log.exception("endpoint %s", endpoint.name)
            return None, f"InternalServerError: {type(error).__name__}: {error}"[:_REASON_LENGTH]

    def _start_variant(self, endpoint: Endpoint, variant: dict[str, Any]) -> Variant:
        try:
            model = self._models.models.get(endpoint.region, variant["ModelName"])
        except AwsError as error:
            raise DeploymentError(error.message) from error
        place = self._place(endpoint) / str(endpoint.deployments) / variant["VariantName"]
        shutil.rmtree(place, ignore_errors=True)  # of an earlier run of the emulator
        place.mkdir(parents=True)
        self._fetch(endpoint.region, model, place)
        environment = model.container.get("Environment", {})
        server = ModelServer(self._command, place / "model", environment, place / "server.log")
        return Variant(variant["VariantName"], float(variant.get("InitialVariantWeight", 1.0)), server)

    def _fetch(self, region: str, model: Model, place: Path) -> None:
        archive = place / "model.tar.gz"
        try:
            storage.download(storage.client("s3", self._url, region), model.data_uri, archive)
            extract(archive, place / "model")
        except storage.MissingObjectError as error:
            raise DeploymentError(
                f'Failed to download model data for container "container_1" from URL "{model.data_uri}". '
                "Please ensure that there is an object located at the URL and that the role passed to "
                "CreateModel has permissions to download the model."
            ) from error
        except HostileArchiveError as error:
            raise DeploymentError(
                'Failed to extract model data archive for container "container_1" from URL '
                f'"{model.data_uri}". Please ensure that the object located at the URL is a valid tar.gz '
                f"archive. Reason: {error}"
            ) from error
        archive.unlink()

    def _wait_healthy(self, variant: Variant) -> None:
        try:
            variant.server.wait_healthy(self._startup, self._workers.closing)
        except UnhealthyServerError as error:
            raise DeploymentError(
                f"The primary container for production variant {variant.name} did not pass the ping health "
                f"check. Please check CloudWatch logs for this endpoint. {error}"
            ) from error

    def _place(self, endpoint: Endpoint) -> Path:
        return self._folder / endpoint.region / endpoint.name

    def _remove_artefacts(self, endpoint: Endpoint, before: int) -> None:
        for folder in self._place(endpoint).iterdir():
            if int(folder.name) < before:
                shutil.rmtree(folder, ignore_errors=True)

    def _summaries(self, endpoint: Endpoint, config: EndpointConfig) -> list[dict[str, Any]]:
        return [self._summary(endpoint, variant) for variant in config.variants]

    def _summary(self, endpoint: Endpoint, variant: dict[str, Any]) -> dict[str, Any]:
        weight = float(variant.get("InitialVariantWeight", 1.0))
        summary: dict[str, Any] = {
            "VariantName": variant["VariantName"],
            "CurrentWeight": weight,
            "DesiredWeight": weight,
        }
        if serverless := variant.get("ServerlessConfig"):
            summary |= {"CurrentServerlessConfig": serverless, "DesiredServerlessConfig": serverless}
        else:
            wanted = int(variant.get("InitialInstanceCount", 1))
            summary |= {
                "CurrentInstanceCount": 0 if endpoint.status == "Creating" else wanted,
                "DesiredInstanceCount": wanted,
            }
        with contextlib.suppress(AwsError):  # the model may be deleted while it serves
            image = self._models.models.get(endpoint.region, variant["ModelName"]).container.get("Image")
            if image:
                summary["DeployedImages"] = [{"SpecifiedImage": image, "ResolvedImage": image}]
        return summary


def _model_error(status: int, message: str) -> AwsError:
    whose = "client" if status < 500 else "server"
    return AwsError(
        "ModelError",
        f'Received {whose} error ({status}) from primary with message "{message}".',
        424,
        OriginalStatusCode=status,
        OriginalMessage=message,
    )

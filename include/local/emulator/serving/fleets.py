"""Fleets: the model servers of one endpoint config, and how they come up and go."""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from include.local.emulator.machine import storage
from include.local.emulator.machine.archives import HostileArchiveError, extract
from include.local.emulator.resources.models import EndpointConfig, Model, Models
from include.local.emulator.serving.capture import CaptureRule, rule_of
from include.local.emulator.serving.metrics import Source
from include.local.emulator.serving.model_server import ModelServer, UnhealthyServerError
from include.local.emulator.serving.shadow import Shadow
from include.local.emulator.serving.variants import Variant
from include.local.emulator.wire.errors import AwsError

_REASON_LENGTH = 1024
log = logging.getLogger(__name__)


class DeploymentError(Exception):
    """A config cannot be put to work; the text becomes the endpoint's FailureReason."""


class Fleet:
    """The servers of one endpoint config. Counts its requests: it can retire without losing one.

    Args:
        variants: The production variants.
        shadow: The shadow variant.
        capture: What is kept of the requests.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        shadow: Shadow | None = None,
        capture: CaptureRule | None = None,
    ) -> None:
        self.variants = tuple(variants)
        self.shadow = shadow
        self.capture = capture
        self._idle = threading.Condition()
        self._requests = 0

    @property
    def everything(self) -> tuple[Variant, ...]:
        """The variants, the shadow's among them."""
        return self.variants if self.shadow is None else (*self.variants, self.shadow.variant)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request from entry to exit. Enter it while the fleet is the endpoint's own."""
        with self._idle:
            self._requests += 1
        try:
            yield
        finally:
            with self._idle:
                self._requests -= 1
                self._idle.notify_all()

    def weigh(self, sizes: Mapping[str, Mapping[str, Any]]) -> None:
        """Gives variants other weights than their config's."""
        for variant in self.everything:
            variant.weight = float(sizes.get(variant.name, {}).get("DesiredWeight", variant.weight))

    def choose(self, target: str | None) -> Variant:
        """Returns the variant that answers: the wanted one, or one by weight.

        Raises:
            AwsError: `ValidationError`, there is no such variant.
        """
        if target is None:
            weights = [variant.weight for variant in self.variants]
            return random.choices(self.variants, weights if any(weights) else None)[0]
        for variant in self.variants:
            if variant.name == target:
                return variant
        raise AwsError("ValidationError", f"Production variant {target} does not exist.")

    def retire(self, drain_seconds: float, grace_seconds: float) -> None:
        """Ends the servers once their last request is answered, or the time for that is over."""
        with self._idle:
            self._idle.wait_for(lambda: self._requests == 0, drain_seconds)
        if self.shadow is not None:
            self.shadow.close()
        for variant in self.everything:
            variant.server.end(grace_seconds)


Routes = tuple[tuple[Fleet, float], ...]


class Traffic:
    """Which fleets answer an endpoint's requests, each with its share.

    Its lock is none of the endpoint's: that one writes a file as it is let go, and a request must not wait.
    """

    def __init__(self, routes: Routes = ()) -> None:
        self.routes = routes
        self._lock = threading.Lock()

    def turn(self, routes: Routes) -> Routes:
        """Sends the requests that come from now on elsewhere; returns where they went."""
        with self._lock:
            before, self.routes = self.routes, routes
        return before

    def choose(self) -> Fleet | None:
        """Returns the fleet for a request; None where nobody answers."""
        if len(self.routes) < 2:
            return self.routes[0][0] if self.routes else None
        return random.choices([fleet for fleet, _ in self.routes], [share for _, share in self.routes])[0]

    @contextlib.contextmanager
    def request(self) -> Iterator[Fleet | None]:
        """Chooses the fleet for a request, which it counts until the exit."""
        with contextlib.ExitStack() as stack:
            with self._lock:
                fleet = self.choose()
                if fleet is not None:
                    # Counted before the lock is given back: a turn cannot come between.
                    stack.enter_context(fleet.request())
            yield fleet


class Launcher:
    """Brings fleets up.

    Args:
        url: Address of the emulator.
        folder: Where the artefacts are extracted.
        models: Models by name.
        server_command: The model server, without `--model-dir` and `--port`.
        startup_seconds: Time for a server's first good ping.
        stop_grace_seconds: Time between TERM and KILL.
        cancelled: Set once the emulator stops.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        models: Models,
        server_command: Sequence[str],
        startup_seconds: float,
        stop_grace_seconds: float,
        cancelled: threading.Event,
    ) -> None:
        self._url = url
        self._folder = folder
        self._models = models
        self._command = tuple(server_command)
        self._startup = startup_seconds
        self._grace = stop_grace_seconds
        self._cancelled = cancelled

    def launch(
        self, region: str, endpoint: str, number: int, config: EndpointConfig
    ) -> tuple[Fleet | None, str | None]:
        """Starts the servers of a config.

        Args:
            region: Region of the endpoint.
            endpoint: Its name.
            number: Number of the deployment, for its folder.
            config: What to put to work.

        Returns:
            The fleet, or the reason for which there is none.
        """
        place = self.place(region, endpoint) / str(number)
        shutil.rmtree(place, ignore_errors=True)  # of an earlier run of the emulator
        started: list[Variant] = []
        try:
            for variant in (*config.variants, *config.shadows):
                source = Source(region, endpoint, variant["VariantName"], config.name)
                started.append(self._start(source, variant, place / source.variant))
            for each in started:
                self._wait_healthy(each)
            return _fleet(config, started), None
        except Exception as error:
            for each in started:
                each.server.end(self._grace)
            if isinstance(error, DeploymentError):
                return None, str(error)[:_REASON_LENGTH]
            log.exception("endpoint %s", endpoint)
            return None, f"InternalServerError: {type(error).__name__}: {error}"[:_REASON_LENGTH]

    def place(self, region: str, endpoint: str) -> Path:
        """Returns the folder of an endpoint; one folder in it for each deployment."""
        return self._folder / region / endpoint

    def remove(self, region: str, endpoint: str, *, before: int | None = None) -> None:
        """Removes an endpoint's artefacts, or those of the deployments before one."""
        place = self.place(region, endpoint)
        if before is None:
            shutil.rmtree(place, ignore_errors=True)
            return
        for folder in place.iterdir() if place.is_dir() else ():  # the endpoint may be gone by now
            if int(folder.name) < before:
                shutil.rmtree(folder, ignore_errors=True)

    def _start(self, source: Source, variant: dict[str, Any], place: Path) -> Variant:
        try:
            model = self._models.models.get(source.region, variant["ModelName"])
        except AwsError as error:
            raise DeploymentError(error.message) from error
        place.mkdir(parents=True)
        self._fetch(source.region, model, place)
        environment = model.container.get("Environment", {})
        server = ModelServer(self._command, place / "model", environment, place / "server.log")
        return Variant(source, float(variant.get("InitialVariantWeight", 1.0)), server)

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
            variant.server.wait_healthy(self._startup, self._cancelled)
        except UnhealthyServerError as error:
            raise DeploymentError(
                f"The primary container for production variant {variant.name} did not pass the ping health "
                f"check. Please check CloudWatch logs for this endpoint. {error}"
            ) from error


def _fleet(config: EndpointConfig, started: Sequence[Variant]) -> Fleet:
    variants = started[: len(config.variants)]
    shadow = Shadow(started[-1], variants[0]) if config.shadows else None
    return Fleet(variants, shadow, rule_of(config))

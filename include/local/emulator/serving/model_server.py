"""Model servers: processes that answer `/ping` and `/invocations`."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from include.local.emulator.machine.processes import ChildProcess, clean_environment

_PING_SECONDS = 30.0  # a first ping may warm the model up
_INVOKE_SECONDS = 60.0
_TAIL_BYTES = 600
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


class UnhealthyServerError(Exception):
    """A model server did not come up."""


@dataclass(frozen=True)
class Answer:
    """What a container said."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class ModelServer:
    """One model server on loopback.

    Args:
        command: The server without its `--model-dir` and `--port`.
        model_dir: The extracted artefact.
        environment: Variables of the container.
        log_path: Where its output goes.
    """

    def __init__(
        self, command: Sequence[str], model_dir: Path, environment: Mapping[str, str], log_path: Path
    ) -> None:
        self._log_path = log_path
        self._port = _free_port()
        env = clean_environment({**environment, "SAGEMAKER_BIND_TO_PORT": str(self._port)})
        with log_path.open("ab") as output:
            self._process = ChildProcess(
                [*command, "--model-dir", str(model_dir), "--port", str(self._port)],
                env=env,
                cwd=model_dir,
                output=output,
            )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def pid(self) -> int:
        """Id of its process group."""
        return self._process.pid

    def wait_healthy(self, seconds: float, cancelled: threading.Event) -> None:
        """Waits for the first good `/ping`.

        Raises:
            UnhealthyServerError: It ended, did not answer in time, or the wait was cancelled.
        """
        deadline = time.monotonic() + seconds
        while not self._pings():
            status = self._process.poll()
            if status is not None:
                raise UnhealthyServerError(f"the server ended with exit code {status}: {self._tail()}")
            if time.monotonic() > deadline:
                raise UnhealthyServerError(f"no answer to /ping in {seconds:g} s: {self._tail()}")
            if cancelled.wait(0.1):
                raise UnhealthyServerError("the emulator is stopping")

    def invoke(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Sends a request to the model.

        Raises:
            OSError: The server cannot be reached or does not answer in time.
            http.client.HTTPException: It does not speak HTTP.
        """
        return self._request("POST", "/invocations", body, headers, _INVOKE_SECONDS)

    def end(self, grace_seconds: float) -> None:
        """Ends its processes."""
        self._process.end(grace_seconds)

    def _pings(self) -> bool:
        try:
            return self._request("GET", "/ping", b"", {}, _PING_SECONDS).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], seconds: float
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))

    def _tail(self) -> str:
        return self._log_path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", errors="replace").strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

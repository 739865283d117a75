"""The model server as a process, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from include.local import model_server
from tests.local.cloud import alive, eventually


@contextlib.contextmanager
def serving(ml_python: Path, artefact: Path, **environment: str) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [ml_python, model_server.__file__, "--model-dir", str(artefact), "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | environment)
    try:
        eventually(lambda: process.poll() is not None or ping(port) == 200, 90)
        yield port
    finally:
        process.terminate()
        assert process.wait(20) is not None
    assert not alive(process.pid)


def ping(port: int) -> int:
    try:
        return send(port, "GET", "/ping", b"")[0]
    except OSError:
        return 0


def send(
    port: int,
    method: str,
    path: str,
    body: bytes,
    accept: str = "application/json",
    content_type: str = "application/json",
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": content_type, "Accept": accept}
    with contextlib.suppress(BrokenPipeError):  # it answers an over-long body before the end of it
        connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, answer


def ask(port: int, body: object) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = send(port, "POST", "/invocations", raw)
    return status, json.loads(answer)

"""What of moto is kept by doing it again: the requests that changed IAM, alarms, stacks and the like.

Each is a line of a file, with the seed of the chance from which moto draws its ids: done again at the next
start it gives the same ids. Times that moto takes from the clock are those of the restart.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import random
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from werkzeug.test import EnvironBuilder

from include.local.emulator.machine.persistence import append_line, write_whole
from include.local.emulator.moto.chance import seeded
from include.local.emulator.moto.log_streams import OPERATIONS as LOG_STREAMS
from include.local.emulator.wire.calls import signature

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
# Doing these again touches nothing outside, which for the others is not known.
_SERVICES = ("application-autoscaling", "cloudformation", "iam", "kms", "logs", "monitoring", "sns")
_NOT_KEPT = re.compile(
    r"(Describe|List|Get|Head|BatchGet|Filter|Search|Query|Scan|Simulate|Validate|Estimate|Test|Lookup"
    r"|StartQuery|StopQuery|Decode"
    r"|PutMetricData"  # too many, and soon old
    r"|Publish|CreateExportTask"  # acts on others
    r"|(Create|Update)LoginProfile|ChangePassword|ImportKeyMaterial"  # secrets
    r"|Encrypt|Decrypt|ReEncrypt|Generate|Sign|Verify)"
)
_SIGNATURE = re.compile(r"Signature=[0-9a-f]+")
_SECRET_HEADERS = ("HTTP_X_AMZ_SECURITY_TOKEN", "HTTP_COOKIE")
log = logging.getLogger(__name__)


class Journal:
    """The requests of one emulator that moto's state, but for S3, is made of.

    Args:
        path: The file.
        moto: Answers them.
        answered: Called when moto has changed and the file does not yet tell of it.
    """

    def __init__(self, path: Path, moto: Wsgi, answered: Callable[[], None]) -> None:
        self._path = path
        self._moto = moto
        self._answered = answered
        self._lock = threading.Lock()

    def replay(self) -> None:
        """Does again what the file tells of; lines that cannot be read are set aside."""
        if not self._path.exists():
            return
        good, bad = [], []
        lines = self._path.read_bytes().splitlines(keepends=True)
        for line in lines:
            try:
                entry = json.loads(line)
                if not is_kept(entry["environ"], base64.b64decode(entry["body"])):
                    continue  # an older version kept it
                self._repeat(entry)
                good.append(line)
            except Exception as error:
                log.error("%s: a line cannot be done again: %s: %s", self._path, type(error).__name__, error)
                bad.append(line)
        if bad:
            with self._path.with_name(f"{self._path.name}.corrupt").open("ab") as aside:
                aside.writelines(line.rstrip(b"\n") + b"\n" for line in bad)
        if good != lines:
            write_whole(self._path, b"".join(good))
        self._path.chmod(0o600)

    def answer(self, environ: Environ, start_response: Callable[..., Any], body: bytes) -> Iterable[bytes]:
        """Has moto answer a request that `is_kept`: it is in the file before its answer is told."""
        seed = random.getrandbits(64)
        entry = {
            "seed": seed,
            "environ": _kept_part(environ),
            "body": base64.b64encode(body).decode(),
        }
        told: list[Any] = []
        with self._lock:
            answer = self._seeded(seed, environ, lambda *started: told.extend(started))
            if told[0] < "300":
                self._answered()
                append_line(self._path, json.dumps(entry).encode())
        start_response(*told)
        return answer

    def _seeded(self, seed: int, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        with seeded(seed):
            return self._moto(environ, start_response)

    def _repeat(self, entry: dict[str, Any]) -> None:
        body = base64.b64decode(entry["body"])
        kept: dict[str, str] = entry["environ"]
        environ = EnvironBuilder().get_environ() | kept
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        told: list[str] = []
        answer = b"".join(self._seeded(entry["seed"], environ, lambda status, *_: told.append(status)))
        if told[0] >= "300":
            raise ValueError(f"{told[0]} {answer[:300].decode(errors='replace')}")


def _kept_part(environ: Environ) -> dict[str, str]:
    names = ("REQUEST_METHOD", "PATH_INFO", "RAW_URI", "REQUEST_URI", "QUERY_STRING", "CONTENT_TYPE")
    kept = {
        name: value
        for name, value in environ.items()
        if isinstance(value, str) and (name in names or name.startswith("HTTP_"))
        if name not in _SECRET_HEADERS
    }
    if authorization := kept.get("HTTP_AUTHORIZATION"):
        kept["HTTP_AUTHORIZATION"] = _SIGNATURE.sub("Signature=0", authorization)
    return kept


def is_kept(environ: Environ, body: bytes) -> bool:
    """Tells whether a request of another service than S3 changes what is to outlive the emulator."""
    service = signature(environ).service
    if service not in _SERVICES or environ["PATH_INFO"].startswith("/moto-api"):
        return False
    name = operation_name(environ, body)
    if name is None:
        return environ["REQUEST_METHOD"] not in ("GET", "HEAD", "OPTIONS")
    return not _NOT_KEPT.match(name) and not (service == "logs" and name in LOG_STREAMS)


def operation_name(environ: Environ, body: bytes) -> str | None:
    """Returns the name of the operation where the protocol says it: by header, path or form."""
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return str(target).rpartition(".")[2]
    if match := re.search(r"/operation/(\w+)$", environ["PATH_INFO"]):
        return match[1]
    form = body.decode(errors="replace") if "form-urlencoded" in environ.get("CONTENT_TYPE", "") else ""
    action = parse_qs(environ.get("QUERY_STRING", "") or "").get("Action") or parse_qs(form).get("Action")
    return action[0] if action else None

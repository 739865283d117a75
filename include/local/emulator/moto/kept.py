"""moto with a memory: what its services hold is on disk before a client is told that it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from include.local.emulator.moto.buckets import Buckets
from include.local.emulator.moto.journal import Journal, is_kept, operation_name
from include.local.emulator.moto.log_streams import DELETE_GROUP, OPERATIONS, LogStreams
from include.local.emulator.wire.calls import peek, s3_target, signature

_READS = ("GET", "HEAD", "OPTIONS")
Environ = dict[str, Any]


class KeptMoto:
    """The WSGI application of moto's services.

    S3 and log lines are written through; the other services' changes are few and small, and are done again
    at a start.

    Args:
        folder: Where `s3/`, `logs/` and `journal.jsonl` lie.
    """

    def __init__(self, folder: Path) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._buckets = Buckets(folder / "s3")
        self._streams = LogStreams(folder / "logs")
        # A stack may make a bucket: it is on disk before the stack is, or it would pass for deleted since.
        self._journal = Journal(folder / "journal.jsonl", self._moto, self._buckets.settings_written)

    def load(self) -> None:
        """Makes moto, which must be empty, what it was when an emulator last ended."""
        self._journal.replay()
        self._streams.load()
        # Then S3: a stack that was made again has made its buckets, and their settings may be others by now.
        self._buckets.load()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answers a request."""
        service = signature(environ).service
        if service == "s3" or not (service or "HTTP_X_AMZ_TARGET" in environ):
            return self._s3(environ, start_response)
        body = peek(environ)
        if service == "logs" and (name := operation_name(environ, body)) in (*OPERATIONS, DELETE_GROUP):
            return self._logs(environ, start_response, str(name), body)
        if not is_kept(environ, body):
            return self._answer(environ, start_response)
        return self._journal.answer(environ, start_response, body)

    def _logs(
        self, environ: Environ, start_response: Callable[..., Any], name: str, body: bytes
    ) -> Iterable[bytes]:
        told: list[Any] = []
        if is_kept(environ, body):
            answer = self._journal.answer(environ, lambda *started: told.extend(started), body)
        else:
            answer = self._answer(environ, lambda *started: told.extend(started))
        if told[0] < "300":
            self._streams.written(signature(environ).region, name, json.loads(body))
        start_response(*told)
        return answer

    def _s3(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        reads = environ["REQUEST_METHOD"] in _READS
        if not reads:
            peek(environ)  # all of it, before others have to wait for this request
        told: list[Any] = []
        with self._buckets.held(_keys(environ)):
            answer = self._answer(environ, lambda *started: told.extend(started))
            if not reads and told[0] < "300":
                self._write(environ)
        start_response(*told)
        return answer

    def _write(self, environ: Environ) -> None:
        bucket, key = s3_target(environ)
        if key:
            self._buckets.written(bucket, key)
        else:
            self._buckets.settings_written()
            if environ["REQUEST_METHOD"] == "POST":  # DeleteObjects names its keys in the body, as forms do
                self._buckets.bucket_written(bucket)

    def _answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer


def _keys(environ: Environ) -> list[tuple[str, str]]:
    """Returns the keys that an S3 request names: its own, and the one that it copies."""
    source = unquote(environ.get("HTTP_X_AMZ_COPY_SOURCE", "").split("?", 1)[0]).removeprefix("/")
    return [
        named for named in (s3_target(environ), tuple(source.split("/", 1))) if len(named) == 2 and named[1]
    ]

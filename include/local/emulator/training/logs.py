"""The lines of a training job: to its log file, to CloudWatch Logs, to its metrics."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from re import Pattern
from typing import IO, Any

from botocore.exceptions import ClientError

from include.local.emulator.resources.store import now
from include.local.emulator.training.container import HOST, read_metrics

GROUP = "/aws/sagemaker/TrainingJobs"
_TAIL_LINES = 30
_LINE_LIMIT = 65_536
_BATCH_BYTES = 900_000  # PutLogEvents takes 1 MiB
_BATCH_EVENTS = 10_000


class JobLog:
    """Follows a job's output on a thread of its own.

    Args:
        client: boto3 client of CloudWatch Logs.
        job: Job name, the start of the stream's name.
        path: The log file.
        patterns: Metric definitions.
        metrics: Receives what the lines tell of them.
    """

    def __init__(
        self,
        client: Any,
        job: str,
        path: Path,
        patterns: Mapping[str, Pattern[str]],
        metrics: dict[str, tuple[float, datetime]],
    ) -> None:
        self._client = client
        self._stream = f"{job}/{HOST}-{int(time.time())}"
        self._path = path
        self._patterns = patterns
        self._pending: deque[dict[str, Any]] = deque()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._thread: threading.Thread | None = None
        self._metrics = metrics

    def follow(self, output: IO[bytes]) -> None:
        """Starts to read the output."""
        with _unless_there():
            self._client.create_log_group(logGroupName=GROUP)
        # The second of two instances within a second goes on in the stream of the first.
        with _unless_there():
            self._client.create_log_stream(logGroupName=GROUP, logStreamName=self._stream)
        self._thread = threading.Thread(target=self._read, args=(output,), daemon=True)
        self._thread.start()

    def flush(self) -> None:
        """Sends what has come in since the last time."""
        while self._pending:
            batch: list[dict[str, Any]] = []
            size = 0
            while self._pending and size < _BATCH_BYTES and len(batch) < _BATCH_EVENTS:
                batch.append(self._pending.popleft())
                size += len(batch[-1]["message"].encode()) + 26
            self._client.put_log_events(logGroupName=GROUP, logStreamName=self._stream, logEvents=batch)

    def finish(self, seconds: float = 10.0) -> None:
        """Waits for the end of the output and sends the rest."""
        if self._thread is not None:
            self._thread.join(seconds)
        self.flush()

    def tail(self, characters: int) -> str:
        """Returns the last lines, at most so many characters."""
        return "\n".join(self._tail)[-characters:]

    def _read(self, output: IO[bytes]) -> None:
        # Progress bars rewrite their line with a carriage return: universal newlines make each a line.
        text = io.TextIOWrapper(output, encoding="utf-8", errors="replace")
        with text, self._path.open("a", encoding="utf-8") as file:
            while raw := text.readline(_LINE_LIMIT):
                line = raw.rstrip("\n")
                file.write(line + "\n")
                file.flush()
                if not line.strip():
                    continue
                self._tail.append(line)
                for name, value in read_metrics(self._patterns, line).items():
                    self._metrics[name] = (value, now())
                self._pending.append({"timestamp": int(time.time() * 1000), "message": line})


@contextlib.contextmanager
def _unless_there() -> Iterator[None]:
    """Passes over what is there already, by its code: error classes of a client are not safe for threads."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
            raise


def remove_streams(client: Any, job: str) -> None:
    """Removes the streams of a job.

    Args:
        client: boto3 client of CloudWatch Logs.
        job: Job name.
    """
    pages = client.get_paginator("describe_log_streams").paginate(
        logGroupName=GROUP, logStreamNamePrefix=f"{job}/"
    )
    with contextlib.suppress(client.exceptions.ResourceNotFoundException):  # no job has logged so far
        for stream in [stream for page in pages for stream in page["logStreams"]]:
            client.delete_log_stream(logGroupName=GROUP, logStreamName=stream["logStreamName"])

"""The lines of CloudWatch Logs: a file for each stream, which grows by what is put and goes with it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.logs.models import logs_backends

from include.local.emulator.machine.persistence import append_line

DELETE_GROUP = "DeleteLogGroup"
OPERATIONS = ("CreateLogStream", "PutLogEvents", "DeleteLogStream")


class LogStreams:
    """The streams of every log group.

    Args:
        folder: Holds `<region>/<group>/<stream>.jsonl`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def load(self) -> None:
        """Gives moto's log groups their streams; those of a group that is gone go, too."""
        for place in sorted(self._folder.glob("*/*/")):
            groups = logs_backends[DEFAULT_ACCOUNT_ID][place.parent.name].groups
            group = groups.get(unquote(place.name))
            if group is None:
                shutil.rmtree(place)
                continue
            for path in sorted(place.glob("*.jsonl")):
                group.create_log_stream(stream := unquote(path.stem))
                for events in _read(path):
                    # Past the request, which refuses lines that are two weeks old by now.
                    group.put_log_events(stream, events)

    def written(self, region: str, operation: str, request: dict[str, Any]) -> None:
        """Brings the files to what moto has, after a request and before its answer is told."""
        place = self._folder / region / quote(request["logGroupName"], safe="")
        with self._lock:
            if operation == DELETE_GROUP:
                shutil.rmtree(place, ignore_errors=True)
                return
            path = place / f"{quote(request['logStreamName'], safe='')}.jsonl"
            if operation == "DeleteLogStream":
                path.unlink(missing_ok=True)
            else:
                append_line(path, json.dumps(request.get("logEvents", [])).encode())


def _read(path: Path) -> list[list[dict[str, Any]]]:
    """Returns what was put, without a last line that is not whole."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return [json.loads(line) for line in content[:whole].splitlines()]

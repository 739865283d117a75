"""A key of moto's S3 as JSON: what moto's classes look like in its next version is no matter to the file."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from moto.s3.models import FakeAcl, FakeDeleteMarker, FakeGrant, FakeGrantee, FakeKey, FakeMultipart
from moto.utilities.utils import LowercaseDict

from include.local.emulator.machine.persistence import from_json, to_json

_SIMPLE = (str, int, float, bool, datetime, type(None))


class FileValue:
    """What moto reads an object's bytes from: part of a file, open only while it is read.

    Each thread that reads has a place of its own.

    Args:
        path: The file.
        start: First byte.
        size: Number of bytes.
    """

    def __init__(self, path: Path, start: int, size: int) -> None:
        self.path = path
        self.start = start
        self.size = size
        self._own = threading.local()

    def seek(self, at: int) -> None:
        """Moves to a byte."""
        self._own.at = at

    def read(self, count: int = -1) -> bytes:
        """Returns so many bytes, or all that are left."""
        at = getattr(self._own, "at", 0)
        left = self.size - at
        count = left if count < 0 else min(count, left)
        with self.path.open("rb") as file:
            file.seek(self.start + at)
            content = file.read(count)
        self._own.at = at + len(content)
        return content

    def close(self) -> None:
        """Leaves the file: it goes when its key no longer speaks of it."""


def dumps(name: str, versions: list[Any], tags: dict[str, dict[str, str | None]]) -> bytes:
    """Returns the record of a key: its versions and delete markers, and the tags of each."""
    return json.dumps(
        {"name": name, "versions": [_version(each) for each in versions], "tags": tags}
    ).encode()


def loads(content: bytes, data: Path) -> tuple[str, list[Any], dict[str, dict[str, str | None]]]:
    """Returns what `dumps` was given.

    Args:
        content: The record.
        data: Folder of the bytes.
    """
    record = json.loads(content)
    return record["name"], [_from_version(each, data) for each in record["versions"]], record["tags"]


def _version(version: FakeKey | FakeDeleteMarker) -> dict[str, Any]:
    if isinstance(version, FakeDeleteMarker):
        return {"marker": _simple(version), "key": _key(version.key)}
    return _key(version)


def _from_version(record: dict[str, Any], data: Path) -> FakeKey | FakeDeleteMarker:
    if "marker" not in record:
        return _from_key(record, data)
    marker = FakeDeleteMarker(_from_key(record["key"], data))
    vars(marker).update(_from_simple(record["marker"]))
    return marker


def _key(key: FakeKey) -> dict[str, Any]:
    value, parts = key._value_buffer, key.multipart
    grants = key.acl.grants if key.acl is not None else []
    return {
        "state": _simple(key),
        "metadata": to_json(dict(key._metadata)),
        "acl": [
            [[[g.id, g.uri, g.display_name] for g in each.grantees], each.permissions] for each in grants
        ],
        # Not of a deleted key that a marker still names.
        "bytes": [value.path.name, value.start, value.size] if isinstance(value, FileValue) else None,
        "upload": parts and [parts.id, [[number, _key(parts.parts[number])] for number in parts.partlist]],
    }


def _from_key(record: dict[str, Any], data: Path) -> FakeKey:
    key = FakeKey("", b"", "", "us-east-1")
    vars(key).update(_from_simple(record["state"]))
    key._metadata = LowercaseDict(record["metadata"])
    key.acl = FakeAcl([FakeGrant([FakeGrantee(*g) for g in who], what) for who, what in record["acl"]])
    if record["bytes"] is not None:
        name, start, size = record["bytes"]
        key._value_buffer = FileValue(data / name, start, size)  # type: ignore[assignment]
    if record["upload"]:
        upload, parts = record["upload"]
        key.multipart = FakeMultipart(key.name, {}, key.account_id, key.region_name)  # type: ignore[arg-type]
        key.multipart.id = upload
        key.multipart.parts = {number: _from_key(part, data) for number, part in parts}
        key.multipart.partlist = [number for number, _ in parts]
    return key


def _simple(item: object) -> dict[str, Any]:
    return {name: to_json(value) for name, value in vars(item).items() if isinstance(value, _SIMPLE)}


def _from_simple(state: dict[str, Any]) -> dict[str, Any]:
    return {name: from_json(value, lambda *_: None) for name, value in state.items()}

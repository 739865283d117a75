"""Proof that a snapshot is whole: every file is listed in its manifest, and is what the manifest says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_HASH_BLOCK = 1 << 20


class SnapshotError(Exception):
    """The snapshot cannot be trained on as it is; the message says what is wrong with it."""


def verify(root: Path) -> dict[str, Any]:
    """Checks the files under `root` against its manifest and returns the manifest.

    Raises:
        SnapshotError: The manifest is missing or unreadable, or a file is missing, altered or not listed.
    """
    manifest = _read_manifest(root)
    listed: set[Path] = set()
    for entry in manifest["files"]:
        path = root / str(entry["path"])
        if not path.resolve().is_relative_to(root.resolve()):
            raise SnapshotError(f"manifest lists a path outside of the snapshot: {entry['path']!r}")
        if not path.is_file():
            raise SnapshotError(f"file listed in the manifest is missing: {entry['path']}")
        if _sha256(path) != entry["sha256"]:
            raise SnapshotError(f"file differs from the manifest's sha256: {entry['path']}")
        listed.add(path.resolve())
    listed.add((root / MANIFEST).resolve())
    stray = sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.resolve() not in listed
    )
    if stray:
        raise SnapshotError(f"{len(stray)} file(s) not listed in the manifest, first: {stray[0]}")
    return manifest


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        raise SnapshotError(f"no {MANIFEST} under {root}: the snapshot was not finished")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SnapshotError(f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise SnapshotError(f"{MANIFEST} does not have schema_version {SCHEMA_VERSION}")
    files = manifest.get("files")
    if not isinstance(files, list) or not all(
        isinstance(entry, dict) and {"path", "sha256"} <= set(entry) for entry in files
    ):
        raise SnapshotError(f"{MANIFEST} has no list of files with path and sha256")
    return manifest


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()

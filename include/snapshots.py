"""Snapshots on S3: their names, their manifest, and whether they are whole.

A folder without a manifest does not exist: the manifest is written last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import ClientError
from pydantic import Field, ValidationError

from include.contracts import Contract, SettingsError, Snapshot

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_SNAPSHOT_URI = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[A-Za-z0-9_][A-Za-z0-9._=-]*/)*snap-[0-9a-f]{16}/)"
)
_READ_BYTES = 1 << 20
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_DBT_SOURCES = ("*.sql", "*.yml")
_DBT_FOLDERS = ("models", "macros")


class Interval(Contract):
    """Half-open range of days (UTC, ISO): `start` is in, `end` is out."""

    start: str
    end: str


class Split(Contract):
    """Moments (UTC, ISO) at which validation and test begin."""

    validation_start: str
    test_start: str


class ManifestFile(Contract):
    """One parquet file; `path` is relative to the snapshot."""

    path: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class Manifest(Contract):
    """What a snapshot holds and what it was made from.

    Attributes:
        counts: Sessions of `train`, `validation`, `test`, products in `catalog`, and
            `dropped_straddling` sessions.
        high_water_mark: Function of the content of every selected session and product.
        profile: Small description of the data.
    """

    schema_version: Literal[1] = 1
    snapshot_id: str
    tenant: str
    interval: Interval
    split: Split
    counts: dict[str, int]
    files: tuple[ManifestFile, ...]
    sql_sha256: str
    dbt_manifest_sha256: str
    high_water_mark: str
    profile: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Returns the manifest as canonical JSON: the same manifest, the same bytes."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, ensure_ascii=True)
        return text.encode() + b"\n"

    def claim(self, uri: str) -> Snapshot:
        """Returns the claim check of this snapshot."""
        return Snapshot(
            snapshot_id=self.snapshot_id,
            uri=uri,
            manifest_sha256=hashlib.sha256(self.to_bytes()).hexdigest(),
            train_sessions=self.counts["train"],
            validation_sessions=self.counts["validation"],
            test_sessions=self.counts["test"],
            products=self.counts["catalog"],
            start_date=self.interval.start,
            end_date=self.interval.end,
        )


def snapshot_id(identity: Mapping[str, object]) -> str:
    """Returns `snap-` and 16 hex digits, a function of everything that the data depends on.

    Args:
        identity: JSON-ready: tenant, high-water mark, interval, length, split, sampling, SQL, dbt.
    """
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "snap-" + hashlib.sha256(canonical.encode()).hexdigest()[:16]


def snapshot_uri(bucket: str, prefix: str, name: str) -> str:
    """Returns the folder of a snapshot.

    Raises:
        SettingsError: Bucket or prefix hold something that does not belong into an S3 path.
    """
    folder = "/".join(part for part in (prefix.strip("/"), "snapshots", name) if part)
    uri = f"s3://{bucket}/{folder}/"
    _split(uri)
    return uri


def dbt_sha256(project: Path) -> str:
    """Returns the digest of a dbt project's models and macros.

    dbt's own manifest holds times and ids of the run that wrote it, so that it never hashes the same twice.
    """
    digest = hashlib.sha256()
    paths = [project / "dbt_project.yml"]
    for folder in _DBT_FOLDERS:
        for pattern in _DBT_SOURCES:
            paths += (project / folder).rglob(pattern)
    for path in sorted(paths):
        content = path.read_bytes()
        name = path.relative_to(project).as_posix().encode()
        digest.update(f"{len(name)}:{len(content)}:".encode() + name + content)
    return digest.hexdigest()


def _split(uri: str) -> tuple[str, str]:
    match = _SNAPSHOT_URI.fullmatch(uri)
    if match is None:
        raise SettingsError(
            f"{uri!r} is no snapshot folder: bucket and prefix are plain letters, digits, dots and dashes."
        )
    return match[1], match[2]


def read_manifest(client: Any, uri: str) -> Manifest | None:
    """Returns the manifest of a snapshot, or None where there is none that can be read.

    Args:
        client: boto3 S3 client.
        uri: Folder of the snapshot.
    """
    bucket, prefix = _split(uri)
    try:
        body = client.get_object(Bucket=bucket, Key=prefix + MANIFEST)["Body"].read()
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _ABSENT:
            return None
        raise
    try:
        return Manifest.model_validate_json(body)
    except ValidationError:
        return None


def problems(client: Any, uri: str, manifest: Manifest, *, deep: bool = False) -> list[str]:
    """Compares what lies in a snapshot's folder with its manifest.

    Args:
        client: boto3 S3 client.
        uri: Folder of the snapshot.
        manifest: What ought to be there.
        deep: Read every file and compare its digest too.

    Returns:
        One sentence for each missing, changed or stray file; empty for a whole snapshot.
    """
    found = {path: size for path, size in list_files(client, uri).items() if path != MANIFEST}
    wanted = {file.path: file for file in manifest.files}
    result = [f"{path} is missing" for path in sorted(wanted.keys() - found.keys())]
    result += [f"{path} does not belong here" for path in sorted(found.keys() - wanted.keys())]
    for path in sorted(wanted.keys() & found.keys()):
        file = wanted[path]
        if found[path] != file.bytes or (deep and _sha256(client, uri, path) != file.sha256):
            result.append(f"{path} has changed")
    return result


def list_files(client: Any, uri: str) -> dict[str, int]:
    """Returns the relative path and size in bytes of every object in a snapshot's folder."""
    bucket, prefix = _split(uri)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {
        entry["Key"].removeprefix(prefix): int(entry["Size"])
        for page in pages
        for entry in page.get("Contents", [])
    }


def remove_leftovers(client: Any, uri: str) -> int:
    """Empties the folder of a snapshot that was never finished, its manifest first.

    Returns:
        Number of objects removed.
    """
    bucket, prefix = _split(uri)
    names = sorted(list_files(client, uri), key=lambda name: (name != MANIFEST, name))
    for name in names:
        client.delete_object(Bucket=bucket, Key=prefix + name)
    return len(names)


def describe_files(client: Any, uri: str, rows: Mapping[str, int]) -> tuple[ManifestFile, ...]:
    """Reads the files of a snapshot once, in bounded memory, and returns their digests.

    Args:
        client: boto3 S3 client.
        uri: Folder of the snapshot.
        rows: Relative path to number of rows of every file that was written.

    Raises:
        OSError: What lies in the folder is not what was written; a retry writes it anew.
    """
    sizes = list_files(client, uri)
    if sizes.keys() != rows.keys():
        strange = sorted(sizes.keys() ^ rows.keys())
        raise OSError(f"{uri} does not hold what was written: look at {', '.join(strange[:5])}.")
    return tuple(
        ManifestFile(path=path, rows=rows[path], bytes=size, sha256=_sha256(client, uri, path))
        for path, size in sorted(sizes.items())
    )


def write_manifest(client: Any, uri: str, manifest: Manifest) -> None:
    """Writes the manifest, after which the snapshot exists."""
    bucket, prefix = _split(uri)
    client.put_object(
        Bucket=bucket, Key=prefix + MANIFEST, Body=manifest.to_bytes(), ContentType="application/json"
    )


def _sha256(client: Any, uri: str, path: str) -> str:
    bucket, prefix = _split(uri)
    chunks: Iterable[bytes] = client.get_object(Bucket=bucket, Key=prefix + path)["Body"].iter_chunks(
        _READ_BYTES
    )
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()

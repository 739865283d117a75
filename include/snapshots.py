"""Snapshots on S3: their names, their manifest, and whether they are whole.

A folder without a manifest does not exist: the manifest is written last. Two exports of the same content
may run at once: the first manifest stands, and the second export uses it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import ClientError
from pydantic import Field, ValidationError

from include.contracts import BadInputError, Contract, SettingsError, Snapshot

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_SNAPSHOT_URI = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[A-Za-z0-9_][A-Za-z0-9._=-]*/)*snap-[0-9a-f]{16}/)"
)
_READ_BYTES = 1 << 20
_TAKEN = {"412", "PreconditionFailed"}
_CONFLICT = {"409", "ConditionalRequestConflict"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}
SNAPSHOT_ID = r"snap-[0-9a-f]{16}"
_READERS = 8  # manifests read at a time
_DBT_SOURCES = ("*.sql", "*.yml")
_DBT_FOLDERS = ("models", "macros")
_ADDED_LATER = {"min_session_length", "max_sessions"}  # manifests of before lack these fields


class Interval(Contract):
    """Half-open range of days (UTC, ISO): `start` is in, `end` is out."""

    start: str
    end: str

    @property
    def days(self) -> int:
        """Length of the range."""
        return (date.fromisoformat(self.end) - date.fromisoformat(self.start)).days


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
        min_session_length: Steps that a session needed; None in an older manifest, which does not say.
        max_sessions: Only the latest N sessions of the interval were taken; None for all.
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
    min_session_length: int | None = None
    max_sessions: int | None = None

    def to_bytes(self) -> bytes:
        """Returns the manifest as canonical JSON: the same manifest, the same bytes, an older one's too."""
        fields = self.model_dump(mode="json", exclude=_ADDED_LATER - self.model_fields_set)
        return json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=True).encode() + b"\n"

    def sha256(self) -> str:
        """Returns the hex digest of the manifest, as a claim check carries it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def is_like(self, other: Manifest) -> bool:
        """Tells whether two snapshots hold what the same choices select, on other days.

        One whose manifest does not say what was chosen is like no other.
        """
        chosen, others = (
            (made.tenant, made.min_session_length, made.max_sessions, made.interval.days)
            for made in (self, other)
        )
        return chosen == others and self.min_session_length is not None

    def claim(self, uri: str) -> Snapshot:
        """Returns the claim check of this snapshot."""
        return Snapshot(
            snapshot_id=self.snapshot_id,
            uri=uri,
            manifest_sha256=self.sha256(),
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
    wanted = {file.path for file in manifest.files}
    strays = list_files(client, uri).keys() - {*wanted, MANIFEST}
    result = faults_of(client, uri, manifest, deep=deep)
    return result + [f"{path} does not belong here" for path in sorted(strays)]


def faults_of(client: Any, uri: str, manifest: Manifest, *, deep: bool = False) -> list[str]:
    """Compares the files that the manifest lists with what lies there.

    Returns:
        One sentence for each missing or changed file.
    """
    found = list_files(client, uri)
    result = []
    for file in sorted(manifest.files, key=lambda file: file.path):
        if file.path not in found:
            result.append(f"{file.path} is missing")
        elif found[file.path] != file.bytes or (deep and _sha256(client, uri, file.path) != file.sha256):
            result.append(f"{file.path} has changed")
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


def remove_strays(client: Any, uri: str, wanted: Collection[str]) -> int:
    """Removes what other exports of the same content, killed or overtaken, left in a snapshot's folder.

    Args:
        client: boto3 S3 client.
        uri: Folder of the snapshot.
        wanted: Relative paths that stay, besides the manifest.

    Returns:
        Number of objects removed.
    """
    bucket, prefix = _split(uri)
    strays = list_files(client, uri).keys() - {*wanted, MANIFEST}
    for name in sorted(strays):
        client.delete_object(Bucket=bucket, Key=prefix + name)
    return len(strays)


def describe_files(client: Any, uri: str, rows: Mapping[str, int]) -> tuple[ManifestFile, ...]:
    """Reads the files of a snapshot once, in bounded memory, and returns their digests.

    Args:
        client: boto3 S3 client.
        uri: Folder of the snapshot.
        rows: Relative path to number of rows of every file that was written.

    Raises:
        OSError: A file that was written is gone; a retry writes it anew.
    """
    sizes = list_files(client, uri)
    if gone := sorted(rows.keys() - sizes.keys()):
        raise OSError(f"{uri} does not hold what was written: look at {', '.join(gone[:5])}.")
    return tuple(
        ManifestFile(path=path, rows=rows[path], bytes=sizes[path], sha256=_sha256(client, uri, path))
        for path in sorted(rows)
    )


def publish(client: Any, uri: str, manifest: Manifest) -> Manifest:
    """Writes the manifest, after which the snapshot exists, unless another export was first.

    Returns:
        The manifest that stands: this one, or that of the other export.

    Raises:
        OSError: Another export writes its manifest at this very moment; a retry finds it.
    """
    bucket, prefix = _split(uri)
    request = {
        "Bucket": bucket,
        "Key": prefix + MANIFEST,
        "Body": manifest.to_bytes(),
        "ContentType": "application/json",
    }
    try:
        client.put_object(**request, IfNoneMatch="*")
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        if code in _CONFLICT:
            raise OSError(f"Another export is writing the manifest of {uri} at this moment.") from error
        if code not in _TAKEN:
            raise
        first = read_manifest(client, uri)
        if first is not None and not faults_of(client, uri, first, deep=True):
            return first
        # Damaged, or its files were replaced by ours.
        client.put_object(**request)
    return manifest


def open_snapshot(client: Any, uri: str, tenant: str, *, deep: bool) -> Manifest:
    """Returns the manifest of a snapshot that a person named.

    Args:
        client: boto3 S3 client.
        uri: Folder of the snapshot.
        tenant: Whose snapshot it must be.
        deep: Read every file and compare its digest too.

    Raises:
        BadInputError: It is not there, is another tenant's, or is damaged.
    """
    manifest = read_manifest(client, uri)
    if manifest is None:
        raise BadInputError(f"There is no snapshot at {uri}: choose one that include.client lists.")
    if manifest.tenant != tenant:
        raise BadInputError(
            f"{manifest.snapshot_id} is of tenant {manifest.tenant!r}, and the run is about {tenant!r}: "
            "choose another snapshot or tenant."
        )
    if faults := problems(client, uri, manifest, deep=deep):
        raise BadInputError(
            f"{manifest.snapshot_id} is damaged ({'; '.join(faults[:5])}): leave reuse_snapshot empty, so "
            "that it is exported anew."
        )
    return manifest


def list_snapshots(client: Any, bucket: str, prefix: str) -> list[tuple[str, Manifest]]:
    """Returns URI and manifest of every snapshot, those that end first first; ties by id."""
    root = "/".join(part for part in (prefix.strip("/"), "snapshots/") if part)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root, Delimiter="/")
    uris = [
        uri
        for page in pages
        for entry in page.get("CommonPrefixes", [])
        if _SNAPSHOT_URI.fullmatch(uri := f"s3://{bucket}/{entry['Prefix']}")
    ]
    with ThreadPoolExecutor(_READERS) as pool:
        manifests = pool.map(lambda uri: read_manifest(client, uri), uris)
        found = [(uri, manifest) for uri, manifest in zip(uris, manifests, strict=True) if manifest]
    return sorted(found, key=lambda pair: (pair[1].interval.end, pair[1].snapshot_id))


def previous_of(manifest: Manifest, every: Iterable[tuple[str, Manifest]]) -> Manifest | None:
    """Returns the snapshot of like choices that ends latest before this one's end; ties by id.

    A trial on few sessions, or on another length of days, would look like a shift of the data.
    """
    earlier = [
        other for _, other in every if other.interval.end < manifest.interval.end and manifest.is_like(other)
    ]
    return max(earlier, key=lambda other: (other.interval.end, other.snapshot_id), default=None)


def _sha256(client: Any, uri: str, path: str) -> str:
    bucket, prefix = _split(uri)
    chunks: Iterable[bytes] = client.get_object(Bucket=bucket, Key=prefix + path)["Body"].iter_chunks(
        _READ_BYTES
    )
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()

"""Which snapshots may go, and taking them away: the manifest first, for what has none does not exist."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from include.contracts import Snapshot
from include.runs import list_runs, read_record
from include.sagemaker.storage import delete_objects
from include.snapshots import MANIFEST, SNAPSHOT_ID, list_files, list_snapshots

# An export may still be at work on what is younger, and a run may be about to train on it.
YOUNG = timedelta(days=1)
_PART = re.compile(rf"({SNAPSHOT_ID})/(.+)")
_DRIFT = re.compile(rf"({SNAPSHOT_ID})/({SNAPSHOT_ID})\.json")


@dataclass(frozen=True)
class Folder:
    """A snapshot's folder.

    Attributes:
        tenant: Whose it is; None where it has no manifest that can be read.
        end: The day after its last; empty as above.
        changed: When its last object was written.
        has_manifest: Whether there is a manifest, readable or not.
    """

    snapshot_id: str
    tenant: str | None
    end: str
    changed: datetime
    has_manifest: bool


def surplus_snapshots(
    folders: Iterable[Folder],
    keep: int,
    now: datetime,
    in_use: Collection[str],
    previous: Mapping[str, Collection[str]],
) -> list[str]:
    """Returns the snapshots that may go.

    Kept are the newest of each tenant, what was written in the last day, what is in use, and what a kept one
    is compared with. A folder without a manifest is no snapshot and goes; one whose manifest cannot be read
    may be of another release, and stays.

    Args:
        folders: All there are.
        keep: How many of a tenant.
        now: The time.
        in_use: Snapshots that something needs.
        previous: Snapshot to those that its drift names.
    """
    every = list(folders)
    by_tenant: dict[str, list[Folder]] = defaultdict(list)
    for folder in every:
        if folder.tenant is not None:
            by_tenant[folder.tenant].append(folder)
    kept = set(in_use)
    for found in by_tenant.values():
        newest = sorted(found, key=lambda folder: (folder.end, folder.changed), reverse=True)
        kept |= {folder.snapshot_id for folder in newest[:keep]}
    kept |= {folder.snapshot_id for folder in every if now - folder.changed < YOUNG}
    kept |= {folder.snapshot_id for folder in every if folder.has_manifest and folder.tenant is None}
    kept |= {name for one in kept for name in previous.get(one, ())}
    return sorted(folder.snapshot_id for folder in every if folder.snapshot_id not in kept)


def find_folders(client: Any, bucket: str, prefix: str) -> list[Folder]:
    """Returns every snapshot's folder, those that an unfinished export or removal left, too."""
    changed: dict[str, datetime] = {}
    manifests: set[str] = set()
    for name, moment in _objects(client, bucket, _key(prefix, "snapshots/")):
        if part := _PART.fullmatch(name):
            changed[part[1]] = max(changed.get(part[1], moment), moment)
            if part[2] == MANIFEST:
                manifests.add(part[1])
    known = {manifest.snapshot_id: manifest for _, manifest in list_snapshots(client, bucket, prefix)}
    return [
        Folder(
            snapshot_id=name,
            tenant=known[name].tenant if name in known else None,
            end=known[name].interval.end if name in known else "",
            changed=moment,
            has_manifest=name in manifests,
        )
        for name, moment in changed.items()
    ]


def compared_with(client: Any, bucket: str, prefix: str) -> dict[str, set[str]]:
    """Returns, for each snapshot, those that it was compared with."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, _ in _objects(client, bucket, _key(prefix, "drift/")):
        if part := _DRIFT.fullmatch(name):
            found[part[1]].add(part[2])
    return found


def used_by_runs(client: Any, bucket: str, prefix: str, since: datetime) -> set[str]:
    """Returns the snapshots of the runs that left a record since then: a run may use an old one again."""
    found = set()
    for run_id, moment in list_runs(client, bucket, prefix).items():
        if moment >= since and (snapshot := read_record(client, bucket, prefix, run_id, Snapshot)):
            found.add(snapshot.snapshot_id)
    return found


def delete_snapshot(client: Any, uri: str) -> int:
    """Removes a snapshot; killed half way, what is left has no manifest and goes the next time.

    Args:
        client: boto3 S3 client.
        uri: Folder of the snapshot.

    Returns:
        Number of objects removed.
    """
    bucket, _, folder = uri.removeprefix("s3://").partition("/")
    names = sorted(list_files(client, uri), key=lambda name: name != MANIFEST)
    if MANIFEST in names:
        client.delete_object(Bucket=bucket, Key=folder + MANIFEST)
    delete_objects(client, bucket, [folder + name for name in names])
    return len(names)


def _objects(client: Any, bucket: str, root: str) -> Iterable[tuple[str, datetime]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root):
        for entry in page.get("Contents", []):
            yield entry["Key"].removeprefix(root), entry["LastModified"]


def _key(prefix: str, folder: str) -> str:
    return "/".join(part for part in (prefix.strip("/"), folder) if part)

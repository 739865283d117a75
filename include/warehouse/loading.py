"""Finds the files of a source, in a local folder or on S3, and names their content."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include.contracts import BadInputError
from include.warehouse.kinds import EVENTS, KINDS, Kind
from include.warehouse.lines import MAX_LINE_BYTES, guarded_read, open_text
from include.warehouse.s3 import S3Folder
from include.warehouse.sources import Folder, LocalFolder, SourceFile, SourceFiles, Stored

_MAX_COLUMNS = 200


def is_on_s3(source: str | Path) -> bool:
    """Tells whether a source is read from S3."""
    return str(source).startswith("s3://")


def etl_id_of(tenant: str, source: SourceFiles, max_sessions: int | None) -> str:
    """Returns the load's id, a function of tenant, content and limit.

    The limit belongs to it: a first try with a thousand sessions must not pass for the whole file.
    """
    files: Mapping[str, str] = {file.kind.name: file.identity for file in source.files}
    identity = json.dumps({"tenant": tenant, "files": files, "max_sessions": max_sessions}, sort_keys=True)
    return "etl-" + hashlib.sha256(identity.encode()).hexdigest()[:16]


def find_source(source: str | Path, s3: Any = None) -> SourceFiles:
    """Finds the files of a source, checks their headers and names their content.

    Args:
        source: Local folder or `s3://bucket/prefix` with one file of events and at most one of every other
            kind.
        s3: boto3 S3 client, for sources on S3.

    Raises:
        BadInputError: The place or a file is missing, ambiguous, empty, damaged, or not the CSV asked for.
        ClientError: S3 refused.
    """
    folder: Folder = S3Folder(str(source), s3) if is_on_s3(source) else LocalFolder(Path(source))
    names = folder.names()
    files = []
    for kind in KINDS:
        found = [name for name in kind.file_names if name in names]
        if len(found) > 1:
            raise BadInputError(f"{source} holds {' and '.join(found)}: keep the one that is meant.")
        if found:
            files.append(_check(kind, folder.file(found[0])))
        elif kind is EVENTS:
            raise BadInputError(f"{source} holds none of {', '.join(kind.file_names)}.")
    return SourceFiles(str(source), tuple(files))


def _check(kind: Kind, stored: Stored) -> SourceFile:
    columns = read_header(stored)
    missing = [name for name in kind.required if name not in columns]
    if missing:
        raise BadInputError(
            f"{stored.name}: column{'s' * (len(missing) > 1)} {', '.join(missing)} missing from the header "
            f"({_shortened(','.join(columns))}). Wanted are {','.join(kind.required)}; more are allowed."
        )
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        raise BadInputError(
            f"{stored.name}: the header names {_shortened(', '.join(doubled))} more than once."
        )
    return SourceFile(kind, stored, columns, stored.identity())


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


def read_header(stored: Stored) -> tuple[str, ...]:
    """Returns the column names of a CSV file, gzipped or not.

    Raises:
        BadInputError: The file is empty, damaged, or not a comma-separated text.
    """
    with open_text(stored) as file:
        head = guarded_read(stored.name, file, MAX_LINE_BYTES)
    if not head.strip():
        raise BadInputError(f"{stored.name} is empty.")
    line, _, _ = head.partition(b"\n")
    try:
        text = line.decode("utf-8-sig").rstrip("\r")
        columns = tuple(name.strip() for name in next(csv.reader([text], strict=True)))
    except (UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise BadInputError(f"{stored.name} is not a CSV text: its first line cannot be read.") from error
    if not text.replace("\t", " ").isprintable() or len(columns) > _MAX_COLUMNS:
        raise BadInputError(f"{stored.name} is not a CSV text: its first line is binary or has no end.")
    return columns

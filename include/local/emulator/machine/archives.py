"""Tar archives from strangers and for them."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path, PurePosixPath

MAX_MEMBERS = 100_000
MAX_BYTES = 20 * 1024**3


class HostileArchiveError(ValueError):
    """The archive is not one that a training script or `tar czf` of a plain folder writes."""


def extract(archive: Path, destination: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Extracts a `tar.gz` of plain files and folders; looks at every member before it writes a byte.

    Args:
        archive: The file.
        destination: Folder, made where it is missing.
        max_bytes: Limit of the extracted size.

    Raises:
        HostileArchiveError: It is no tar.gz, is truncated, expands beyond the limits, or holds an absolute
            path, `..`, a link, a device or the same file twice.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            _check(tar, max_bytes)
            destination.mkdir(parents=True, exist_ok=True)
            tar.extractall(destination, filter="data")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise HostileArchiveError(f"{archive.name} cannot be extracted: {error}") from error


def _check(tar: tarfile.TarFile, max_bytes: int) -> None:
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    total = 0
    for number, member in enumerate(tar, 1):
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            raise HostileArchiveError(f"{member.name!r} points outside the archive")
        if not (member.isreg() or member.isdir()):
            raise HostileArchiveError(f"{member.name!r} is neither a plain file nor a folder")
        if path in files or (member.isreg() and path in folders):
            raise HostileArchiveError(f"{member.name!r} is in the archive twice")
        folders.update(path.parents)
        (files if member.isreg() else folders).add(path)
        total += max(member.size, 0)
        if number > MAX_MEMBERS or total > max_bytes:
            raise HostileArchiveError(f"it expands to more than {MAX_MEMBERS} files or {max_bytes} bytes")
    if clash := files & folders:
        raise HostileArchiveError(f"{str(min(clash))!r} is a file and a folder of it")


def pack(folder: Path, archive: Path) -> None:
    """Writes the contents of a folder as `tar.gz`, as SageMaker packs `/opt/ml/model`."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)

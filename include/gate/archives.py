"""Unpacks what a training job left. A tar names its own paths, kinds and sizes: none of them is believed."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from include.contracts import BadInputError

EVALUATION_FILES = ("metrics.json", "predictions.parquet", "items.parquet")
MAX_UNPACKED_BYTES = 4 << 30
MAX_MEMBERS = 10_000
# A damaged stream surfaces as any of the first, depending on where it is damaged; names that no file system
# takes, or that contradict each other, as any of the others.
_DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotADirectoryError,
    IsADirectoryError,
    FileExistsError,
)


def unpack_evaluation(archive: Path, folder: Path) -> None:
    """Unpacks the files that the suite reads from a training job's output, and nothing else.

    Args:
        archive: `output.tar.gz` with `evaluation/…`.
        folder: Receives the files, without their folder. A file that the job did not write stays missing;
            the checks that need it then fail with its name.

    Raises:
        BadInputError: The archive is damaged, or larger than an evaluation ever is.
    """
    with _members(archive, "The training job's output") as (tar, members):
        for member in members:
            path = PurePosixPath(member.name)
            if member.isfile() and path.parent.name == "evaluation" and path.name in EVALUATION_FILES:
                tar.extract(member.replace(name=path.name), folder, filter="data")


def unpack_model(archive: Path, folder: Path) -> None:
    """Unpacks a model's artefact as the endpoint would.

    Args:
        archive: `model.tar.gz` with `1/` and `code/`.
        folder: Receives them.

    Raises:
        BadInputError: The archive is damaged or too large, or holds a link, a device, a path that leads out
            of it, or one path twice; no training job of ours writes such. Nothing is written then.
    """
    what = "The model's artefact"
    # Read to its end first: nothing of it is written unless all of it is well.
    with _members(archive, what) as (_, members):
        _refuse_hostile(members, what)
    with _members(archive, what) as (tar, members):
        for member in members:
            tar.extract(member, folder, filter="data")


def _refuse_hostile(members: Iterator[tarfile.TarInfo], what: str) -> None:
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for member in members:
        path, shown = PurePosixPath(member.name), repr(member.name[:200])
        if not (member.isfile() or member.isdir()):
            raise BadInputError(f"{what} holds {shown}, which is no plain file.")
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            raise BadInputError(f"{what} holds {shown}, which leads out of it.")
        if path in files or (member.isfile() and path in folders):
            raise BadInputError(f"{what} holds {shown} twice.")
        folders.update(path.parents)
        (files if member.isfile() else folders).add(path)
    if clash := files & folders:
        raise BadInputError(f"{what} holds {str(min(clash))[:200]!r} as a file and as a folder.")


class _Bounded:
    """A stream that refuses to give more than an archive may hold."""

    def __init__(self, stream: Any, what: str) -> None:
        self._stream, self._what, self._left = stream, what, MAX_UNPACKED_BYTES

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self.take(len(chunk))
        return chunk

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise BadInputError(f"{self._what} is too large: more than {MAX_UNPACKED_BYTES >> 20} MB.")


@contextmanager
def _members(archive: Path, what: str) -> Iterator[tuple[tarfile.TarFile, Iterator[tarfile.TarInfo]]]:
    """Opens an archive; its members are counted as they are read, and its checksum is at the end."""

    def counted(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        sizes = _Bounded(stream, what)
        for place, member in enumerate(tar):
            if place >= MAX_MEMBERS:
                raise BadInputError(f"{what} is too large: more than {MAX_MEMBERS} members.")
            sizes.take(member.size)
            yield member

    try:
        with gzip.open(archive) as stream:
            bounded: Any = _Bounded(stream, what)
            with tarfile.open(fileobj=bounded, mode="r|") as tar:
                yield tar, counted(tar)
            # tarfile stops before gzip's checksum, which is read only at the very end.
            while bounded.read(1 << 20):
                pass
    except _DAMAGE as error:
        raise BadInputError(f"{what} cannot be unpacked: {error}") from error

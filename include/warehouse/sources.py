"""What a load reads from, wherever it lies, and the files of a local folder."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from include.contracts import BadInputError
from include.warehouse.kinds import Kind


class Stored(Protocol):
    """A file where it is stored: on a disk or on S3."""

    @property
    def name(self) -> str:
        """The file's name without its folder."""

    def identity(self) -> str:
        """Returns a text that changes with the content."""

    def open(self) -> BinaryIO:
        """Opens the stored bytes for reading; the stream can seek."""

    def refuse_if_changed(self) -> None:
        """Raises `BadInputError` where the content is no longer the one that was identified."""


class Folder(Protocol):
    """Where a source's files lie side by side."""

    def names(self) -> Collection[str]:
        """Returns the names of its files."""

    def file(self, name: str) -> Stored:
        """Returns one of them."""


@dataclass(frozen=True)
class SourceFile:
    """One CSV file whose header has been checked.

    Attributes:
        columns: Names in the file's own order; more than the required ones are allowed.
        identity: Changes with the content.
    """

    kind: Kind
    stored: Stored
    columns: tuple[str, ...]
    identity: str

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.stored.name

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The columns that nothing here knows; they are kept in `raw_data`."""
        return tuple(name for name in self.columns if name not in self.kind.required)


@dataclass(frozen=True)
class SourceFiles:
    """What a load reads: the browsing events and, if they are there, the catalogue and the searches."""

    name: str
    files: tuple[SourceFile, ...]

    @property
    def browsing(self) -> SourceFile:
        """The file of events."""
        return self.files[0]


class LocalFile:
    """A file on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._state()

    @property
    def name(self) -> str:
        """As `Stored`."""
        return self._path.name

    def identity(self) -> str:
        """SHA-256 of the stored bytes."""
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def open(self) -> BinaryIO:
        """As `Stored`."""
        return self._path.open("rb")

    def refuse_if_changed(self) -> None:
        """As `Stored`, by size and time of the last change."""
        if self._state() != self._seen:
            raise BadInputError(
                f"{self.name} changed while it was being read. Nothing was landed; load it again once it is "
                "complete."
            )

    def _state(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


class LocalFolder:
    """A folder on a disk.

    Raises:
        BadInputError: It is none.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise BadInputError(f"{path} is not a folder. Name the folder that holds browsing.csv[.gz].")
        self._path = path

    def names(self) -> Collection[str]:
        """As `Folder`."""
        return {path.name for path in self._path.iterdir() if path.is_file()}

    def file(self, name: str) -> Stored:
        """As `Folder`."""
        return LocalFile(self._path / name)

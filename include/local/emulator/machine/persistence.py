"""Where the emulator's resources lie on disk: one JSON file each, written aside and renamed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar
from urllib.parse import quote

# Of a dataclass field that a file cannot hold: locks, threads, processes.
LIVE = {"live": True}
T = TypeVar("T")
log = logging.getLogger(__name__)


class StateLock:
    """A re-entrant lock; what was changed under it is on disk before another thread gets it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self.write: Callable[[], None] | None = None

    def __enter__(self) -> StateLock:
        self._lock.acquire()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        try:
            if self._depth == 0 and self.write is not None:
                self.write()
        finally:
            self._lock.release()


class Disk:
    """The files of one kind of resource.

    Args:
        folder: Holds `<region>/<name>.json`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, region: str, name: str, text: str) -> None:
        """Replaces the file of a resource; at any moment it is the old one or the new one, whole."""
        write_whole(self._path(region, name), text.encode())

    def remove(self, region: str, name: str) -> None:
        """Removes the file of a resource."""
        self._path(region, name).unlink(missing_ok=True)

    def load(self, decode: Callable[[dict[str, Any]], T]) -> Iterator[T]:
        """Yields what the files hold; a file that cannot be read is set aside."""
        for region in self._folder.glob("*/"):
            remove_drafts(region)
        for path in sorted(self._folder.glob("*/*.json")):
            if (item := read_or_set_aside(path, lambda content: decode(json.loads(content)))) is not None:
                yield item

    def _path(self, region: str, name: str) -> Path:
        return self._folder / region / f"{quote(name, safe='')}.json"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that nobody ever finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{threading.get_ident()}.part")
    try:
        draft.touch(mode=0o600)  # requests may hold secrets
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class FolderLock:
    """Keeps a second emulator off a folder for as long as the first one lives, and no longer.

    Args:
        folder: The folder; it has a file `lock` from then on.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Takes the folder.

        Raises:
            RuntimeError: Another emulator has it; says which and what to do.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise RuntimeError(
                f"Another emulator (process {owner}) keeps its state in {self._path.parent}, and two would "
                f"spoil it. Stop that one first: `make down` where `make up` started it, else `kill {owner}`."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Gives the folder back."""
        if self._file is not None:
            self._file.close()
            self._file = None


def remove_drafts(folder: Path) -> None:
    """Removes what `write_whole` leaves in a folder where it is killed."""
    for draft in folder.glob("*.part"):
        draft.unlink()


def append_line(path: Path, line: bytes) -> None:
    """Adds a line to a file, whole or not at all; nobody else on the machine may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0, opener=_private) as file:
        end, left = file.tell(), memoryview(line + b"\n")
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_or_set_aside(path: Path, decode: Callable[[bytes], T]) -> T | None:
    """Returns what a file holds; one that cannot be understood is renamed, which the log tells."""
    try:
        return decode(path.read_bytes())
    except Exception as error:
        aside = path.with_name(f"{path.name}.corrupt")
        os.replace(path, aside)
        log.error(
            "%s cannot be read (%s: %s): set aside as %s", path, type(error).__name__, error, aside.name
        )
        return None


def to_json(value: Any) -> Any:
    """Returns a value in JSON types; `from_json` is the way back.

    Raises:
        TypeError: It is of a type that a file cannot hold: mark such a field `metadata=LIVE`.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, tuple):
        return {"$tuple": [to_json(entry) for entry in value]}
    if isinstance(value, list):
        return [to_json(entry) for entry in value]
    if isinstance(value, dict):
        return {key: to_json(entry) for key, entry in list(value.items())}
    if callable(to_state := getattr(value, "to_state", None)):
        return {"$resource": type(value).kind, "state": to_state()}
    raise TypeError(f"a file cannot hold a {type(value).__name__}")


def from_json(value: Any, resource: Callable[[str, dict[str, Any]], Any]) -> Any:
    """Returns the value that `to_json` was given.

    Args:
        value: JSON types.
        resource: Makes a resource of its kind and state.
    """
    if isinstance(value, list):
        return [from_json(entry, resource) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$time"}:
        return datetime.fromisoformat(value["$time"])
    if value.keys() == {"$tuple"}:
        return tuple(from_json(entry, resource) for entry in value["$tuple"])
    if value.keys() == {"$resource", "state"}:
        return resource(value["$resource"], value["state"])
    return {key: from_json(entry, resource) for key, entry in value.items()}

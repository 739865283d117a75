"""The source tarball of a training job: the same code is the same bytes, on every machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from include.contracts import SettingsError

ENTRY_POINT = "train.py"
_LEFT_OUT = {"__pycache__", "tests"}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    for name in sorted(found):
        parts = Path(name).parts
        if not any(part in _LEFT_OUT or part.startswith(".") for part in parts):
            yield name, found[name]


def _checked(folder: Path) -> list[tuple[str, bytes]]:
    content = [(name, path.read_bytes()) for name, path in _files(folder)]
    if ENTRY_POINT not in dict(content):
        raise SettingsError(f"{folder} holds no {ENTRY_POINT}: it is not the source of a training job.")
    return content


def source_digest(folder: Path) -> str:
    """Returns the sha256 (hex) of names and contents of the source; times and modes do not count.

    Args:
        folder: The source folder. Caches, tests and hidden files are left out.

    Raises:
        SettingsError: The folder has no entry point.
    """
    digest = hashlib.sha256()
    for name, content in _checked(folder):
        # Lengths keep ("a", "bc") apart from ("ab", "c").
        digest.update(f"{len(name.encode())}:{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def build_source_archive(folder: Path) -> bytes:
    """Returns `sourcedir.tar.gz` of the source folder, with the entry point at its top.

    Args:
        folder: The source folder. Caches, tests and hidden files are left out.

    Raises:
        SettingsError: The folder has no entry point.
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in _checked(folder):
            # A new TarInfo has owner 0 and time 0.
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()

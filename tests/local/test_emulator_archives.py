from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from include.local.emulator import archives
from include.local.emulator.archives import HostileArchiveError, extract, pack


def _tar(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(_file("innocent.txt"), io.BytesIO(b"x"))
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def _file(name: str, size: int = 1) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


HOSTILE: dict[str, Callable[[], bytes]] = {
    "parent folder": lambda: _tar(_file("../outside.txt")),
    "parent folder in the middle": lambda: _tar(_file("a/../../outside.txt")),
    "absolute path": lambda: _tar(_file("/tmp/outside.txt")),
    "windows path": lambda: _tar(_file("..\\outside.txt")),
    "symbolic link": lambda: _tar(_special("link", tarfile.SYMTYPE, "/etc/passwd")),
    "symbolic link inside": lambda: _tar(_special("link", tarfile.SYMTYPE, "innocent.txt")),
    "hard link": lambda: _tar(_special("link", tarfile.LNKTYPE, "/etc/passwd")),
    "character device": lambda: _tar(_special("zero", tarfile.CHRTYPE)),
    "pipe": lambda: _tar(_special("pipe", tarfile.FIFOTYPE)),
    "same file twice": lambda: _tar(_file("./innocent.txt")),
    "bomb": lambda: _tar(_file("zeros", 2_000_000)),
    "truncated": lambda: _tar(_file("a", 500_000))[:-40],
    "flipped": lambda: bytes(b ^ (i == 60) for i, b in enumerate(_tar(_file("a", 50_000)))),
    "no archive": lambda: b"<html>not found</html>",
    "gzip of no archive": lambda: gzip.compress(b"hello" * 500),
    "empty": lambda: b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_before_a_byte_is_written(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(HOSTILE[name]())
    with pytest.raises(HostileArchiveError):
        extract(archive, tmp_path / "out", max_bytes=1_000_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.tar.gz"]


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(_tar(*(_file(f"file-{n}") for n in range(3))))
    with pytest.raises(HostileArchiveError, match="more than 3 files"):
        extract(archive, tmp_path / "out")


def test_what_is_packed_comes_out_the_same(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "1" / "variables").mkdir(parents=True)
    (source / "1" / "saved_model.pb").write_bytes(b"\x00graph")
    (source / "model.json").write_text("{}")
    pack(source, tmp_path / "model.tar.gz")
    extract(tmp_path / "model.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/1/saved_model.pb").read_bytes() == b"\x00graph"
    assert (tmp_path / "out/1/variables").is_dir()
    assert (tmp_path / "out/model.json").read_text() == "{}"


def test_an_archive_made_of_a_dot_extracts(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "file").write_text("x")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(source, arcname=".")
    extract(tmp_path / "model.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/file").read_text() == "x"

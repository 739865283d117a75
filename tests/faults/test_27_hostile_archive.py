"""A model.tar.gz that leads out, links, bombs or contradicts itself: refused before a byte is written."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from include.contracts import BadInputError
from include.gate import archives as gate
from include.local.emulator.machine import archives as emulator
from tests.gate.tars import Member, tar

GOOD = Member("1/saved_model.pb")
HOSTILE: dict[str, Callable[[], bytes]] = {
    "parent_folder": lambda: tar(GOOD, Member("../outside")),
    "parent_folder_in_the_middle": lambda: tar(GOOD, Member("1/../../../outside")),
    "absolute_path": lambda: tar(GOOD, Member("/tmp/outside")),
    "windows_path": lambda: tar(GOOD, Member("..\\outside")),
    "symbolic_link": lambda: tar(GOOD, Member("link", kind=tarfile.SYMTYPE)),
    "hard_link": lambda: tar(GOOD, Member("link", kind=tarfile.LNKTYPE)),
    "character_device": lambda: tar(GOOD, Member("zero", kind=tarfile.CHRTYPE)),
    "block_device": lambda: tar(GOOD, Member("disk", kind=tarfile.BLKTYPE)),
    "pipe": lambda: tar(GOOD, Member("pipe", kind=tarfile.FIFOTYPE)),
    "same_file_twice": lambda: tar(GOOD, Member("./1/saved_model.pb")),
    "file_as_folder": lambda: tar(GOOD, Member("2"), Member("2/x")),
    "folder_as_file": lambda: tar(GOOD, Member("1")),
    "bomb": lambda: tar(GOOD, Member("zeros", b"0" * 2_000_000)),
    "truncated": lambda: tar(GOOD, Member("a", bytes(range(256)) * 2000))[:-40],
    "flipped": lambda: bytes(b ^ (i == 60) for i, b in enumerate(tar(GOOD, Member("a", b"x" * 50_000)))),
    "no_archive": lambda: b"<html>not found</html>",
    "gzip_of_no_archive": lambda: gzip.compress(b"hello" * 500),
    "empty": lambda: b"",
}
UNPACKERS = {
    "gate": (lambda archive, out: gate.unpack_model(archive, out), BadInputError),
    "emulator": (
        lambda archive, out: emulator.extract(archive, out, max_bytes=1_000_000),
        emulator.HostileArchiveError,
    ),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_UNPACKED_BYTES", 1_000_000)


@pytest.mark.parametrize("who", UNPACKERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_before_a_byte_is_written(name: str, who: str, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(HOSTILE[name]())
    unpack, refusal = UNPACKERS[who]
    with pytest.raises(refusal):
        unpack(archive, tmp_path / "out")
    written = [path.name for path in tmp_path.rglob("*") if not path.is_dir()]
    assert written == ["model.tar.gz"]


@pytest.mark.parametrize("who", UNPACKERS)
def test_very_many_files_are_refused(who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gate, emulator):
        monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(tar(*(Member(f"file-{number}") for number in range(4))))
    unpack, refusal = UNPACKERS[who]
    with pytest.raises(refusal, match="3"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["evaluation/metrics.json", "ignored"])
def test_a_bomb_among_the_measurements_is_refused(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "output.tar.gz"
    archive.write_bytes(tar(Member(name, b"0" * 1_000_001)))
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInputError, match="too large"):
        gate.unpack_evaluation(archive, tmp_path / "out")


def test_a_bomb_behind_the_last_member_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(gzip.decompress(tar(GOOD)) + b"\0" * 2_000_000))
    with pytest.raises(BadInputError, match="too large"):
        gate.unpack_model(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()

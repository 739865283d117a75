from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from include.contracts import BadInputError
from include.gate import archives
from include.gate.archives import unpack_evaluation, unpack_model
from tests.gate.tars import Member, tar

WHOLE = tar(Member("evaluation/metrics.json", bytes(range(256)) * 400))
DAMAGED = {
    "empty": b"",
    "not_gzip": b"PK\x03\x04 rubbish",
    "gzip_of_rubbish": gzip.compress(b"rubbish" * 500),
    "truncated": WHOLE[:-300],
    "no_checksum": WHOLE[:-8],
    "bit_flip": WHOLE[:60] + bytes([WHOLE[60] ^ 0xFF]) + WHOLE[61:],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "inner" / "folder"
    inner.mkdir(parents=True)
    return inner


def packed(tmp_path: Path, content: bytes) -> Path:
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(content)
    return archive


@pytest.mark.parametrize("unpack", [unpack_evaluation, unpack_model])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_archive_is_bad_input(tmp_path: Path, folder: Path, name: str, unpack: object) -> None:
    with pytest.raises(BadInputError, match="cannot be unpacked"):
        unpack(packed(tmp_path, DAMAGED[name]), folder)  # type: ignore[operator]


def test_only_the_files_of_the_evaluation_leave_the_archive(tmp_path: Path, folder: Path) -> None:
    archive = packed(
        tmp_path,
        tar(
            Member("./evaluation/metrics.json", b"{}"),
            Member("evaluation/smoke.json", b"[]"),
            Member("../../escaped.json"),
            Member("/evaluation/../absolute.json"),
            Member("evaluation/items.parquet", kind=tarfile.SYMTYPE),
            Member("evaluation/predictions.parquet", kind=tarfile.LNKTYPE),
        ),
    )
    unpack_evaluation(archive, folder)
    assert [path.name for path in folder.iterdir()] == ["metrics.json"]
    found = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["archive.tar.gz", "metrics.json"]


def test_a_model_is_unpacked_whole(tmp_path: Path, folder: Path) -> None:
    names = ["1/saved_model.pb", "1/variables/variables.index", "./code/inference.py"]
    directory = Member("1", b"", tarfile.DIRTYPE)
    unpack_model(packed(tmp_path, tar(directory, *(Member(name) for name in names))), folder)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["1/saved_model.pb", "1/variables/variables.index", "code/inference.py"]


HOSTILE = {
    "symbolic_link": [Member("1/saved_model.pb", kind=tarfile.SYMTYPE)],
    "hard_link": [Member("1/saved_model.pb", kind=tarfile.LNKTYPE)],
    "device": [Member("1/null", kind=tarfile.CHRTYPE)],
    "pipe": [Member("code/pipe", kind=tarfile.FIFOTYPE)],
    "way_out": [Member("../../escaped")],
    "way_out_in_the_middle": [Member("1/../../../escaped")],
    "file_as_folder": [Member("1"), Member("1/saved_model.pb")],
    "folder_as_file": [Member("1/saved_model.pb"), Member("1")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    with pytest.raises(BadInputError):
        unpack_model(packed(tmp_path, tar(*HOSTILE[name])), folder)
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents]
    assert [path.name for path in outside] == ["archive.tar.gz"]


def test_an_absolute_path_stays_inside(tmp_path: Path, folder: Path) -> None:
    unpack_model(packed(tmp_path, tar(Member("/1/saved_model.pb"))), folder)
    assert (folder / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize("unpack", [unpack_evaluation, unpack_model])
@pytest.mark.parametrize("name", ["evaluation/metrics.json", "ignored"])
def test_an_archive_bomb_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, unpack: object
) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 20_000)
    with pytest.raises(BadInputError, match="too large"):
        unpack(packed(tmp_path, tar(Member(name, b"0" * 20_001))), folder)  # type: ignore[operator]


def test_a_bomb_behind_the_last_member_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 1 << 20)
    content = gzip.decompress(tar(Member("1/saved_model.pb"))) + b"\0" * (2 << 20)
    with pytest.raises(BadInputError, match="too large"):
        unpack_model(packed(tmp_path, gzip.compress(content)), folder)


def test_an_archive_of_very_many_files_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(BadInputError, match="members"):
        unpack_model(packed(tmp_path, tar(*(Member(f"1/{n}") for n in range(4)))), folder)

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from include.contracts import BadInputError
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

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from include.contracts import SettingsError
from include.sagemaker.source import build_source_archive, source_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("print('train')")
    (tmp_path / "requirements.txt").write_text("pyarrow\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.py").write_text("A = 1")
    return tmp_path


def test_archive_holds_the_source_with_the_entry_point_on_top(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(build_source_archive(folder))) as archive:
        assert archive.getnames() == ["parts/a.py", "requirements.txt", "train.py"]
        assert archive.extractfile("train.py").read() == b"print('train')"  # type: ignore[union-attr]
        assert {(m.mtime, m.uid, m.gid, m.mode) for m in archive} == {(0, 0, 0, 0o644)}


def test_caches_tests_times_and_modes_do_not_count(folder: Path) -> None:
    before = source_digest(folder), build_source_archive(folder)
    for left_out in ("__pycache__/train.pyc", "tests/test_train.py", ".DS_Store", "parts/__pycache__/a.pyc"):
        path = folder / left_out
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (folder / "stray.pyc").write_text("x")
    os.utime(folder / "train.py", (1, 1))
    (folder / "train.py").chmod(0o755)
    assert (source_digest(folder), build_source_archive(folder)) == before


@pytest.mark.parametrize("change", ["content", "name", "new file"])
def test_every_change_of_the_source_changes_the_digest(folder: Path, change: str) -> None:
    before = source_digest(folder)
    if change == "content":
        (folder / "parts" / "a.py").write_text("A = 2")
    elif change == "name":
        (folder / "parts" / "a.py").rename(folder / "parts" / "b.py")
    else:
        (folder / "empty.py").write_text("")
    assert source_digest(folder) != before


def test_folder_without_an_entry_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"train\.py"):
        build_source_archive(tmp_path)


def test_the_projects_own_source_can_be_packed(root: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(build_source_archive(root / "include" / "ml"))) as archive:
        assert "train.py" in archive.getnames()
        assert not [name for name in archive.getnames() if "test" in Path(name).parts]

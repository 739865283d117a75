from __future__ import annotations

import tarfile
from pathlib import Path

from include.local.emulator.machine.archives import extract, pack


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

"""A half-written snapshot, a flipped byte, a stray file: training refuses them all and leaves nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.ml.jobs import run_several


def _half_written(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _manifest_half_written(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-40])


def _part_missing(folder: Path) -> None:
    (folder / "validation/part-0.parquet").unlink()


def _part_cut_short(folder: Path) -> None:
    path = folder / "test/part-0.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def _flipped_byte(folder: Path) -> None:
    path = folder / "train/part-0.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _stray_file(folder: Path) -> None:
    shutil.copy(folder / "train/part-0.parquet", folder / "train/part-1.parquet")


DAMAGE: dict[Callable[[Path], None], str] = {
    _half_written: "no manifest.json under .*: the snapshot was not finished",
    _manifest_half_written: "manifest.json is not JSON",
    _part_missing: "file listed in the manifest is missing: validation/part-0.parquet",
    _part_cut_short: "file differs from the manifest's sha256: test/part-0.parquet",
    _flipped_byte: "file differs from the manifest's sha256: train/part-0.parquet",
    _stray_file: "not listed in the manifest, first: train/part-1.parquet",
}


def test_training_refuses_a_damaged_snapshot(ml_python: Path, planted: Path, tmp_path: Path) -> None:
    jobs = []
    for damage in DAMAGE:
        out = tmp_path / damage.__name__
        damage(Path(shutil.copytree(planted, out / "snapshot")))
        jobs.append((out / "snapshot", out, ["--epochs", "1"]))
    assert run_several(ml_python, *jobs) == [1] * len(DAMAGE)
    for (_, out, _), reason in zip(jobs, DAMAGE.values(), strict=True):
        told = (out / "output" / "failure").read_text()
        assert re.search(reason, told) and "\n" not in told, told
        assert not (out / "model").exists() and not (out / "data").exists()

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import Checkpoints, Progress, Saved, StopSignal, digest

OWN, OTHER = "a" * 64, "b" * 64


def _saved(step: int) -> Saved:
    row = {"epoch": 1, "loss": 0.1 + 0.2, "val_mrr@20": None, "seconds": 1.5}
    progress = Progress(
        epoch=1, step=step, losses=[0.1, 1 / 3], history=[row], best=0.25, stale=1, seconds=9.5
    )
    variables = [np.full((2, 3), step, np.float32), np.array(step, np.int64), np.array([1, 2], np.uint32)]
    return Saved(progress, variables, [np.ones(4, np.float32)])


def _folder(path: Path, identity: str = OWN) -> tuple[Checkpoints, list[str]]:
    said: list[str] = []
    return Checkpoints(path, identity, 60.0, said.append), said


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    kept, _ = _folder(tmp_path / "made")
    assert kept.latest() is None
    kept.save(_saved(7))
    found = kept.latest()
    assert found is not None
    assert found.progress == _saved(7).progress
    for read, written in zip(found.variables, _saved(7).variables, strict=True):
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)
    np.testing.assert_array_equal(found.best_weights[0], np.ones(4))


def test_the_last_two_are_kept_and_nothing_unfinished(tmp_path: Path) -> None:
    kept, _ = _folder(tmp_path)
    (tmp_path / f"checkpoint-{OWN[:16]}-000001.unfinished").write_bytes(b"killed while writing")
    assert kept.latest() is None
    for step in range(4):
        kept.save(_saved(step))
    assert sorted(path.name[-10:] for path in tmp_path.iterdir()) == ["000003.npz", "000004.npz"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    # In the zeros and ones of a variable, where only the archive's checksum can tell.
    content = bytearray(path.read_bytes())
    place = content.index(np.full(6, 2, np.float32).tobytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def _of_another_run(path: Path) -> None:
    _folder(path.parent, OTHER)[0].save(_saved(9)).rename(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "empty": _empty,
    "a bit flipped": _flip,
    "renamed from another run": _of_another_run,
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_checkpoint_gives_way_to_the_one_before(case: str, tmp_path: Path) -> None:
    kept, said = _folder(tmp_path)
    kept.save(_saved(1))
    newest = kept.save(_saved(2))
    DAMAGES[case](newest)
    found = kept.latest()
    assert found is not None
    assert found.progress.step == 1
    assert said[0].startswith(f"{newest.name} cannot be used")
    _truncate(next(tmp_path.glob(f"checkpoint-{OWN[:16]}-*.npz")))
    assert kept.latest() is None


def test_checkpoint_of_something_else_is_left_alone(tmp_path: Path) -> None:
    theirs = _folder(tmp_path, OTHER)[0].save(_saved(1))
    kept, said = _folder(tmp_path)
    assert kept.latest() is None
    assert "1 checkpoint(s)" in said[0]
    assert "other data, code or hyper-parameters" in said[0]
    kept.save(_saved(2))
    assert theirs.is_file()


def test_digest_is_of_what_shapes_a_run() -> None:
    plain = digest(files=["x"], hyperparameters={"epochs": 1, "seed": 2})
    assert plain == digest(hyperparameters={"seed": 2, "epochs": 1}, files=["x"])
    assert plain != digest(files=["y"], hyperparameters={"epochs": 1, "seed": 2})
    assert plain != digest(files=["x"], hyperparameters={"epochs": 2, "seed": 2})


def test_stop_signal_is_noted_and_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.received
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received
    assert signal.getsignal(signal.SIGTERM) is before


# 60 steps an epoch, and 66 one of the refit, each of them with a checkpoint behind it.
ARGUMENTS = (
    *("--epochs", "3", "--batch-size", "4", "--embedding-dim", "8", "--checkpoint-seconds", "0"),
    # Sampled: where the draws are is a part of a checkpoint, too.
    *("--full-softmax-products", "5", "--negatives", "16"),
)


def _left(out: Path) -> dict[str, Any]:
    """What a job left: every byte of the weights, and the report without its times."""
    report = json.loads((out / "data/evaluation/metrics.json").read_text())
    for row in report["history"]:
        del row["seconds"], row["interactions_per_second"]
    weights = (out / "model/1/variables/variables.data-00000-of-00001").read_bytes()
    return {"weights": weights, **{name: report[name] for name in ("history", "model", "blend")}}


def _run_of(path: Path) -> str:
    return path.stem[:-7]


def _wait_for(folder: Path, number: int, besides: set[str]) -> None:
    """Waits for a checkpoint of that number or above, not counting those of some runs."""
    deadline = time.monotonic() + 120
    while not any(
        int(path.stem[-6:]) >= number for path in folder.rglob("*.npz") if _run_of(path) not in besides
    ):
        assert time.monotonic() < deadline, f"no checkpoint {number} under {folder}"
        time.sleep(0.01)


def test_killed_anywhere_a_job_ends_as_if_nothing_had_happened(
    tmp_path: Path,
    planted: Path,
    train_py: Callable[..., Any],
    started_train_py: Callable[..., subprocess.Popen[str]],
) -> None:
    through = train_py(planted, tmp_path / "through", *ARGUMENTS)
    assert through.returncode == 0, through.stderr
    folder = tmp_path / "checkpoints"
    variables = {"PMS_CHECKPOINT_DIR": str(folder)}
    # In the first epoch, with a notice in the third, and in the refit, which has checkpoints of its own.
    chosen: set[str] = set()
    for number, notice in ((20, signal.SIGKILL), (140, signal.SIGTERM), (30, signal.SIGKILL)):
        if number == 30:
            chosen = {_run_of(path) for path in folder.rglob("*.npz")}
        with started_train_py(planted, tmp_path / "killed", *ARGUMENTS, **variables) as process:
            _wait_for(folder, number, chosen)
            process.send_signal(notice)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if notice == signal.SIGKILL else 143), stderr
        assert not (tmp_path / "killed/model").exists()
        assert not (tmp_path / "killed/output/failure").exists()
    refitted = [path for path in folder.rglob("*.npz") if _run_of(path) not in chosen]
    _truncate(max(refitted))  # and the disk was full, too
    resumed = train_py(planted, tmp_path / "killed", *ARGUMENTS, **variables)
    assert resumed.returncode == 0, resumed.stderr
    assert "cannot be used and the one before it is tried" in resumed.stdout
    assert "going on from" in resumed.stdout
    assert "epoch=" not in resumed.stdout
    assert "refit=" in resumed.stdout
    assert _left(tmp_path / "killed") == _left(tmp_path / "through")

    # Taken away while it exported: what is learned is not learned again.
    again = train_py(planted, tmp_path / "again", *ARGUMENTS, **variables)
    assert again.returncode == 0, again.stderr
    assert "epoch=" not in again.stdout
    assert "refit=" not in again.stdout
    assert _left(tmp_path / "again") == _left(tmp_path / "through")

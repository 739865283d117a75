from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster, tf_config

SCRIPT = Path(__file__).with_name("replicas.py")


def test_instances_of_a_job_number_themselves_alike() -> None:
    for current, index in (("algo-1", 0), ("algo-2", 1)):
        config = tf_config(["algo-2", "algo-1"], current)
        assert config["cluster"] == {"worker": ["algo-1:8890", "algo-2:8890"]}
        assert config["task"] == {"type": "worker", "index": index}


def test_single_instance_is_no_cluster() -> None:
    assert tf_config(["algo-1"], "algo-1") == tf_config([], "") == {}


def test_host_outside_of_its_job_is_refused() -> None:
    with pytest.raises(ValueError, match="algo-3"):
        tf_config(["algo-1", "algo-2"], "algo-3")


def test_alone_one_is_the_chief_and_agrees_with_oneself() -> None:
    alone = Cluster()
    assert alone.is_chief
    assert alone.any([True, False]) == [True, False]
    assert alone.from_chief([1.5, 2.0]).tolist() == [1.5, 2.0]


LOSSES = {"gru": "sampled", "attention": "full"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs, by architecture and number of replicas, all from one process."""
    out = tmp_path_factory.mktemp("learned")
    cases = [word for case in LOSSES.items() for word in case]
    command = [sys.executable, str(SCRIPT), str(out), *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("architecture", LOSSES)
def test_two_replicas_learn_what_one_device_learns(architecture: str, learned: Path) -> None:
    found = []
    for replicas in ("1", "2"):
        folder = learned / architecture / replicas
        with np.load(folder / "weights.npz") as archive:
            found.append([archive[name] for name in archive.files])
        history = json.loads((folder / "history.json").read_text())
        found[-1].append(np.array([row["loss"] for row in history]))
    for one, two in zip(*found, strict=True):
        # The bias of attention's keys has a gradient of rounding errors, which Adam takes at face value.
        np.testing.assert_allclose(one, two, atol=5e-4)


SHARED = ("--epochs", "3", "--batch-size", "9", "--embedding-dim", "8", "--learning-rate", "0.003")


class _Pair:
    """Two processes of train.py as one cluster on this machine."""

    def __init__(self, start: Callable[..., subprocess.Popen[str]], snapshot: Path, out: Path) -> None:
        ports = [_free_port(), _free_port()]
        self.processes = []
        for index in range(2):
            config = {
                "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
                "task": {"type": "worker", "index": index},
            }
            variables = {
                "TF_CONFIG": json.dumps(config),
                "PMS_CHECKPOINT_DIR": str(out.parent / "checkpoints" / str(index)),
            }
            arguments = (*SHARED, "--checkpoint-seconds", "0.2")
            self.processes.append(start(snapshot, out / str(index), *arguments, **variables))

    def __enter__(self) -> _Pair:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def end(self) -> tuple[list[int], list[str]]:
        outputs = [process.communicate(timeout=300) for process in self.processes]
        return [process.returncode for process in self.processes], ["".join(both) for both in outputs]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _curve(out: Path) -> Any:
    report = json.loads((out / "data/evaluation/metrics.json").read_text())
    return [(row["loss"], row["val_mrr@20"]) for row in report["history"]], report["model"]


def test_two_instances_share_a_job_and_its_resumption(
    tmp_path: Path,
    planted: Path,
    train_py: Callable[..., Any],
    started_train_py: Callable[..., subprocess.Popen[str]],
) -> None:
    with _Pair(started_train_py, planted, tmp_path / "through") as pair:
        statuses, outputs = pair.end()
    assert statuses == [0, 0], outputs
    assert "the chief goes on alone" in outputs[1]
    assert (tmp_path / "through/0/model/1/saved_model.pb").is_file()
    assert list((tmp_path / "checkpoints/0").rglob("*.npz"))
    # The other one leaves nothing: no model, no evaluation, no checkpoint.
    assert list((tmp_path / "through/1").iterdir()) == []
    assert not (tmp_path / "checkpoints/1").exists()

    for path in (tmp_path / "checkpoints/0").rglob("*.npz"):
        path.unlink()
    with _Pair(started_train_py, planted, tmp_path / "stopped") as pair:
        for line in pair.processes[0].stdout or ():
            if line.startswith("epoch=1/"):
                break
        pair.processes[1].send_signal(signal.SIGTERM)  # to one of them only
        statuses, outputs = pair.end()
    assert statuses == [143, 143], outputs
    assert not (tmp_path / "stopped/0/model").exists()

    with _Pair(started_train_py, planted, tmp_path / "again") as pair:
        statuses, outputs = pair.end()
    assert statuses == [0, 0], outputs
    assert "going on from checkpoint-" in outputs[0]
    assert _curve(tmp_path / "again/0") == _curve(tmp_path / "through/0")

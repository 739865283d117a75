from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tracking

MLFLOW = """
import json, os, re

def _note(*what):
    with open(os.environ["NOTED"], "a") as file:
        file.write(json.dumps(what) + "\\n")
    if os.environ.get("BROKEN") == what[0]:
        raise RuntimeError("cannot reach https://user:canary@tracker")

def start_run(run_name): _note("start", run_name)
def log_params(values): _note("params", values)
def log_metrics(values, step):
    assert all(re.fullmatch(r"[\\w\\-. /:]+", name) for name in values), values  # as the real one
    _note("metrics", values, step)
def end_run(status): _note("end", status)
"""
COMET = """
import json, os

def start(): return Experiment()

class Experiment:
    def __getattr__(self, name):
        def noted(*arguments, **named):
            with open(os.environ["NOTED"], "a") as file:
                file.write(json.dumps([name, *arguments, named]) + "\\n")
        return noted
"""


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, str]:
    """Variables for a process that finds stand-ins of both packages, and what they note."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/mlflow.py").write_text(MLFLOW)
    (tmp_path / "packages/comet_ml.py").write_text(COMET)
    return {
        "PYTHONPATH": str(tmp_path / "packages"),
        "NOTED": str(tmp_path / "noted"),
        "TRAINING_JOB_NAME": "pms-1",
        "MLFLOW_TRACKING_URI": "https://user:canary@tracker",
        "COMET_API_KEY": "canary",
    }


def _noted(packages: dict[str, str]) -> list[Any]:
    return [json.loads(line) for line in Path(packages["NOTED"]).read_text().splitlines()]


SHORT = ("--epochs", "2", "--embedding-dim", "8", "--refit", "off")


def test_mlflow_gets_parameters_curve_and_result(
    tmp_path: Path, planted: Path, packages: dict[str, str], train_py: Callable[..., Any]
) -> None:
    done = train_py(planted, tmp_path / "out", *SHORT, "--tracking", "mlflow", **packages)
    assert done.returncode == 0, done.stderr
    noted = _noted(packages)
    assert noted[0] == ["start", "pms-1"]
    assert noted[1][1]["epochs"] == 2
    assert noted[1][1]["snapshot_id"] == "snap-test"
    epochs = [entry for entry in noted if entry[0] == "metrics" and entry[2] is not None]
    assert [entry[2] for entry in epochs] == [1, 2]
    assert {"loss", "val_mrr_at_20", "interactions_per_second"} <= set(epochs[0][1])
    assert "test_mrr_at_20" in noted[-2][1]
    assert noted[-1] == ["end", "FINISHED"]
    assert "canary" not in done.stdout + done.stderr


def test_comet_gets_them_too(packages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(packages["PYTHONPATH"])
    for name, value in packages.items():
        monkeypatch.setenv(name, value)
    tracker = tracking.start("comet", "pms-1", pytest.fail)
    tracker.parameters({"epochs": 2})
    tracker.metrics({"val_mrr@20": 0.5, "val_hit_rate@20": None}, 1)
    tracker.end(True)
    assert _noted(packages) == [
        ["set_name", "pms-1", {}],
        ["log_parameters", {"epochs": 2}, {}],
        ["log_metrics", {"val_mrr@20": 0.5}, {"epoch": 1}],
        ["log_other", "finished", True, {}],
        ["end", {}],
    ]


@pytest.mark.parametrize("call", ["start", "params", "metrics", "end"])
def test_failing_tracker_is_told_once_and_training_goes_on(
    call: str, packages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(packages["PYTHONPATH"])
    for name, value in {**packages, "BROKEN": call}.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    tracker = tracking.start("mlflow", "pms-1", said.append)
    tracker.parameters({"epochs": 2})
    tracker.metrics({"loss": 1.0}, 1)
    tracker.metrics({"loss": 0.5}, 2)
    tracker.end(True)
    assert said == ["tracking failed (RuntimeError) and is left out from here on"]
    assert _noted(packages)[-1][0] == call


def test_missing_package_fails_before_training(
    tmp_path: Path, planted: Path, train_py: Callable[..., Any]
) -> None:
    # A folder without the package hides one that may be installed.
    (tmp_path / "none").mkdir()
    (tmp_path / "none/comet_ml.py").write_text("raise ImportError('hidden')")
    done = train_py(planted, tmp_path / "out", "--tracking", "comet", PYTHONPATH=str(tmp_path / "none"))
    assert done.returncode == 1
    failure = (tmp_path / "out/output/failure").read_text()
    assert "add comet-ml to requirements.txt" in failure
    assert "Traceback" not in failure
    assert "epoch=" not in done.stdout


def test_missing_address_fails_before_training(
    packages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(packages["PYTHONPATH"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(tracking.TrackingError, match="MLFLOW_TRACKING_URI"):
        tracking.start("mlflow", "", pytest.fail)


def test_nothing_is_imported_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib, "import_module", pytest.fail)
    tracker = tracking.start("none", "", pytest.fail)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end(True)

"""Both DAGs, whole, under a real Airflow with the emulator: once with a shop, once with noise."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1500)]


def generate(root: Path, folder: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "include.local.shop", "--out", str(folder), *options]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return folder


def demo(root: Path, data: Path, build: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "include.local.demo", "--data", str(data), "--build-dir", str(build)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def left_running(build: Path) -> list[str]:
    """Command lines of processes of the run: by its folder, or by the Airflow home they inherited."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        with contextlib.suppress(psutil.Error):
            if str(build) in line or process.environ().get("AIRFLOW_HOME", "").startswith(str(build)):
                found.append(line)
    return found


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, ml_python: Path) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def shop_run(root: Path, build: Path) -> dict[str, Any]:
    data = generate(root, build / "input", "--sessions", "3000", "--products", "300", "--days", "14")
    done = demo(root, data, build)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads((build / "demo.json").read_text())
    return result


def test_generated_shop_ends_with_a_live_model_that_answers(shop_run: dict[str, Any], build: Path) -> None:
    assert shop_run["verdict"]["approved"]
    assert shop_run["live_model"]["snapshot_id"] == shop_run["snapshot_id"]
    assert shop_run["registered"]["approval"] == "Approved"
    assert shop_run["registered"]["snapshot_id"] == shop_run["snapshot_id"]
    assert len(shop_run["recommendations"]) == 3
    for answer in shop_run["recommendations"]:
        assert len(answer["skus"]) == len(set(answer["skus"])) == 5
        assert answer["session"][-1] not in answer["skus"]
    assert shop_run["metrics"]["hit_rate@20"] > 1.5 * shop_run["baselines"]["popularity"]["hit_rate@20"]
    assert "<html" in (build / "card.html").read_text().lower()
    assert set(shop_run["seconds"]) == {"load", "transform", "export", "train", "gate", "deploy", "total"}


def test_nothing_is_left_running(shop_run: dict[str, Any], build: Path) -> None:
    assert left_running(build) == []


def test_noise_is_rejected_with_reasons_and_nothing_goes_live(
    root: Path, tmp_path: Path, ml_python: Path
) -> None:
    data = generate(
        root,
        tmp_path / "input",
        "--sessions",
        "2000",
        "--products",
        "500",
        "--days",
        "14",
        "--structure",
        "0",
    )
    done = demo(root, data, tmp_path)
    assert done.returncode == 3, done.stdout[-4000:] + done.stderr[-4000:]
    result = json.loads((tmp_path / "demo.json").read_text())
    assert not result["verdict"]["approved"]
    assert [check for check in result["verdict"]["checks"] if check["status"] == "failed"]
    assert result["registered"]["approval"] == "Rejected"
    assert result["live_model"] is None
    assert result["recommendations"] == []


def test_bad_input_ends_with_a_clear_message(root: Path, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "browsing.csv").write_text("session,sku\n1,2\n")
    done = demo(root, tmp_path / "input", tmp_path)
    assert done.returncode == 2
    assert "session_id_hash" in done.stderr

"""The gate's suite on what a training job really leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SUITE = Path(__file__).resolve().parents[2] / "include" / "gate" / "suite.py"


def test_every_check_runs_on_a_job_and_its_package(trained: tuple[Path, str], tmp_path: Path) -> None:
    model, report = trained[0] / "model", tmp_path / "report.json"
    command = [sys.executable, "-I", SUITE, "--evaluation", trained[0] / "data/evaluation", "--out", report]
    command += ["--model", model, "--champion", model, "--package-bytes", "1000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    found = {check["name"]: check for check in written["checks"]}
    assert {name: check["error"] for name, check in found.items() if check["error"]} == {}
    assert written["notes"] == []
    assert found["served_answers_differ"]["value"] == 0
    assert found["stability_repeat_event"]["value"] == found["stability_unknown_sku"]["value"] == 1
    assert found["mrr@20_minus_champion"]["value"] == 0
    assert found["hit_rate@1"]["value"] > 0.9
    assert set(found["hit_rate@20_by_first_action"]["slices"]) == {"add", "detail"}
    assert found["hit_rate@20_by_hour"]["slices"]
    assert found["hit_rate@20_by_category"]["slices"] == {}

"""A metric that is no number or missing, a check that crashes, a report cut short: the gate closes.

Every other check is reported as if nothing had happened, and float32 is a number like any other.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.contracts import Check, Verdict
from include.gate.rules import load_rules
from include.gate.verdict import decide
from tests.gate.evaluations import Row, build, reported, write
from tests.gate.measuring import SUITE, TRAINED

# Measures the folders it is given, TensorFlow and all being started once. Where a folder says so, a check of
# the suite does something else than it should.
MEASURE = """
import json, math, pathlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import suite
from report import check

def crash(result):
    raise ZeroDivisionError("mean of nothing")

FAULTS = {
    "nan": lambda result: setattr(result, "value", math.nan),
    "infinity": lambda result: setattr(result, "value", np.inf),
    "float32": lambda result: setattr(result, "value", np.float32(0.5)),
    "nan_float32": lambda result: setattr(result, "value", np.float32("nan")),
    "missing": lambda result: None,
    "no_number": lambda result: setattr(result, "value", {1, 2}),
    "crash": crash,
}
sound = suite.SessionSuite
for folder in map(pathlib.Path, sys.argv[2:]):
    fault = FAULTS.get(folder.name)
    faulty = None if fault is None else check("coverage@20")(lambda self, result, fault=fault: (
        setattr(result, "sample_size", 900), fault(result)))
    suite.SessionSuite = sound if fault is None else type("Faulty", (sound,), {"coverage": faulty})
    status = suite.main(["--evaluation", str(folder), "--out", str(folder / "report.json")])
    assert status == 0
"""
# Of the check `coverage@20`, whose rule is `coverage_floor`: what becomes of it, and words of the reason.
IN_THE_SUITE = {
    "nan": ("failed", "missing or not a finite number"),
    "infinity": ("failed", "missing or not a finite number"),
    "nan_float32": ("failed", "missing or not a finite number"),
    "missing": ("failed", "missing or not a finite number"),
    "no_number": ("failed", "crashed: TypeError"),
    "crash": ("failed", "crashed: ZeroDivisionError: mean of nothing"),
    "float32": ("passed", "is 0.5"),
}
# What the job reports as its mrr@20, which `metrics_agree` holds against its predictions.
BY_THE_JOB = {"nan": math.nan, "infinite": math.inf, "null": None, "text": "0.4", "absent": "absent"}
# Columns that a job's predictions lack: the checks that need them crash.
COLUMNS = ("scores", "session", "rank_popularity")


@pytest.fixture(scope="module")
def reports(ml_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The suite's report on each evaluation."""
    root = tmp_path_factory.mktemp("evaluations")
    rows, counts = build()
    for name in ("sound", *IN_THE_SUITE):
        write(root / name, rows, counts)
    for name, value in BY_THE_JOB.items():
        metrics: Row = reported(rows) | {"mrr@20": value}
        if value == "absent":
            del metrics["mrr@20"]
        write(root / f"job {name}", rows, counts, metrics)
    for column in COLUMNS:
        without = [{key: row[key] for key in row if key != column} for row in rows]
        write(root / f"without {column}", without, counts, reported(rows))
    command = [ml_python, "-c", MEASURE, SUITE.parent, *sorted(root.iterdir())]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=300)
    return {folder.name: (folder / "report.json").read_text() for folder in root.iterdir()}


def _verdict(report: str) -> Verdict:
    return decide(report, load_rules(), TRAINED, "s3://b/report.json")


def _only(report: str, sound: str, *rules: str) -> list[Check]:
    """Returns the outcome of these rules; all others' must be as they were."""
    outcome, before = ({check.name: check for check in _verdict(text).checks} for text in (report, sound))
    assert set(outcome) == set(before)
    changed = {name for name in outcome if outcome[name] != before[name]}
    assert changed == set(rules)
    return [outcome[name] for name in rules]


@pytest.mark.parametrize("fault", IN_THE_SUITE)
def test_a_check_that_measures_nothing_fails_its_rule_alone(reports: dict[str, str], fault: str) -> None:
    status, words = IN_THE_SUITE[fault]
    [check] = _only(reports[fault], reports["sound"], "coverage_floor")
    assert check.status == status
    assert words in check.reason


@pytest.mark.parametrize("value", BY_THE_JOB)
def test_a_metric_that_the_job_reports_as_no_number_fails(reports: dict[str, str], value: str) -> None:
    [check] = _only(reports[f"job {value}"], reports["sound"], "metrics_agree")
    assert check.status == "failed"
    assert "reported_metrics_deviation" in check.reason


@pytest.mark.parametrize("column", COLUMNS)
def test_checks_that_lack_a_column_do_not_hide_the_others(reports: dict[str, str], column: str) -> None:
    checks, sound = (
        {check["name"]: check for check in json.loads(reports[name])["checks"]}
        for name in (f"without {column}", "sound")
    )
    assert set(checks) == set(sound)
    crashed = {name for name in checks if checks[name]["error"] != sound[name]["error"]}
    assert crashed and all(column in checks[name]["error"] for name in crashed)
    for name in ("hit_rate@10", "mrr@20", "coverage@20", "queries"):
        assert checks[name]["value"] == sound[name]["value"]
    assert not _verdict(reports[f"without {column}"]).approved


def _spoiled(report: str, spoil: Callable[[Row], None]) -> str:
    content = json.loads(report)
    [check] = [check for check in content["checks"] if check["name"] == "coverage@20"]
    spoil(check)
    return json.dumps(content)


SPOILED: dict[str, Any] = {
    "value_is_text": lambda check: check.update(value="high"),
    "value_is_a_list": lambda check: check.update(value=[0.5]),
    "negative_sample": lambda check: check.update(sample_size=-1),
    "interval_of_one": lambda check: check.update(interval=[0.1]),
    "value_is_nan": lambda check: check.update(value=math.nan),
}


@pytest.mark.parametrize("case", SPOILED)
def test_one_line_of_the_report_that_cannot_be_read_fails_its_rule_alone(
    reports: dict[str, str], case: str
) -> None:
    spoiled = _spoiled(reports["sound"], SPOILED[case])
    [check] = _only(spoiled, reports["sound"], "coverage_floor")
    assert check.status == "failed"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_report_closes_every_rule(reports: dict[str, str], share: float) -> None:
    text = reports["sound"]
    verdict = _verdict(text[: int(len(text) * share)])
    assert not verdict.approved
    assert len(verdict.failures) == len(verdict.checks) == len(load_rules().rules)
    assert all("report" in check.reason for check in verdict.failures)

"""The gate both ways: models whose right verdict is known, through suite and rules as they are shipped."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.contracts import Champion, TrainedModel, Verdict
from include.gate.rival import NOTHING_LIVE, Rival
from include.gate.rules import load_rules
from include.gate.verdict import as_table, decide
from tests.gate.evaluations import Row
from tests.gate.planted import Model, leave, queries, shuffled, table

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "include" / "gate" / "suite.py"
TRAINED = TrainedModel(
    job_name="pms-0123456789ab",
    job_arn="arn:aws:sagemaker:us-east-1:123456789012:training-job/pms-0123456789ab",
    snapshot_id="snap",
    model_uri="s3://b/m/model.tar.gz",
    evaluation_uri="s3://b/m/output.tar.gz",
    billable_seconds=1,
)
LIVE = Rival(champion=Champion(model_name="pms-live", model_uri="s3://b/live/model.tar.gz"))

Spoil = Callable[[list[Row]], None]

GOOD = table("head", "tail")
MODELS = {
    "good": Model(GOOD),
    "shuffled_weights": Model(shuffled(GOOD)),
    "constant": Model(table(fill="best")),
    "popular_only": Model(table("head", fill="best")),
    "tail_only": Model(table("tail", "head")),
    "without_tail": Model(table("head")),
    "leaking": Model(GOOD, leak=0.97),
    "elsewhere": Model({f"other-{sku}": [f"other-{other}" for other in row] for sku, row in GOOD.items()}),
}


@pytest.fixture(scope="module")
def packages(ml_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artefact of each model."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "tables.json").write_text(json.dumps({name: model.answers for name, model in MODELS.items()}))
    script = Path(__file__).with_name("packages.py")
    command = [ml_python, "-I", script, folder / "tables.json", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "saved_model.pb").write_bytes(b"\x08\x01 rubbish")
    return folder


class Gate:
    """Suite and rules, as the operator runs them; the suite runs once for each model and live model."""

    def __init__(self, python: Path, packages: Path, folder: Path) -> None:
        self.python, self.packages, self.folder = python, packages, folder
        self.reports: dict[tuple[str, str | None, str], str] = {}

    def report(
        self, model: str, live: str | None = None, *, served: str = "", spoil: Spoil | None = None
    ) -> str:
        """Measures a model; `served` is what is packaged, where that is another one."""
        key = (model, live, f"{served} {spoil}")
        if key not in self.reports:
            rows = queries(MODELS[model])
            if spoil is not None:
                spoil(rows)
            evaluation, out = leave(self.folder / "evaluation", rows), self.folder / "report.json"
            command = [self.python, "-I", SUITE, "--evaluation", evaluation, "--out", out]
            command += ["--model", self.packages / (served or model), "--package-bytes", "1000000"]
            command += ["--champion", self.packages / live] if live else []
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=300)
            self.reports[key] = out.read_text()
        return self.reports[key]

    def __call__(self, model: str, live: str | None = None, **options: Any) -> Verdict:
        text, rival = self.report(model, live, **options), LIVE if live else NOTHING_LIVE
        return decide(text, load_rules(), TRAINED, "s3://b/report.json", rival=rival)


@pytest.fixture(scope="module")
def gate(ml_python: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(ml_python, packages, tmp_path_factory.mktemp("gate"))


def names(verdict: Verdict, status: str) -> set[str]:
    return {check.name for check in verdict.checks if check.status == status}


NEEDS_CHAMPION = {rule.name for rule in load_rules().rules if rule.needs}
LIVE_DECIDES = {"hit_rate_not_worse_than_live", "hit_rate_surely_not_worse_than_live"}


# The model, the live one, and checks that must have failed; none where it must be approved.
CASES: dict[str, tuple[str, str | None, set[str]]] = {
    "first_deploy": ("good", None, set()),
    "equal_to_the_champion": ("good", "good", set()),
    "better_than_the_champion": ("good", "without_tail", set()),
    "champion_of_another_catalogue": ("good", "elsewhere", set()),
    "champion_is_better": ("without_tail", "good", LIVE_DECIDES | {"no_popularity_loses[tail]"}),
    "champion_ranks_better": ("tail_only", "good", {"mrr_surely_not_worse_than_live"}),
    "champion_cannot_be_loaded": ("good", "broken", LIVE_DECIDES),
    "shuffled_weights": ("shuffled_weights", None, {"hit_rate_beats_covisitation"}),
    "constant_recommender": ("constant", None, {"popularity_bias_ceiling", "mrr_surely_beats_popularity"}),
    "brilliant_on_popular_products_alone": ("popular_only", None, {"works_beyond_the_best_sellers[tail]"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gate_decides_rightly(gate: Gate, name: str) -> None:
    model, live, expected = CASES[name]
    verdict = gate(model, live)
    assert verdict.approved is (not expected), as_table(verdict)
    assert expected <= names(verdict, "failed"), as_table(verdict)


def test_the_first_deploy_skips_what_needs_a_champion(gate: Gate) -> None:
    verdict = gate("good")
    assert names(verdict, "skipped") >= NEEDS_CHAMPION
    assert not names(verdict, "warned")


def test_a_champion_of_another_catalogue_is_no_measure(gate: Gate) -> None:
    verdict = gate("good", "elsewhere")
    assert names(verdict, "skipped") >= NEEDS_CHAMPION
    assert all("another catalogue" in c.reason for c in verdict.checks if c.name in NEEDS_CHAMPION)


def test_a_leaking_model_is_approved_with_a_warning(gate: Gate) -> None:
    verdict = gate("leaking")
    assert verdict.approved, as_table(verdict)
    assert "not_suspiciously_sure" in names(verdict, "warned")


def test_every_check_that_the_rules_name_is_reported_beside_a_champion(gate: Gate) -> None:
    report = json.loads(gate.report("good", "good"))
    wrong = {check["name"]: check["error"] for check in report["checks"] if check["error"]}
    assert not wrong
    named = {rule.check for rule in load_rules().rules} | {load_rules().comparable.check}
    assert named <= {check["name"] for check in report["checks"]}


def _nan_everywhere(rows: list[Row]) -> None:
    for row in rows:
        row["scores"] = [math.nan] * len(row["scores"])
        row["target"] = None
        row["rank_popularity"] = row["rank_covisitation"] = None


def test_nan_everywhere_is_rejected(gate: Gate) -> None:
    verdict = gate("good", "good", spoil=_nan_everywhere)
    assert not verdict.approved
    assert {"sound_lists", "hit_rate_floor", "mrr_floor", "hit_rate_not_worse_than_live"} <= names(
        verdict, "failed"
    )


def test_an_artefact_that_is_not_what_was_evaluated_is_rejected(gate: Gate) -> None:
    verdict = gate("good", served="shuffled_weights")
    assert names(verdict, "failed") == {"serves_what_was_evaluated"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_report_is_rejected(gate: Gate, share: float) -> None:
    text = gate.report("good")
    verdict = decide(text[: int(len(text) * share)], load_rules(), TRAINED, "s3://b/report.json")
    assert not verdict.approved and len(verdict.failures) == len(verdict.checks)

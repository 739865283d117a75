"""The gate both ways: models whose right verdict is known, through suite and rules as they are shipped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from include.gate.rules import load_rules
from include.gate.verdict import as_table
from tests.gate.evaluations import Row
from tests.gate.measuring import Gate, names, planted_gate


@pytest.fixture
def gate(ml_python: Path) -> Gate:
    return planted_gate(ml_python)


NEEDS_CHAMPION = {rule.name for rule in load_rules().rules if rule.needs}
LIVE_DECIDES = {"hit_rate_not_worse_than_live", "hit_rate_surely_not_worse_than_live"}


# The model, the live one, and checks that must have failed; none where it must be approved.
CASES: dict[str, tuple[str, str | None, set[str]]] = {
    "first_deploy": ("good", None, set()),
    "equal_to_the_champion": ("good", "good", set()),
    "better_than_the_champion": ("good", "without_tail", set()),
    "champion_of_another_catalogue": ("good", "elsewhere", set()),
    "champion_ranks_better": ("tail_only", "good", {"mrr_surely_not_worse_than_live"}),
    "champion_cannot_be_loaded": ("good", "broken", LIVE_DECIDES),
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

"""A model that is worse than a baseline, or on a slice of the sessions: rejected, and told where."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.gate.verdict import as_table
from tests.gate.measuring import planted_gate

# The model, the live one, the rule that must have failed, and words of its reason.
CASES: dict[str, tuple[str, str | None, str, str]] = {
    "than_covisitation": (
        "shuffled_weights",
        None,
        "hit_rate_beats_covisitation",
        "1 x covisitation's hit_rate@20",
    ),
    "than_the_best_sellers": (
        "constant",
        None,
        "hit_rate_beats_popularity",
        "1.1 x popularity's hit_rate@20",
    ),
    "on_rare_products": (
        "popular_only",
        None,
        "works_beyond_the_best_sellers[tail]",
        "hit_rate@20_by_popularity is",
    ),
    "on_rare_products_than_the_live_one": (
        "without_tail",
        "good",
        "no_popularity_loses[tail]",
        "hit_rate@20_by_popularity less the live model's (upper 95 % end) is",
    ),
    "than_the_live_one": (
        "without_tail",
        "good",
        "hit_rate_surely_not_worse_than_live",
        "x the live model's hit_rate@20",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_that_is_worse_is_rejected_with_the_place_named(ml_python: Path, name: str) -> None:
    model, live, rule, words = CASES[name]
    verdict = planted_gate(ml_python)(model, live)
    assert not verdict.approved
    [found] = [check for check in verdict.failures if check.name == rule] or [None]
    assert found is not None, as_table(verdict)
    assert words in found.reason
    assert found.value is not None and found.bound is not None and found.value < found.bound

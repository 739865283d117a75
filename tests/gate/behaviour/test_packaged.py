from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artefact import Answer
from packaged import Change, drop_event, overlap, repeat_event, swap_events, unknown_sku
from tests.gate.evaluations import Row

Models = Callable[[str], Path]
Run = Callable[..., dict[str, dict[str, Any]]]
CHANGES: dict[str, tuple[Change, int]] = {
    "drop": (drop_event, 2),
    "repeat": (repeat_event, 1),
    "swap": (swap_events, 3),
    "stranger": (unknown_sku, 0),
}
STABILITY = [f"stability_{name}" for name in ("drop_event", "repeat_event", "swap_events", "unknown_sku")]


def _changed(change: Change, session: list[str]) -> list[str] | None:
    return change(session, np.random.default_rng(3))


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("length", range(7))
def test_changes_leave_the_viewed_product_and_are_small(name: str, length: int) -> None:
    change, shortest = CHANGES[name]
    session = [f"p{place}" for place in range(length)]
    whole = list(session)
    for seed in range(20):
        changed = change(session, np.random.default_rng(seed))
        assert session == whole
        if length < shortest:
            assert changed is None
            continue
        assert changed is not None and changed != session
        assert abs(len(changed) - length) == (name != "swap")
        strangers = set(changed) - set(session)
        assert len(strangers) == (name == "stranger")
        assert len(set(session) - set(changed)) == (name == "drop")
        if session:
            assert [sku for sku in changed if sku not in strangers][-1] == session[-1]


def test_a_reload_shows_the_same_page_twice_in_a_row() -> None:
    assert _changed(repeat_event, ["a"]) == ["a", "a"]


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [("abcd", "dcba", 1.0), ("abcd", "abxy", 0.5), ("abcd", "wxyz", 0.0), ("abcd", "ab", 0.5), ("", "", 0.0)],
)
def test_overlap_is_the_share_that_stays(before: str, after: str, share: float) -> None:
    answers = (Answer(list(skus), [0.0] * len(skus), known=True) for skus in (before, after))
    assert overlap(*answers) == share


def test_a_steady_model_that_serves_what_was_evaluated(
    checks: Run, models: Models, answered: tuple[list[Row], Row]
) -> None:
    found = checks(*answered, model=models("good"), package_bytes=2_500_000)
    assert found["served_answers_differ"] | {"interval": None} == found["served_answers_differ"] | {
        "value": 0.0,
        "sample_size": 300,
        "error": None,
    }
    assert found["package_megabytes"]["value"] == 2.5
    latency = found["single_answer_ms"]
    assert latency["interval_kind"] == "percentiles"
    assert found["hit_rate@20"]["interval_kind"] == "confidence"
    assert 0 < latency["interval"][0] <= latency["value"] <= latency["interval"][1]
    assert found["stability_unknown_sku"]["value"] == 1.0
    for name in STABILITY:
        low, high = found[name]["interval"]
        assert 0.8 < low <= found[name]["value"] <= high <= 1.0, name
    # Only sessions of two or more can lose an event, of three or more swap two.
    lengths = [len(row["session"]) for row in answered[0]]
    assert found["stability_drop_event"]["sample_size"] == sum(length > 1 for length in lengths)
    assert found["stability_swap_events"]["sample_size"] == sum(length > 2 for length in lengths)


def test_a_model_that_collapses_on_a_dropped_event_shows_it(
    checks: Run, models: Models, answered: tuple[list[Row], Row]
) -> None:
    found = checks(*answered, model=models("fickle"))
    assert found["stability_drop_event"]["value"] < 0.3
    assert found["stability_repeat_event"]["value"] < 0.3
    assert found["stability_swap_events"]["value"] == 1.0


def test_a_package_with_other_weights_than_were_evaluated_is_found_out(
    checks: Run, models: Models, answered: tuple[list[Row], Row]
) -> None:
    """Its scores are the evaluated ones: only the products are others, as where a vocabulary is mixed up."""
    found = checks(*answered, model=models("other weights"))
    assert found["served_answers_differ"]["value"] > 0.9


def test_sessions_too_short_to_disturb_are_no_crash(
    checks: Run, models: Models, answered: tuple[list[Row], Row]
) -> None:
    rows = [row for row in copy.deepcopy(answered[0]) if len(row["session"]) == 1]
    found = checks(rows, answered[1], model=models("good"))
    for name in ("stability_drop_event", "stability_swap_events"):
        assert (found[name]["value"], found[name]["sample_size"], found[name]["error"]) == (None, 0, None)
    assert found["stability_repeat_event"]["sample_size"] == len(rows)


def test_without_a_package_its_checks_say_so_and_the_others_go_on(
    checks: Run, answered: tuple[list[Row], Row]
) -> None:
    found = checks(*answered)
    silent = {name for name, check in found.items() if check["error"]}
    assert {*STABILITY, "single_answer_ms", "served_answers_differ", "package_megabytes"} <= silent
    assert "not given" in found["single_answer_ms"]["error"]
    assert found["hit_rate@20"]["value"] > 0.3


def test_the_same_package_gives_the_same_values(
    checks: Run, models: Models, answered: tuple[list[Row], Row]
) -> None:
    one, other = (checks(*answered, model=models("good")) for _ in range(2))
    one.pop("single_answer_ms"), other.pop("single_answer_ms")
    assert one == other

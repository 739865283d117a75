from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from artefact import Answer, Artefact, K, same_answer
from tests.gate.evaluations import SKUS

Models = Callable[[str], Path]


def _answer(*pairs: tuple[str, float]) -> Answer:
    return Answer([sku for sku, _ in pairs], [score for _, score in pairs], known=True)


BASE = _answer(("a", 0.5), ("b", 0.3), ("c", 0.1))
PAIRS: dict[str, tuple[Answer, bool]] = {
    "itself": (BASE, True),
    "rounding": (_answer(("a", 0.501), ("b", 0.3), ("c", 0.1)), True),
    "near-tie in another order": (_answer(("a", 0.5), ("c", 0.1), ("b", 0.1)), False),
    "other score": (_answer(("a", 0.55), ("b", 0.3), ("c", 0.1)), False),
    "same scores, other products": (_answer(("x", 0.5), ("y", 0.3), ("z", 0.1)), False),
    "tied last one": (_answer(("a", 0.5), ("b", 0.3), ("d", 0.1)), True),
    "shorter": (_answer(("a", 0.5), ("b", 0.3)), False),
    "nothing": (_answer(), False),
    "out of order": (_answer(("a", 0.5), ("c", 0.1), ("b", 0.3)), False),
}


def test_flat_scores_do_not_make_unrelated_lists_the_same() -> None:
    one = _answer(*((f"a{place}", 0.05) for place in range(K)))
    shared = {18: True, 17: False, 0: False}
    for kept, same in shared.items():
        other = [(f"{'a' if place < kept else 'b'}{place}", 0.05) for place in range(K)]
        assert same_answer(one, _answer(*other), tolerance=0.01) is same, kept


@pytest.mark.parametrize("case", PAIRS)
def test_answers_are_the_same_but_for_near_ties(case: str) -> None:
    other, same = PAIRS[case]
    assert same_answer(BASE, other, tolerance=0.01) is same
    assert same_answer(other, BASE, tolerance=0.01) is same


def test_tied_neighbours_may_change_places() -> None:
    one = _answer(("a", 0.5), ("b", 0.3), ("c", 0.2999))
    assert same_answer(one, _answer(("a", 0.5), ("c", 0.3), ("b", 0.3)), tolerance=0.01)


def test_batches_keep_the_order_of_the_questions(models: Models) -> None:
    sessions = [SKUS[place : place + 1 + place % 7] for place in range(280)]
    artefact = Artefact(models("good"))
    singly, seconds = artefact.answer_singly(sessions)
    assert [answer.skus for answer in artefact.answer(sessions)] == [answer.skus for answer in singly]
    assert len(seconds) == len(sessions) and min(seconds) > 0
    for session, answer in zip(sessions, singly, strict=True):
        assert len(answer.skus) == K and session[-1] not in answer.skus


def test_a_signature_without_exclude_seen_is_asked_without(models: Models) -> None:
    sessions = [SKUS[:3], ["nobody knows"]]
    of_before, now = (Artefact(models(name)).answer(sessions) for name in ("of before", "good"))
    assert of_before == now
    assert [answer.known for answer in now] == [True, False]


def test_the_greatest_version_is_asked(models: Models, tmp_path: Path) -> None:
    (tmp_path / "9").symlink_to(models("forgetful") / "1")
    (tmp_path / "10").symlink_to(models("good") / "1")
    assert Artefact(tmp_path).answer([SKUS[:1]]) == Artefact(models("good")).answer([SKUS[:1]])


def test_what_failed_once_is_not_tried_again(tmp_path: Path, models: Models) -> None:
    artefact = Artefact(tmp_path)
    with pytest.raises(Exception, match=r"no <version>/saved_model\.pb"):
        artefact.answer([SKUS[:1]])
    (tmp_path / "1").symlink_to(models("good") / "1")
    with pytest.raises(Exception, match=r"no <version>/saved_model\.pb"):
        artefact.answer([SKUS[:1]])

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import queries
import sessions
from baselines import recommend_all, transitions, with_popular
from evaluate import metrics

NAMES = ("popularity", "covisitation", "markov", "session_knn")


@pytest.fixture(scope="module")
def answers(planted: Path) -> tuple[queries.Queries, dict[str, np.ndarray], int]:
    corpus = sessions.load(planted)
    asked = queries.build(corpus.test, 1000, 1)
    products = len(corpus.vocabulary)
    return asked, recommend_all(corpus.train, products, asked, 20), products


@pytest.mark.parametrize("name", NAMES)
def test_lists_hold_no_repeat_and_never_the_viewed_item(name: str, answers: tuple) -> None:
    asked, lists, _ = answers
    for row, viewed in zip(lists[name], asked.viewed, strict=True):
        real = row[row > 0].tolist()
        assert len(set(real)) == len(real) == 20
        assert viewed not in real


# Without direction a chain's two other products tie; both are on top all the same.
@pytest.mark.parametrize(("name", "within"), [("covisitation", 2), ("markov", 1), ("session_knn", 2)])
def test_planted_chain_is_found(name: str, within: int, answers: tuple) -> None:
    asked, lists, products = answers
    known = (asked.targets > 0) & (asked.lengths > 0)
    top, targets = lists[name][known], asked.targets[known]
    assert (top[:, :within] == targets[:, None]).any(axis=1).mean() > 0.9
    assert metrics(top, targets, products)["hit_rate@10"] > 0.9


def test_popularity_lists_the_most_frequent(answers: tuple) -> None:
    asked, lists, _ = answers
    for row, viewed in zip(lists["popularity"], asked.viewed, strict=True):
        assert row.tolist() == [item for item in range(1, 22) if item != viewed][:20]


FILLED = {
    "empty list": ([0, 0], 0, [1, 2, 3]),
    "viewed is struck": ([5, 2], 2, [5, 1, 3]),
    "popular ones are not repeated": ([1, 3], 9, [1, 3, 2]),
    "gap": ([0, 4], 0, [4, 1, 2]),
}


@pytest.mark.parametrize("case", FILLED)
def test_with_popular(case: str) -> None:
    ranked, viewed, expected = FILLED[case]
    filled = with_popular(np.array([ranked], np.int32), np.array([viewed], np.int32), products=9, k=3)
    assert filled[0].tolist() == expected


def test_small_catalogue_leaves_empty_places() -> None:
    filled = with_popular(np.array([[2]], np.int32), np.array([1], np.int32), products=2, k=4)
    assert filled[0].tolist() == [2, 0, 0, 0]


def test_transitions_stay_within_a_session() -> None:
    ids = np.array([1, 2, 3, 1], np.int32)
    split = sessions.Sessions(np.array(["a", "b"], object), np.array([0, 2, 4]), ids, ids)
    counted = transitions(split, products=3).toarray()
    assert counted[1, 2] == counted[3, 1] == 1
    assert counted.sum() == 2

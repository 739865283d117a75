from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from embedding import DIMENSIONS, covisit_vectors
from sessions import Sessions

Make = Callable[[list[list[int]]], Sessions]


def _cliques(groups: int, size: int) -> list[list[int]]:
    """Sessions of two products of one group, every pair of it a few times."""
    members = [range(1 + group * size, 1 + (group + 1) * size) for group in range(groups)]
    pairs = [[a, b] for group in members for a in group for b in group if a < b]
    return pairs * 3


def test_products_viewed_together_are_near_and_others_far(make_sessions: Make) -> None:
    vectors = covisit_vectors(make_sessions(_cliques(groups=8, size=5)), 40)
    likeness = vectors @ vectors.T
    same = np.kron(np.eye(8, dtype=bool), np.ones((5, 5), bool))
    assert likeness[same].min() > likeness[~same].max() + 0.2
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(40), abs=1e-5)


def test_vectors_are_few_and_the_same_each_time(make_sessions: Make) -> None:
    rng = np.random.default_rng(1)
    sessions = make_sessions([rng.integers(1, 201, 6).tolist() for _ in range(400)])
    vectors = covisit_vectors(sessions, 200)
    assert vectors.shape == (200, DIMENSIONS)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, covisit_vectors(sessions, 200))


@pytest.mark.parametrize(
    ("rows", "products"),
    [([[1, 1, 1]], 1), ([[0, 0]], 2), ([[1, 1], [2, 2]], 2), ([], 3)],
    ids=["one product", "unknown only", "never together", "no sessions"],
)
def test_nothing_viewed_together_gives_no_vectors(
    make_sessions: Make, rows: list[list[int]], products: int
) -> None:
    assert not covisit_vectors(make_sessions(rows), products).any()


def test_a_product_viewed_alone_has_no_vector(make_sessions: Make) -> None:
    vectors = covisit_vectors(make_sessions([*_cliques(groups=1, size=5), [6]]), 6)
    assert vectors[:5].any(axis=1).all()
    assert not vectors[5].any()

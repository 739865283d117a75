from __future__ import annotations

import math

import numpy as np
import pytest

from evaluate import at_cutoff, metrics, ranks

LISTS = np.array([[1, 2, 3], [3, 1, 0], [2, 0, 0]], np.int32)

RANKS = {
    "first, second, first": ([1, 1, 2], [1, 2, 1]),
    "missed": ([9, 2, 1], [0, 0, 0]),
    "unknown target never meets an empty place": ([0, 0, 0], [0, 0, 0]),
}


@pytest.mark.parametrize("case", RANKS)
def test_ranks(case: str) -> None:
    targets, expected = RANKS[case]
    assert ranks(LISTS, np.array(targets, np.int32)).tolist() == expected


CUTOFFS = {
    "all first": ([1, 1], 10, 1.0, 1.0, 1.0),
    "all missed": ([0, 0], 10, 0.0, 0.0, 0.0),
    "at the cutoff": ([10, 0], 10, 0.5, 0.05, 0.5 / math.log2(11)),
    "beyond the cutoff": ([11, 0], 10, 0.0, 0.0, 0.0),
    "third": ([3], 20, 1.0, 1 / 3, 0.5),
}


@pytest.mark.parametrize("case", CUTOFFS)
def test_at_cutoff(case: str) -> None:
    place, cutoff, hit_rate, mrr, ndcg = CUTOFFS[case]
    found = at_cutoff(np.array(place, np.int64), cutoff)
    assert found == pytest.approx(
        {f"hit_rate@{cutoff}": hit_rate, f"mrr@{cutoff}": mrr, f"ndcg@{cutoff}": ndcg}
    )


def test_coverage_counts_products_once_and_empty_places_never() -> None:
    assert metrics(LISTS, np.array([1, 1, 1], np.int32), products=4)["coverage@20"] == 0.75


def test_nothing_to_evaluate_is_an_error_and_not_nan() -> None:
    with pytest.raises(ValueError, match="no queries"):
        metrics(np.zeros((0, 20), np.int32), np.zeros(0, np.int32), 3)

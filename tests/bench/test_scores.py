from __future__ import annotations

from math import log2

import numpy as np
import pytest

from bench.next_item import scores
from bench.next_item.shop import Log, Shop, build


def log(*sessions: list[int]) -> Log:
    lengths = [len(session) for session in sessions]
    items = np.array([item for session in sessions for item in session], np.int64)
    return Log(items, np.arange(len(items), dtype=np.float64), np.concatenate([[0], np.cumsum(lengths)]))


def shop(*test: list[int], products: int = 30) -> Shop:
    names = [f"t{number}" for number in range(len(test))]
    return build(log(list(range(products))), log(*test), products, [str(code) for code in range(99)], names)


UNKNOWN = 50


@pytest.mark.parametrize(
    ("session", "shown", "answer_of"),
    [
        pytest.param([3, 4, 5], [3, 4], [0, 1], id="a query per step, the last item only asked for"),
        pytest.param([3, UNKNOWN, 5], [3], [0, 0], id="an unknown product changes nothing"),
        pytest.param([UNKNOWN, 4, 5], [4], [-1, 0], id="nobody is asked before something known"),
        pytest.param([3, UNKNOWN, 3, 5], [3], [0, 0, 0], id="repeats it kept apart are one view"),
        pytest.param([UNKNOWN, UNKNOWN + 1], [], [-1], id="nothing known at all"),
    ],
)
def test_what_peers_are_shown(session: list[int], shown: list[int], answer_of: list[int]) -> None:
    # Between two others: a query must not be answered after another session's product.
    data = shop([1, 2], session, [6, 7])
    start, stop = data.shown.offsets[1:3]
    assert data.shown.items[start:stop].tolist() == shown
    mine = data.answer_of[1:-1]
    assert np.where(mine < 0, -1, mine - start).tolist() == answer_of
    assert data.targets[1:-1].tolist() == session[1:]


@pytest.mark.parametrize(
    ("ranked", "viewed", "start"),
    [
        pytest.param([9, 8, 7], -1, [9, 8, 7, 0, 1, 2], id="filled with popular products"),
        pytest.param([9, 8, 7], 8, [9, 7, 0, 1, 2, 3], id="the viewed one is struck, the rest move up"),
        pytest.param([1, 9, 1, -1], 0, [1, 9, 2, 3, 4, 5], id="repeats and empty places are struck"),
        pytest.param([UNKNOWN, 9], -1, [9, 0, 1, 2, 3, 4], id="nobody can list what training never saw"),
    ],
)
def test_the_lists_that_count(ranked: list[int], viewed: int, start: list[int]) -> None:
    final = scores.final_lists(np.array([ranked]), np.array([viewed]), products=30)
    assert final.shape == (1, 20)
    assert final[0, :6].tolist() == start


def test_a_list_longer_than_twenty_ends_at_twenty_after_the_viewed_one_is_struck() -> None:
    final = scores.final_lists(np.arange(21)[None], np.array([5]), products=30)
    assert final[0].tolist() == [*range(5), *range(6, 21)]


def test_a_small_catalogue_leaves_places_empty() -> None:
    assert scores.final_lists(np.array([[1]]), np.array([0]), products=3)[0].tolist() == [1, 2] + [-1] * 18


def test_metrics_by_hand() -> None:
    # Ranks 1, 4, missed (beyond twenty) and unknown to training.
    data = shop([9, 3, 4], [9, 29], [9, UNKNOWN])
    lists = np.tile(np.arange(21), (4, 1))
    lists[0, :2] = [3, 0]  # 3 first; its old place repeats it and is struck
    lists[1, :] = [7, 8, 10, 4, *range(11, 28)]
    rank = scores.ranks(scores.final_lists(lists, data.viewed, data.products), data.targets)
    assert rank.tolist() == [1, 4, 0, 0]
    found = scores.summarise(data, rank)
    ndcg = 1 + 1 / log2(5)
    assert found["every"] == pytest.approx({"hit_rate": 2 / 4, "mrr": 1.25 / 4, "ndcg": ndcg / 4})
    assert found["every_known"] == pytest.approx({"hit_rate": 2 / 3, "mrr": 1.25 / 3, "ndcg": ndcg / 3})
    # The last of each session: ranks 4, missed, unknown.
    assert found["last"]["mrr"] == pytest.approx(0.25 / 3)
    assert found["last_known"]["mrr"] == pytest.approx(0.25 / 2)


def test_a_hit_on_the_viewed_product_is_none() -> None:
    data = shop([4, 5, 4])  # back to 4 while viewing 5, then nothing more
    lists = np.array([[4, 5], [5, 4]])
    rank = scores.ranks(scores.final_lists(lists, data.viewed, data.products), data.targets)
    assert rank.tolist() == [1, 1]


def test_the_difference_is_paired_and_by_session() -> None:
    rng = np.random.default_rng(0)
    data = shop(*([0, 1, 2, 3] for _ in range(200)))
    peer = rng.integers(0, 25, len(data.asked))
    same = scores.difference(data, [peer], [peer], "mrr")
    assert same["low"] == same["high"] == same["difference"] == 0.0
    better = np.where(peer == 0, 20, np.maximum(peer - 1, 1))
    ahead = scores.difference(data, [better, better], [peer], "mrr")
    assert 0 < ahead["low"] < ahead["difference"] < ahead["high"]
    assert ahead["relative"] == pytest.approx(
        scores.gains(better)["mrr"].mean() / scores.gains(peer)["mrr"].mean() - 1
    )


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.05), (4, 0.05)])
def test_queries_of_one_session_are_no_independent_draws(steps: int, expected: float) -> None:
    # A hundred sessions, half of them all hits: more steps of the same outcome say nothing new.
    data = shop(*(list(range(steps + 1)) for _ in range(100)))
    rank = np.repeat(np.arange(100) % 2, steps)
    assert scores.standard_error(data, rank, "hit_rate") == pytest.approx(expected)

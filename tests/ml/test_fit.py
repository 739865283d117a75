from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf  # noqa: TID253  # runs in the ML environment only

import batches
import checkpoints
import fit
import validate
from model import NextItem
from recommender import followers
from sessions import Sessions


def _options(**changes: float) -> fit.Options:
    values = {
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.01,
        "max_length": 5,
        "seed": 1,
        "max_seconds": 0,
    }
    return fit.Options(**(values | changes))  # type: ignore[arg-type]


def _sessions(rows: list[list[int]]) -> Sessions:
    ids = np.array([value for row in rows for value in row], np.int32)
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    return Sessions(pa.array([str(number) for number in range(len(rows))]), offsets, ids, ids)


def test_pad_keeps_the_end_of_a_session() -> None:
    padded = batches.pad(_sessions([[1, 2], [1, 2, 3, 4, 5]]), np.array([1, 0]), max_length=3)
    assert padded.tolist() == [[2, 3, 4, 5], [1, 2, 0, 0]]


@pytest.mark.parametrize("products", [10, 50_000_000], ids=["small", "softmax bounds the batch"])
def test_every_session_is_in_one_batch(products: int) -> None:
    lengths = np.random.default_rng(0).integers(2, 60, 101)
    plan = batches.plan_batches(lengths, products, 8, 5, np.random.default_rng(1))
    assert sorted(np.concatenate(plan).tolist()) == list(range(101))
    assert max(len(batch) for batch in plan) <= 8
    assert products == 10 or all(len(batch) == 1 for batch in plan)


RANKS = {
    "best": ([0, 9, 5, 1], 0, 1, 1),
    "second": ([0, 9, 5, 1], 0, 2, 2),
    "viewed does not count": ([0, 9, 5, 1], 1, 2, 1),
    "padding does not count": ([99, 9, 5, 1], 0, 1, 1),
    "a constant answer earns nothing": ([0, 7, 7, 7], 0, 1, 3),
    "target is viewed": ([0, 9, 5, 1], 2, 2, 0),
}


@pytest.mark.parametrize("case", RANKS)
def test_target_ranks(case: str) -> None:
    scores, viewed, target, expected = RANKS[case]
    found = validate.target_ranks(
        tf.constant([scores], tf.float32), tf.constant([viewed]), tf.constant([target])
    )
    assert int(found[0]) == expected


@pytest.mark.parametrize("architecture", ["gru", "attention"])
def test_network_looks_back_only_and_ignores_padding(architecture: str) -> None:
    network = NextItem(architecture, products=9, dim=8, dropout=0.5, max_length=6)
    short = network.last_logits(tf.constant([[3, 4]]), tf.constant([2]))
    padded = network.last_logits(tf.constant([[3, 4, 0, 0]]), tf.constant([2]))
    followed = network(tf.constant([[3, 4, 5, 6]]))[:, 1]
    np.testing.assert_allclose(short, padded, atol=1e-5)
    np.testing.assert_allclose(network.logits(followed), short, atol=1e-5)
    assert int(tf.argmin(short[0])) == 0


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="lstm"):
        NextItem("lstm", products=9, dim=8, dropout=0.0, max_length=6)


def test_followers_are_shares_and_prefer_what_came_after() -> None:
    ids, shares = followers(_sessions([[1, 2, 3], [2, 3]]), products=3)
    assert ids[2].tolist()[:2] == [3, 1]
    assert shares[2][0] == pytest.approx(2 / 2.5)
    assert (shares.sum(axis=1) <= 1.0001).all()
    assert not ids[0].any()


def test_time_limit_ends_training_early() -> None:
    from queries import build

    data = _sessions([[1, 2, 3]] * 64)
    network = NextItem("gru", products=3, dim=4, dropout=0.0, max_length=5)
    rows: list[checkpoints.Epoch] = []
    options = _options(epochs=50, max_seconds=1e-6)
    progress = fit.train(network, data, build(data, 100, 1), 3, options, rows.append)
    assert progress.finished
    assert len(progress.history) == len(rows) == 1

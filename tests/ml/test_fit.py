from __future__ import annotations

from collections.abc import Callable

import keras  # noqa: TID253  # runs in the ML environment only
import numpy as np
import pytest
import tensorflow as tf  # noqa: TID253

import batches
import checkpoints
import fit
import validate
from checkpoints import StopSignal
from model import NextItem
from queries import build
from sessions import Sessions, Vocabulary

Make = Callable[[list[list[int]]], Sessions]


def _options(**changes: float) -> fit.Options:
    values = {
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.01,
        "max_length": 5,
        "seed": 1,
        "max_seconds": 0,
        "label_smoothing": 0.1,
        "negatives": 4,
        "full_softmax_products": 100,
    }
    return fit.Options(**(values | changes))  # type: ignore[arg-type]


def test_pad_keeps_the_end_of_a_session(make_sessions: Make) -> None:
    padded = batches.pad(make_sessions([[1, 2], [1, 2, 3, 4, 5]]), np.array([1, 0]), max_length=3)
    assert padded.tolist() == [[2, 3, 4, 5], [1, 2, 0, 0]]


@pytest.mark.parametrize("products", [10, 200_000_000], ids=["small", "softmax bounds the batch"])
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


@pytest.mark.parametrize("full_softmax_products", [3, 2], ids=["full softmax", "sampled"])
def test_what_always_follows_is_learned(
    full_softmax_products: int,
    make_sessions: Make,
    make_vocabulary: Callable[[Sessions, int], Vocabulary],
) -> None:
    data = make_sessions([[1, 2, 3]] * 64)
    keras.utils.set_random_seed(1)
    network = NextItem("gru", products=3, dim=4, dropout=0.0, max_length=5)
    options = _options(epochs=6, learning_rate=0.05, full_softmax_products=full_softmax_products)
    progress = fit.train(
        network, data, build(data, 100, 1), make_vocabulary(data, 3), options, print, StopSignal()
    )
    assert progress.best == 1.0
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]


def test_time_limit_ends_training_early(
    make_sessions: Make, make_vocabulary: Callable[[Sessions, int], Vocabulary]
) -> None:
    data = make_sessions([[1, 2, 3]] * 64)
    network = NextItem("gru", products=3, dim=4, dropout=0.0, max_length=5)
    rows: list[checkpoints.Epoch] = []
    options = _options(epochs=50, max_seconds=1e-6)
    progress = fit.train(
        network, data, build(data, 100, 1), make_vocabulary(data, 3), options, rows.append, StopSignal()
    )
    assert progress.finished
    assert len(progress.history) == len(rows) == 1

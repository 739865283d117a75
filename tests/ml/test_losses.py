from __future__ import annotations

import keras  # noqa: TID253  # runs in the ML environment only
import numpy as np
import pytest
import tensorflow as tf  # noqa: TID253
from scipy.special import log_softmax

from losses import full_softmax, sampled_softmax
from model import NextItem

PRODUCTS = 30
COUNTS = np.arange(PRODUCTS, 0, -1)
TARGETS = np.array([1, 4, 30, 17], np.int32)


@pytest.fixture(scope="module")
def network() -> NextItem:
    keras.utils.set_random_seed(2)
    kinds = np.stack([np.arange(PRODUCTS + 1) % 4, 4 + np.arange(PRODUCTS + 1) % 3], 1).astype(np.int32)
    network = NextItem("gru", PRODUCTS, 8, 0.0, 10, kinds=kinds)
    network.bias.assign(np.random.default_rng(1).normal(size=PRODUCTS + 1))
    return network


@pytest.fixture(scope="module")
def states() -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(size=(4, 8)), tf.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_full_softmax_is_cross_entropy_with_smoothed_labels(
    smoothing: float, network: NextItem, states: tf.Tensor
) -> None:
    labels = np.full((4, PRODUCTS), smoothing / PRODUCTS)
    labels[np.arange(4), TARGETS - 1] += 1.0 - smoothing
    wanted = -(labels * log_softmax(network.logits(states).numpy()[:, 1:], axis=1)).sum(axis=1)
    np.testing.assert_allclose(full_softmax(network, smoothing)(states, TARGETS), wanted, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_sampled_softmax_of_many_is_the_full_one(
    smoothing: float, network: NextItem, states: tf.Tensor
) -> None:
    full = full_softmax(network, smoothing)(states, TARGETS)
    many = sampled_softmax(network, COUNTS, 100_000, smoothing)(states, TARGETS)
    np.testing.assert_allclose(many, full, atol=0.03)


def test_sum_of_a_few_draws_is_the_full_one_on_average(network: NextItem, states: tf.Tensor) -> None:
    few = tf.function(sampled_softmax(network, COUNTS, 20, 0.0))
    draws = np.exp([few(states, TARGETS) for _ in range(1000)])
    assert (draws.std(axis=0) > 0.05 * draws.mean(axis=0)).all()  # drawn anew each time
    full = full_softmax(network, 0.0)(states, TARGETS)
    np.testing.assert_allclose(draws.mean(axis=0), np.exp(full), rtol=0.05)


def test_negative_that_is_the_target_does_not_count() -> None:
    network = NextItem("gru", 2, 8, 0.0, 10)
    network.bias.assign([0.0, 1.0, -1.0])
    loss = sampled_softmax(network, np.array([10**12, 0]), 50, 0.0)  # draws are of the first alone
    zeros = tf.zeros((2, 8))
    targets = tf.constant([1, 2])
    # Drawn always, the first one counts once against the second, and not at all against itself.
    np.testing.assert_allclose(loss(zeros, targets), [0.0, np.log1p(np.exp(2.0))], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradients_of_a_sample_have_its_rows_only(smoothing: float, network: NextItem) -> None:
    loss = sampled_softmax(network, COUNTS, 5, smoothing)
    with tf.GradientTape() as tape:
        states = network(tf.constant([[3, 7]]), training=True)[0]
        total = tf.reduce_sum(loss(states, tf.constant([7, 9])))
    tables = (network.items.embeddings, network.kinds.embeddings, network.bias)
    rows = (1, 2, 1)  # a product is of two kinds
    for gradient, each in zip(tape.gradient(total, tables), rows, strict=True):
        assert isinstance(gradient, tf.IndexedSlices)
        assert len(gradient.indices) <= each * (2 + 2 + 5)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(full_softmax(network, 0.0)(states, tf.constant([7, 9])))
    assert not isinstance(tape.gradient(total, network.bias), tf.IndexedSlices)

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf  # noqa: TID253  # runs in the ML environment only

from model import NextItem
from recommender import Blend, Recommender, mix
from sessions import Sessions

PRODUCTS = 300
BLENDS = {
    "both priors": Blend(0.4, 0.1),
    "the network alone": Blend(0.0, 0.0),
    "mostly followers": Blend(0.8, 0.05),
    "mostly own items": Blend(0.2, 0.9),
}


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, 9, 400)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = (rng.zipf(1.3, offsets[-1]) % PRODUCTS + 1).astype(np.int32)
    train = Sessions(np.arange(400).astype(object), offsets, ids, ids)
    return Recommender(NextItem("gru", PRODUCTS, 16, 0.1, 50), train, PRODUCTS)


def _queries(seed: int, batch: int) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, batch)
    history = rng.integers(1, 40, (batch, 30))  # few products: candidates are named many times over
    history[np.arange(30) >= lengths[:, None]] = 0
    return tf.constant(history, tf.int32), tf.constant(lengths, tf.int32)


@pytest.mark.parametrize("case", BLENDS)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_served_is_the_mixture_of_the_dense_distributions(
    case: str, seed: int, recommender: Recommender
) -> None:
    blend = BLENDS[case]
    recommender.set_blend(blend)
    history, lengths = _queries(seed, batch=(1, 2, 5, 9, 70)[seed])
    parts = recommender.components(history, lengths)
    wanted = mix(parts, blend.neighbours, blend.revisit).numpy()
    np.testing.assert_allclose(recommender(history, lengths), wanted, rtol=1e-4, atol=1e-8)
    assert (wanted.sum(axis=1) < 1.0001).all()


def test_sparse_candidates_name_products_several_times_and_padding_without_weight(
    recommender: Recommender,
) -> None:
    recommender.set_blend(Blend(0.4, 0.1))
    history, lengths = _queries(1, 8)
    ids, weights = (tensor.numpy() for tensor in recommender.sparse(history, lengths))
    assert ids.shape == weights.shape
    assert ids.dtype == np.int32
    assert (weights[ids == 0] == 0).all()
    assert all(len(set(row[row > 0])) < (row > 0).sum() for row in ids)
    whole = recommender.dense_share() + weights.sum(axis=1)
    np.testing.assert_allclose(whole[lengths.numpy() > 1], 1.0, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 4, 5, 64, 65])
def test_logits_of_few_rows_are_those_of_many(rows: int) -> None:
    network = NextItem("gru", PRODUCTS, 16, 0.0, 50)
    history, lengths = _queries(0, rows)
    states = tf.gather(network(history), lengths - 1, batch_dims=1)
    np.testing.assert_allclose(
        network.last_logits(history, lengths), network.logits(states), rtol=1e-4, atol=1e-5
    )


def test_an_embedding_of_half_the_size_scores_alike() -> None:
    network = NextItem("gru", PRODUCTS, 16, 0.0, 50)
    small = NextItem("gru", PRODUCTS, 16, 0.0, 50, "bfloat16")
    small.set_weights(network.get_weights())
    assert small.items.embeddings.dtype == "bfloat16"
    history, lengths = _queries(0, 6)
    wanted = network.last_logits(history, lengths).numpy()
    found = small.last_logits(history, lengths).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 1:], wanted[:, 1:], atol=0.03 * np.abs(wanted[:, 1:]).max())
    assert (found[:, 0] < -1e8).all()

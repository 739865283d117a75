from __future__ import annotations

from collections.abc import Callable

import keras  # noqa: TID253  # runs in the ML environment only
import numpy as np
import pytest
import tensorflow as tf  # noqa: TID253

import fit
from checkpoints import StopSignal
from model import NextItem
from queries import build
from sessions import Sessions, Vocabulary

HISTORY = tf.constant([[3, 4, 0], [5, 1, 2], [9, 0, 0]])
LENGTHS = tf.constant([2, 3, 1])
# Of two sorts; ids 7 and 8 have none of the first, 9 none of the second.
KINDS = np.array([[0, 1, 1, 1, 2, 2, 2, 0, 0, 3], [0, 4, 5, 4, 5, 4, 5, 4, 5, 0]], np.int32).T


def _network(architecture: str = "gru", **options: object) -> NextItem:
    """A network whose weights are all different from what they begin with."""
    network = NextItem(architecture, products=9, dim=8, dropout=0.5, max_length=6, **options)  # type: ignore[arg-type]
    rng = np.random.default_rng(4)
    network.set_weights([rng.normal(0, 0.5, weights.shape) for weights in network.get_weights()])
    return network


@pytest.mark.parametrize("architecture", ["gru", "attention"])
@pytest.mark.parametrize("shortcuts", [0, 2])
def test_network_looks_back_only_and_ignores_padding(architecture: str, shortcuts: int) -> None:
    network = _network(architecture, shortcuts=shortcuts)
    short = network.last_logits(tf.constant([[3, 4]]), tf.constant([2]))
    padded = network.last_logits(tf.constant([[3, 4, 0, 0]]), tf.constant([2]))
    followed = network(tf.constant([[3, 4, 5, 6]]))[:, 1]
    np.testing.assert_allclose(short, padded, atol=1e-5)
    np.testing.assert_allclose(network.logits(followed), short, atol=1e-5)
    assert int(tf.argmin(short[0])) == 0


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="lstm"):
        NextItem("lstm", products=9, dim=8, dropout=0.0, max_length=6)


def test_a_shortcut_brings_a_product_to_the_state_as_it_is() -> None:
    network = _network(shortcuts=2)
    ids = tf.constant([[3, 4, 5]])
    network.shortcuts.assign(np.zeros((2, 8)))
    encoded = network(ids).numpy()
    network.shortcuts.assign(np.stack([np.zeros(8), np.full(8, 2.0)]))
    before = np.concatenate([np.zeros((1, 1, 8)), network.vectors(ids)[:, :-1]], axis=1)
    np.testing.assert_allclose(network(ids) - encoded, 2.0 * before, atol=1e-5)


@pytest.mark.parametrize("shortcuts", [0, 3])
def test_a_new_network_begins_with_the_last_product_alone(shortcuts: int) -> None:
    network = NextItem("gru", products=9, dim=8, dropout=0.0, max_length=6, shortcuts=shortcuts)
    assert network.shortcuts.numpy().tolist() == [[1.0] * 8, [0.0] * 8, [0.0] * 8][:shortcuts]


@pytest.mark.parametrize("kinds", [None, KINDS], ids=["no kinds", "kinds"])
@pytest.mark.parametrize("architecture", ["gru", "attention"])
def test_a_copy_needs_no_kinds_to_score_alike(
    architecture: str, kinds: np.ndarray[tuple[int, int], np.dtype[np.int32]] | None
) -> None:
    network = _network(architecture, shortcuts=2, kinds=kinds)
    copy = NextItem(architecture, products=9, dim=8, dropout=0.0, max_length=6, shortcuts=2)
    network.copy_to(copy)
    np.testing.assert_allclose(
        copy.last_logits(HISTORY, LENGTHS), network.last_logits(HISTORY, LENGTHS), rtol=1e-5, atol=1e-4
    )


def test_no_kind_adds_nothing() -> None:
    network = _network(kinds=KINDS)
    own, kinds = network.items.embeddings.numpy(), network.kinds.embeddings.numpy()
    assert np.abs(kinds[0]).min() > 0.0
    wanted = np.stack([own[1] + kinds[1] + kinds[4], own[7] + kinds[4], own[9] + kinds[3]])
    np.testing.assert_allclose(network.vectors(tf.constant([1, 7, 9])), wanted, rtol=1e-5)
    np.testing.assert_allclose(network.table().numpy()[[1, 7, 9]], wanted, rtol=1e-5)


def test_scores_of_some_ids_are_those_of_all() -> None:
    network = _network(kinds=KINDS)
    states, ids = network(HISTORY)[:, 0], tf.constant([9, 1, 7])
    every = network.logits(states).numpy()
    np.testing.assert_allclose(network.logits_among(states, ids), every[:, [9, 1, 7]], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        network.logits_of(states, ids), every[[0, 1, 2], [9, 1, 7]], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("rows", [1, 4, 5, 64, 65])
def test_logits_of_few_rows_are_those_of_many(rows: int) -> None:
    network = _network(kinds=KINDS)
    rng = np.random.default_rng(0)
    history, lengths = tf.constant(rng.integers(1, 10, (rows, 6))), tf.constant(rng.integers(1, 7, rows))
    states = tf.gather(network(history), lengths - 1, batch_dims=1)
    np.testing.assert_allclose(
        network.last_logits(history, lengths), network.logits(states), rtol=1e-4, atol=1e-4
    )


def test_an_embedding_of_half_the_size_scores_alike() -> None:
    network = _network(kinds=KINDS)
    small = NextItem("gru", products=9, dim=8, dropout=0.0, max_length=6, embedding_dtype="bfloat16")
    network.copy_to(small)
    assert small.items.embeddings.dtype == "bfloat16"
    wanted = network.last_logits(HISTORY, LENGTHS).numpy()
    found = small.last_logits(HISTORY, LENGTHS).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 1:], wanted[:, 1:], atol=0.03 * np.abs(wanted[:, 1:]).max())
    assert (found[:, 0] < -1e8).all()


def test_a_product_that_was_never_met_is_taken_for_its_kind(
    make_sessions: Callable[[list[list[int]]], Sessions],
    make_vocabulary: Callable[[Sessions, int], Vocabulary],
) -> None:
    # Shoppers stay within a kind: 1 to 6, or 7 to 12. Nobody met 13, of the first kind, nor 14.
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(6)[:4] + 1 + 6 * (number % 2)).tolist() for number in range(200)]
    sessions = make_sessions(rows)
    kinds = np.array([[0, *[1] * 6, *[2] * 6, 1, 2]], np.int32).T
    keras.utils.set_random_seed(0)
    network = NextItem("gru", products=14, dim=8, dropout=0.0, max_length=6, shortcuts=1, kinds=kinds)
    options = fit.Options(4, 16, 0.02, 5, 1, 0.0, 0.0, 1, 100)
    fit.train(
        network, sessions, build(sessions, 0, 1), make_vocabulary(sessions, 14), options, print, StopSignal()
    )
    after_first, after_second, after_13, after_14 = (
        network.last_logits(tf.constant([[viewed]]), tf.constant([1])).numpy()[0] for viewed in (1, 7, 13, 14)
    )
    assert after_first[13] > after_first[14]
    assert after_second[14] > after_second[13]
    assert after_13[1:7].min() > after_13[7:13].max()
    assert after_14[7:13].min() > after_14[1:7].max()

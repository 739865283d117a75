from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
import tensorflow as tf  # noqa: TID253  # runs in the ML environment only

import recommender as served
from blend import COMPONENTS, DEFAULT_BLEND, FEATURES, TRAITS, Blend, Seen, _own
from model import NextItem
from recommender import Recommender
from sessions import Sessions, Vocabulary

PRODUCTS = 80
Floats = npt.NDArray[np.float64]


def _favour(name: str) -> Blend:
    weights = np.zeros((len(FEATURES), len(COMPONENTS)), np.float32)
    weights[0, COMPONENTS.index(name)] = 3.0
    return Blend(weights, DEFAULT_BLEND.own)


GATES = {
    "default": DEFAULT_BLEND,
    **{f"mostly {name}": _favour(name) for name in COMPONENTS},
    "looks at the session": Blend(
        np.random.default_rng(7).normal(size=(len(FEATURES), len(COMPONENTS))).astype(np.float32),
        np.array([-0.2, 0.7], np.float32),
    ),
}


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    rng = np.random.default_rng(3)
    drawn = [(rng.zipf(1.3, rng.integers(2, 15)) % PRODUCTS + 1).tolist() for _ in range(400)]
    # Consecutive repeats do not occur in a snapshot once it is read.
    return [[b for a, b in zip([0, *row], row, strict=False) if a != b] for row in drawn]


@pytest.fixture(scope="module")
def recommender(
    rows: list[list[int]],
    make_sessions: Callable[[list[list[int]]], Sessions],
    make_vocabulary: Callable[[Sessions, int], Vocabulary],
) -> Recommender:
    sessions = make_sessions(rows)
    return Recommender(NextItem("gru", PRODUCTS, 16, 0.1, 50), sessions, make_vocabulary(sessions, PRODUCTS))


def _queries(seed: int, batch: int) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, batch)
    lengths[0] = 1
    history = rng.integers(1, 40, (batch, 30))  # few products: candidates are named many times over
    history[np.arange(30) >= lengths[:, None]] = 0
    return tf.constant(history, tf.int32), tf.constant(lengths, tf.int32)


def _share(weights: Floats) -> Floats:
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _softmax(logits: Floats) -> Floats:
    return _share(np.exp(logits - logits.max(axis=-1, keepdims=True)))


def _reference(
    rows: list[list[int]], recommender: Recommender, history: tf.Tensor, lengths: tf.Tensor
) -> tuple[Floats, Floats]:
    """What the module's text says, counted by loops: features [batch, features], [batch, components, ids]."""
    after, next_to = np.zeros((2, PRODUCTS + 1, PRODUCTS + 1))
    for row in rows:
        for place, first in enumerate(row):
            for ahead, second in enumerate(row[place + 1 : place + 1 + served._REACH], 1):
                if first != second:
                    after[first, second] += 1 / ahead
                    next_to[first, second] += ahead == 1
    met = after + served._BACKWARD * after.T
    # What was met with few others says less of a session beside what was met with many.
    companions, followers = met / (met.sum(axis=1, keepdims=True) + served._DOUBT), _share(next_to)
    counts = np.bincount(np.concatenate(rows), minlength=PRODUCTS + 1)
    network = _softmax(recommender.network(history, lengths).numpy().astype(np.float64))
    features, parts = [], []
    for line, length, expected in zip(history.numpy(), lengths.numpy(), network, strict=True):
        items = line[:length][::-1][: served._LOOK_BACK]
        near, own = np.zeros((2, PRODUCTS + 1))
        for ago, item in enumerate(items):
            near += served._COMPANION_DECAY**ago * companions[item] * (ago < served._NEAR)
            retraced = ago + 1 < len(items) and items[ago + 1] == items[0]
            own[item] += np.exp(np.dot([ago, retraced], recommender.own.numpy())) * (item != items[0])
        parts.append([expected, _share(near), followers[items[0]], _share(own)])
        others = [item for item in set(items.tolist()) if item != items[0]]
        owned = np.log(_share(near)[others].sum() + served._OWNED) + 2.0 if others else 0.0
        agreement = np.log(np.sqrt(expected * companions[items[0]]).sum() + served._OVERLAP) + 1.0
        popularity = np.log1p(counts[items[0]] / counts[1:].mean())
        repeats = len(items) - len(set(items.tolist()))
        returning = items[0] in items[1:]
        features.append(
            [
                1.0,
                np.log1p(length) - 1.0,
                length <= 1,
                popularity,
                np.log1p(repeats),
                returning,
                owned,
                agreement,
            ]
        )
    return np.array(features, np.float64), np.array(parts)


@pytest.mark.parametrize("case", GATES)
@pytest.mark.parametrize("batch", [1, 9, 70])
def test_what_is_served_is_the_mixture_of_the_dense_distributions(
    case: str, batch: int, rows: list[list[int]], recommender: Recommender
) -> None:
    recommender.set_blend(GATES[case])
    history, lengths = _queries(batch, batch)
    features, parts = _reference(rows, recommender, history, lengths)
    shares = _softmax(features @ GATES[case].weights)
    wanted = (shares[:, :, None] * parts).sum(axis=1)
    np.testing.assert_allclose(recommender(history, lengths), wanted, rtol=1e-4, atol=1e-7)
    assert (wanted.sum(axis=1) < 1.0001).all()


def test_gate_is_fitted_to_what_is_served(rows: list[list[int]], recommender: Recommender) -> None:
    history, lengths = _queries(1, 12)
    targets = np.random.default_rng(2).integers(1, 40, 12).astype(np.int32)
    features, parts = _reference(rows, recommender, history, lengths)
    looked = recommender.look_at(history, lengths, tf.constant(targets))
    seen = Seen(*(part.numpy().astype(np.float64) for part in looked))
    np.testing.assert_allclose(seen.features, features, rtol=1e-5, atol=1e-6)
    expected = np.column_stack([seen.probabilities, _own(seen, recommender.own.numpy())[0]])
    np.testing.assert_allclose(expected, parts[np.arange(12), :, targets], rtol=1e-4, atol=1e-7)


def test_candidates_without_evidence_have_no_weight(recommender: Recommender) -> None:
    history, lengths = _queries(1, 8)
    for ids, weights in recommender.candidates(served.latest(history, lengths)):
        assert ids.dtype == tf.int32
        assert not weights.numpy()[ids.numpy() == 0].any()
    unknown = served.latest(tf.zeros((2, 3), tf.int32), tf.zeros(2, tf.int32))
    assert not any(weights.numpy().any() for _, weights in recommender.candidates(unknown))
    assert np.isfinite(recommender(tf.zeros((2, 3), tf.int32), tf.zeros(2, tf.int32))).all()


def test_likeliest_keeps_shares_of_the_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_WIDTH", 2)
    counts = sp.csr_matrix(np.array([[0, 0, 0, 0], [0, 0, 5, 0], [0, 1, 0, 3], [0, 2, 2, 1.0]]))
    ids, shares = served.likeliest(counts)
    assert ids.tolist() == [[0, 0], [2, 0], [3, 1], [1, 2]]
    np.testing.assert_allclose(shares, [[0, 0], [1, 0], [0.75, 0.25], [0.4, 0.4]], rtol=1e-6)
    _, doubted = served.likeliest(counts, 5.0)
    np.testing.assert_allclose(doubted, [[0, 0], [0.5, 0], [1 / 3, 1 / 9], [0.2, 0.2]], rtol=1e-6)


def test_a_step_back_is_retraced_where_the_viewed_product_led_before() -> None:
    sessions = ([1, 2, 3, 1, 4, 1], [], [5, 6])  # the latest first
    rows = [row + [0] * (served._LOOK_BACK - len(row)) for row in sessions]
    traits = served._traits(tf.constant(rows)).numpy()
    retraced = traits[..., TRAITS.index("retraced")]
    assert [row.nonzero()[0].tolist() for row in retraced] == [[2, 4], [], []]
    assert traits[0, :, TRAITS.index("ago")].tolist() == list(range(served._LOOK_BACK))

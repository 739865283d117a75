"""What is served: the network's probabilities mixed with three distributions counted from the sessions.

A network alone is weak on products seen once or twice, which most of a real catalogue is; counts from the
same sessions are strong exactly there. The mixture is of

* the network's softmax over the whole catalogue,
* companions: what was met in the same sessions as the latest products,
* followers: what came directly after the product being viewed,
* the session's own earlier products, since shoppers go back and forth,

each weighted by a gate that looks at the session (`blend`). Everything is tensors, so that the whole of it
travels inside one SavedModel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import tensorflow as tf

from baselines import best_columns, transitions
from blend import DEFAULT_BLEND, Blend
from model import NextItem
from sessions import Sessions, Vocabulary

# Measured on the validation part of a real electronics shop: reach, backward weight and recency decay of the
# companions. The optimum is flat around them.
_REACH = 10
_BACKWARD = 0.5
_DOUBT = 16.0  # the companions of a product of which so many were counted weigh half
_COMPANION_DECAY = 0.5
_NEAR = 10  # steps of the session whose companions count
_LOOK_BACK = 20  # steps of the session that own products are taken from
# Where the logarithms of two of the gate's features level off.
_OWNED = 0.03
_OVERLAP = 0.01
_WIDTH = 100  # companions kept per product: 99.97 % of the mass on that shop


class Recommender(tf.Module):
    """Probabilities of the next item over the whole catalogue."""

    def __init__(self, next_item: NextItem, sessions: Sessions, vocabulary: Vocabulary) -> None:
        """Counts companions and followers.

        Args:
            next_item: The network, trained or to be trained.
            sessions: What to count.
            vocabulary: The products and how often each was met.
        """
        super().__init__()
        self.next_item = next_item
        self.products = len(vocabulary)
        after = transitions(sessions, self.products, _REACH)
        # Variables and not constants: a GraphDef may not exceed 2 GB.
        self.companions = _table("companions", after + _BACKWARD * after.T, _DOUBT)
        self.followers = _table("followers", transitions(sessions, self.products))
        mean = vocabulary.counts.mean()
        popularity = np.log1p(np.concatenate([[0], vocabulary.counts]) / mean).astype(np.float32)
        self.popularity = tf.Variable(popularity, trainable=False, name="popularity")
        self.gate = tf.Variable(DEFAULT_BLEND.weights, trainable=False, name="gate")
        self.own = tf.Variable(DEFAULT_BLEND.own, trainable=False, name="own")

    def set_blend(self, blend: Blend) -> None:
        """Sets what `__call__` mixes by."""
        self.gate.assign(blend.weights)
        self.own.assign(blend.own)

    def __call__(self, history: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns the mixture's probabilities.

        The softmax is the only pass over the catalogue, and the counts are added into it where they have
        weight. Looking for the best among the softmax's and the counts' candidates instead needs no such
        adding, but a sort of the candidates to sum those named twice, and took up to twice as long.

        Args:
            history: Known ids, oldest first, padded with 0 on the right, int32 [batch, length].
            lengths: Known ids per row, int32 [batch].

        Returns:
            float32 [batch, products + 1]; rows of length 0 mean nothing.
        """
        items = latest(history, lengths)
        expected = tf.nn.softmax(self.network(history, lengths))
        candidates = self.candidates(items)
        features = self.features(items, lengths, expected, candidates)
        shares = tf.nn.softmax(tf.matmul(features, self.gate))
        ids = tf.concat([ids for ids, _ in candidates], axis=1)
        weights = [shares[:, n : n + 1] * weights for n, (_, weights) in enumerate(candidates, start=1)]
        return tf.tensor_scatter_nd_add(shares[:, :1] * expected, cells(ids), tf.concat(weights, axis=1))

    def network(self, history: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns the network's logits, float32 [batch, products + 1]; arguments as in `__call__`."""
        return self.next_item.last_logits(history, lengths)

    def look_at(
        self, history: tf.Tensor, lengths: tf.Tensor, targets: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns what the gate is fitted to; arguments as in `__call__`, targets int32 [batch].

        Returns:
            The fields of `blend.Seen`, as float32.
        """
        items = latest(history, lengths)
        expected = tf.nn.softmax(self.network(history, lengths))
        candidates = self.candidates(items)
        counted = [
            tf.reduce_sum(tf.where(ids == targets[:, None], weights, 0.0), axis=1)
            for ids, weights in candidates[:-1]
        ]
        own = _others(items)
        matches = own * tf.cast(items == targets[:, None], tf.float32)
        probabilities = tf.stack([tf.gather(expected, targets, batch_dims=1), *counted], axis=1)
        return (
            self.features(items, lengths, expected, candidates),
            probabilities,
            _traits(items),
            own,
            matches,
        )

    def features(
        self,
        items: tf.Tensor,
        lengths: tf.Tensor,
        expected: tf.Tensor,
        candidates: list[tuple[tf.Tensor, tf.Tensor]],
    ) -> tf.Tensor:
        """Returns what the gate looks at, float32 [batch, features], in the order of `blend.FEATURES`.

        Args:
            items: From `latest`.
            lengths: Known ids per row, int32 [batch].
            expected: The network's probabilities, float32 [batch, products + 1].
            candidates: From `candidates`.
        """
        own = tf.cast(_others(items), tf.int32) * items
        companions, weights = candidates[0]
        among = tf.reduce_any(companions[:, :, None] == own[:, None, :], axis=2)
        owned = tf.reduce_sum(tf.where(among, weights, 0.0), axis=1)
        ids, rates = (tf.gather(column, items[:, 0]) for column in self.companions)
        overlap = tf.reduce_sum(tf.sqrt(tf.gather(expected, ids, batch_dims=1) * rates), axis=1)
        same = (items[:, :, None] == items[:, None, :]) & (items[:, :, None] > 0)
        earlier = tf.linalg.band_part(tf.cast(same, tf.int32), -1, 0) - tf.linalg.band_part(
            tf.cast(same, tf.int32), 0, 0
        )
        repeats = tf.math.count_nonzero(tf.reduce_sum(earlier, axis=2), axis=1, dtype=tf.int32)
        columns = [
            tf.ones_like(lengths),
            tf.math.log1p(tf.cast(lengths, tf.float32)) - 1.0,
            lengths <= 1,
            tf.gather(self.popularity, items[:, 0]),
            tf.math.log1p(tf.cast(repeats, tf.float32)),
            tf.reduce_any(_again(items), axis=1),
            tf.where(tf.reduce_any(own > 0, axis=1), tf.math.log(owned + _OWNED) + 2.0, 0.0),
            tf.math.log(overlap + _OVERLAP) + 1.0,
        ]
        return tf.stack([tf.cast(column, tf.float32) for column in columns], axis=1)

    def candidates(self, items: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Returns ids and weights of companions, followers and own items.

        Args:
            items: From `latest`.

        Returns:
            Ids int32 and weights float32, each [batch, candidates]. An id may come more than once; 0 means
            none, and has no weight. Weights sum to 1, or to 0 without evidence, which leaves the ranking to
            the others.
        """
        batch = tf.shape(items)[0]
        latest_few = items[:, :_NEAR]
        decay = _COMPANION_DECAY ** tf.range(_NEAR, dtype=tf.float32) * tf.cast(latest_few > 0, tf.float32)
        ids, weights = (tf.gather(column, latest_few) for column in self.companions)
        near = decay[:, :, None] * weights
        own = tf.exp(tf.linalg.matvec(_traits(items), self.own)) * _others(items)
        following, rates = (tf.gather(column, items[:, 0]) for column in self.followers)
        return [
            (tf.reshape(ids, [batch, -1]), _distribution(tf.reshape(near, [batch, -1]))),
            (following, rates),
            (items, _distribution(own)),
        ]


def latest(history: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Returns the latest known ids, the viewed one first, 0 where there are no more, [batch, look back]."""
    place = lengths[:, None] - 1 - tf.range(_LOOK_BACK, dtype=tf.int32)
    return tf.gather(history, tf.maximum(place, 0), batch_dims=1) * tf.cast(place >= 0, tf.int32)


def _others(items: tf.Tensor) -> tf.Tensor:
    """Returns 1 where a session's product is not the one being viewed, else 0, float32 [batch, look back]."""
    return tf.cast((items > 0) & (items != items[:, :1]), tf.float32)


def _again(items: tf.Tensor) -> tf.Tensor:
    """Returns at which earlier steps the product being viewed was met, bool [batch, look back]."""
    before = (items[:, 1:] == items[:, :1]) & (items[:, 1:] > 0)
    return tf.pad(before, [[0, 0], [1, 0]])


def _traits(items: tf.Tensor) -> tf.Tensor:
    """Returns what own products are ranked by, float32 [batch, look back, traits], as in `blend.TRAITS`."""
    retraced = tf.cast(tf.pad(_again(items)[:, 1:], [[0, 0], [0, 1]]), tf.float32)
    ago = tf.broadcast_to(tf.range(_LOOK_BACK, dtype=tf.float32), tf.shape(items))
    return tf.stack([ago, retraced], axis=2)


def _distribution(weights: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True))


def cells(ids: tf.Tensor) -> tf.Tensor:
    """Returns where each id is in a [batch, products + 1] tensor: int32 [batch, n] to [batch, n, 2]."""
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))
    return tf.stack([rows, ids], axis=-1)


def _table(name: str, counts: sp.spmatrix, doubt: float = 0.0) -> tuple[tf.Variable, tf.Variable]:
    """Returns each row's likeliest columns and their shares of it, int32 and float32 [rows, width]."""
    ids, shares = likeliest(counts, doubt)
    return (
        tf.Variable(ids, trainable=False, name=f"{name}_ids"),
        tf.Variable(shares, trainable=False, name=f"{name}_shares"),
    )


def likeliest(counts: sp.spmatrix, doubt: float = 0.0) -> tuple[Any, Any]:
    """Returns ids int32 and shares float32 of each row's largest counts, [rows, width].

    A row's shares sum to at most 1, less where it has more columns than are kept; 0 pads.

    Args:
        counts: [rows, columns].
        doubt: Added to each row's total: the fewer its counts, the smaller its shares.
    """
    totals = np.asarray(counts.sum(axis=1)).ravel() + doubt
    shares = (sp.diags(1.0 / np.maximum(totals, 1e-12)) @ counts).tocsr()
    ids, values = best_columns(shares, min(_WIDTH, counts.shape[1] - 1))
    return ids, values.astype(np.float32)

"""What is served: the network's probabilities blended with two priors counted from training sessions.

A network alone is weak on products seen once or twice, which most of a real catalogue is; neighbours from
the same training sessions are strong exactly there. The blend is a mixture of distributions

    (1 - revisit) * ((1 - neighbours) * network + neighbours * followers) + revisit * own items

whose two shares are chosen on validation sessions (0 is allowed). Everything is tensors, so that the whole
of it travels inside one SavedModel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import tensorflow as tf

from baselines import best_columns, transitions
from model import NextItem
from sessions import Sessions

# Measured on the validation part of a real electronics shop: reach and backward weight of the followers,
# recency decay of followers and of the session's own items. The optimum is flat around them.
_REACH = 10
_BACKWARD = 0.5
_FOLLOWER_DECAY = 0.5
_REVISIT_DECAY = 0.7
_LOOK_BACK = 10  # steps of the session that the priors look at
_WIDTH = 100  # followers kept per product: 99.97 % of the mass on that shop


@dataclass(frozen=True)
class Blend:
    """Shares of the two priors, each within [0, 1)."""

    neighbours: float
    revisit: float


# Also what a snapshot without validation sessions is served with.
DEFAULT_BLEND = Blend(neighbours=0.4, revisit=0.1)
BLENDS = tuple(Blend(n, r) for n in (0.0, 0.2, 0.4, 0.6, 0.8) for r in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4))


class Recommender(tf.Module):
    """Probabilities of the next item over the whole catalogue."""

    def __init__(self, next_item: NextItem, train: Sessions, products: int) -> None:
        """Counts the priors.

        Args:
            next_item: The network, trained or to be trained.
            train: Training sessions.
            products: Size of the vocabulary.
        """
        super().__init__()
        self.next_item = next_item
        self.products = products
        ids, shares = followers(train, products)
        # Variables and not constants: a GraphDef may not exceed 2 GB.
        self.follower_ids = tf.Variable(ids, trainable=False, name="follower_ids")
        self.follower_shares = tf.Variable(shares, trainable=False, name="follower_shares")
        self.neighbours = tf.Variable(DEFAULT_BLEND.neighbours, trainable=False, name="neighbours")
        self.revisit = tf.Variable(DEFAULT_BLEND.revisit, trainable=False, name="revisit")

    def set_blend(self, blend: Blend) -> None:
        """Sets the shares that `__call__` uses."""
        self.neighbours.assign(blend.neighbours)
        self.revisit.assign(blend.revisit)

    def __call__(self, history: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns blended probabilities.

        The softmax is the only pass over the catalogue, and the priors are added into it where they have
        weight. Looking for the best among the softmax's and the priors' candidates instead needs no such
        adding, but a sort of the candidates to sum those named twice, and took up to twice as long.

        Args:
            history: Known ids, oldest first, padded with 0 on the right, int32 [batch, length].
            lengths: Known ids per row, int32 [batch].

        Returns:
            float32 [batch, products + 1]; rows of length 0 mean nothing.
        """
        dense = self.dense_share() * tf.nn.softmax(self.network(history, lengths))
        ids, weights = self.sparse(history, lengths)
        return tf.tensor_scatter_nd_add(dense, cells(ids), weights)

    def network(self, history: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns the network's logits, float32 [batch, products + 1]; arguments as in `__call__`."""
        return self.next_item.last_logits(history, lengths)

    def dense_share(self) -> tf.Tensor:
        """Returns the share of the network's softmax, a scalar."""
        return (1.0 - self.revisit) * (1.0 - self.neighbours)

    def sparse(self, history: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the priors add to the network's share; arguments as in `__call__`.

        Returns:
            Ids int32 and weights float32, each [batch, candidates]. An id may come more than once; 0 means
            none, and has no weight.
        """
        (followed, follow), (items, own) = self._priors(history, lengths)
        weights = [(1.0 - self.revisit) * self.neighbours * follow, self.revisit * own]
        return tf.concat([followed, items], axis=1), tf.concat(weights, axis=1)

    def components(self, history: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the network's, followers' and own items' distributions, each [batch, products + 1].

        A prior without evidence is all zeros, which leaves the ranking to the others.
        """
        network = tf.nn.softmax(self.network(history, lengths))
        follow, own = (
            tf.scatter_nd(cells(ids), weights, tf.shape(network))
            for ids, weights in self._priors(history, lengths)
        )
        return network, follow, own

    def _priors(
        self, history: tf.Tensor, lengths: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        """Returns ids and weights of followers and of own items; weights sum to 1, or 0 without evidence."""
        ago = tf.range(_LOOK_BACK, dtype=tf.int32)[None, :]
        place = lengths[:, None] - 1 - ago
        items = tf.gather(history, tf.maximum(place, 0), batch_dims=1) * tf.cast(place >= 0, tf.int32)
        present = tf.cast(items > 0, tf.float32)
        recency = tf.cast(ago, tf.float32)
        follow = (_FOLLOWER_DECAY**recency * present)[:, :, None] * tf.gather(self.follower_shares, items)
        own = _REVISIT_DECAY**recency * present * tf.cast(items != items[:, :1], tf.float32)
        batch = tf.shape(items)[0]
        followed = tf.reshape(tf.gather(self.follower_ids, items), [batch, -1])
        return (followed, _distribution(tf.reshape(follow, [batch, -1]))), (items, _distribution(own))


def _distribution(weights: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True))


def cells(ids: tf.Tensor) -> tf.Tensor:
    """Returns where each id is in a [batch, products + 1] tensor: int32 [batch, n] to [batch, n, 2]."""
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))
    return tf.stack([rows, ids], axis=-1)


def mix(parts: tuple[tf.Tensor, tf.Tensor, tf.Tensor], neighbours: Any, revisit: Any) -> tf.Tensor:
    """Returns the mixture of `Recommender.components`, [batch, products + 1]."""
    network, follow, own = parts
    return (1.0 - revisit) * ((1.0 - neighbours) * network + neighbours * follow) + revisit * own


def followers(train: Sessions, products: int) -> tuple[Any, Any]:
    """Returns each product's likeliest companions, those that came after it counting more.

    Returns:
        int32 ids and float32 shares, [products + 1, width]; a row's shares sum to at most 1, 0 pads.
    """
    after = transitions(train, products, _REACH)
    together = (after + _BACKWARD * after.T).tocsr()
    totals = np.asarray(together.sum(axis=1)).ravel()
    shares = sp.diags(1.0 / np.maximum(totals, 1e-12)) @ together
    ids, values = best_columns(shares.tocsr(), min(_WIDTH, products))
    return ids, values.astype(np.float32)

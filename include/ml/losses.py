"""Training losses: functions of states and targets, so that the loop need not know which one it runs."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from model import NextItem
from sessions import Ints

# states float [targets, dim], targets int32 [targets] -> losses float32 [targets]. Random draws must come
# from a `keras.random.SeedGenerator` that the network holds: its state travels in checkpoints.
Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_SAMPLING = 0.75  # exponent of the counts that negatives are drawn by, as in word2vec
_NEVER = -1e9


def full_softmax(network: NextItem, smoothing: float) -> Loss:
    """Returns cross-entropy over the whole catalogue.

    Args:
        network: What scores.
        smoothing: Share of each target's probability that is spread over the catalogue (Szegedy et al.,
            2016).
    """

    def loss(states: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        logits = network.logits(states)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        if not smoothing:
            return losses
        everywhere = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits[:, 1:], axis=1)
        return (1.0 - smoothing) * losses + smoothing * everywhere

    return loss


def sampled_softmax(network: NextItem, counts: Ints, negatives: int, smoothing: float) -> Loss:
    """Returns cross-entropy over the target and a draw of other products, the same for a whole batch.

    A product's logit is corrected by how often it is drawn (Bengio & Senécal, 2008), so that the expected sum
    of exponentials is the full one. A negative that is the target itself does not count.

    Args:
        network: What scores.
        counts: How often each product was met, which draws follow; [products].
        negatives: Draws for each batch.
        smoothing: As in `full_softmax`.
    """
    weights = np.append(0.0, counts.astype(np.float64) ** _SAMPLING)
    rates = weights / weights.sum()
    cumulative = tf.constant(np.cumsum(rates), tf.float32)
    drawn_log = tf.constant(np.log(np.maximum(negatives * rates, 1e-30)), tf.float32)

    def loss(states: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        draws = keras.random.uniform([negatives], seed=network.draws)
        ids = tf.searchsorted(cumulative, draws, side="right")
        ids = tf.clip_by_value(ids, 1, len(counts))  # float32 ends a little short of 1
        wanted = network.logits_of(states, targets)
        others = network.logits_among(states, ids)
        correction = tf.gather(drawn_log, ids)
        corrected = tf.where(targets[:, None] == ids, _NEVER, others - correction)
        total = tf.reduce_logsumexp(tf.concat([wanted[:, None], corrected], axis=1), axis=1)
        if not smoothing:
            return total - wanted
        # The mean over the catalogue, from the draws: each stands for as many as it is drawn too seldom.
        everywhere = tf.linalg.matvec(others, tf.nn.softmax(-correction))
        return total - (1.0 - smoothing) * wanted - smoothing * everywhere

    return loss

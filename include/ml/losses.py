"""Training losses: functions of states and targets, so that the loop need not know which one it runs."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from model import NextItem

# states float [targets, dim], targets int32 [targets] -> losses float32 [targets]. Random draws must come
# from a `keras.random.SeedGenerator` that the network holds: its state travels in checkpoints.
Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def full_softmax(network: NextItem) -> Loss:
    """Returns cross-entropy over the whole catalogue."""

    def loss(states: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, network.logits(states))

    return loss

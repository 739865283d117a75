"""Adam that touches only the rows of a table which a batch has met."""

from __future__ import annotations

import keras
import tensorflow as tf


class LazyAdam(keras.optimizers.Adam):
    """Adam whose sparse updates cost as much as the rows they name, and not as the whole table.

    Moments of rows without a gradient stay as they are instead of decaying: the lazy variant, as in
    TensorFlow Addons, which is no longer maintained. With a catalogue of 57,000 products the dense update
    takes longer than the rest of a step of a sampled softmax. For one replica: over several, sparse
    gradients must be made dense before.
    """

    def update_step(
        self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable; an id may come more than once among the gradient's rows."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        rows, places = tf.unique(gradient.indices)
        summed = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
        slot = self._get_variable_index(variable)
        momentum, velocity = self._momentums[slot].value, self._velocities[slot].value
        first = self.beta_1 * tf.gather(momentum, rows) + (1.0 - self.beta_1) * summed
        second = self.beta_2 * tf.gather(velocity, rows) + (1.0 - self.beta_2) * tf.square(summed)
        momentum.scatter_update(tf.IndexedSlices(first, rows))
        velocity.scatter_update(tf.IndexedSlices(second, rows))
        step = tf.cast(self.iterations + 1, tf.float32)
        unbiased = tf.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        change = tf.cast(learning_rate, tf.float32) * unbiased * first / (tf.sqrt(second) + self.epsilon)
        variable.scatter_sub(tf.IndexedSlices(change, rows))

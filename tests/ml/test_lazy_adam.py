from __future__ import annotations

import keras  # noqa: TID253  # runs in the ML environment only
import numpy as np
import tensorflow as tf  # noqa: TID253

from lazy_adam import LazyAdam

START = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def _slices(rows: list[int], seed: int) -> tf.IndexedSlices:
    values = np.random.default_rng(seed).normal(size=(len(rows), 3)).astype(np.float32)
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([5, 3]))


class _Run:
    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self.table = keras.Variable(START)
        self.optimizer = optimizer
        optimizer.build([self.table])

    def step(self, gradient: tf.IndexedSlices, dense: bool = False) -> np.ndarray:
        given = tf.convert_to_tensor(gradient) if dense else gradient
        self.optimizer.apply_gradients([(given, self.table)])
        return self.table.numpy()


def test_rows_of_a_step_move_as_under_adam_and_others_stay() -> None:
    lazy, adam = _Run(LazyAdam(0.1)), _Run(keras.optimizers.Adam(0.1))
    for seed in range(3):
        gradient = _slices([3, 1, 3], seed)  # 3 comes twice: summed before it is squared
        found, wanted = lazy.step(gradient), adam.step(gradient, dense=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[[0, 2, 4]], START[[0, 2, 4]])
    assert (found[[1, 3]] != START[[1, 3]]).all()


def test_rows_of_earlier_steps_stand_still() -> None:
    lazy, adam = _Run(LazyAdam(0.1)), _Run(keras.optimizers.Adam(0.1))
    before = [run.step(_slices([1], 0), dense=run is adam)[1] for run in (lazy, adam)]
    after = [run.step(_slices([2], 1), dense=run is adam)[1] for run in (lazy, adam)]
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] != before[1]).all()  # where Adam goes on by its momentum


def test_dense_gradients_are_adams() -> None:
    lazy, adam = _Run(LazyAdam(0.1)), _Run(keras.optimizers.Adam(0.1))
    for seed in range(3):
        gradient = _slices([0, 1, 2, 3, 4], seed)
        np.testing.assert_array_equal(lazy.step(gradient, dense=True), adam.step(gradient, dense=True))


def test_it_runs_inside_a_graph() -> None:
    lazy, adam = _Run(LazyAdam(0.1)), _Run(keras.optimizers.Adam(0.1))
    step = tf.function(lambda gradient: lazy.optimizer.apply_gradients([(gradient, lazy.table)]))
    for seed in range(2):
        step(_slices([4, 0, 4], seed))
        wanted = adam.step(_slices([4, 0, 4], seed), dense=True)
    np.testing.assert_allclose(lazy.table.numpy(), wanted, rtol=1e-5, atol=1e-6)

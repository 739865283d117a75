"""Small SavedModels with a known behaviour, of the signature that training jobs export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf  # noqa: TID253  # runs in the ML environment only

from tests.gate.evaluations import PRODUCTS, SKUS

_SESSION = tf.TensorSpec([None, None], tf.string, name="session")
_K = tf.TensorSpec([None], tf.int32, name="k")
_EXCLUDE = tf.TensorSpec([None], tf.bool, name="exclude_seen")


class Table(tf.Module):
    """Recommends what follows the session's products in `evaluations.build`, the last one first."""

    def __init__(self, catalogue: list[str], fickle: bool = False, forgetful: bool = False) -> None:
        super().__init__()
        keys = tf.constant(catalogue)
        values = tf.range(1, len(catalogue) + 1)
        self.ids = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)
        self.names = tf.constant(["", *catalogue])
        follows = np.zeros((PRODUCTS + 1, PRODUCTS + 1), np.float32)
        for item in range(PRODUCTS):
            for place, follower in enumerate(((item * 7 + 1) % PRODUCTS, (item * 11 + 5) % PRODUCTS)):
                follows[item + 1, follower + 1] = 0.0 if forgetful else 2.0 - place
        self.follows = tf.constant(follows)
        self.popularity = tf.constant(np.concatenate([[-1e9], 1.0 / np.arange(2, PRODUCTS + 2)]), tf.float32)
        self.fickle = fickle

    def answer(self, session: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self.ids.lookup(session)
        known = tf.ragged.boolean_mask(found, found > 0)
        counts = tf.cast(known.row_lengths(), tf.int32)
        history = tf.pad(known.to_tensor(0), [[0, 0], [0, 1]])
        last = tf.gather(history, tf.maximum(counts - 1, 0), batch_dims=1)
        scores = self.popularity + tf.gather(self.follows, last)
        scores += 0.1 * tf.reduce_sum(tf.gather(self.follows, history), axis=1)
        if self.fickle:  # another shop for every number of products seen
            places = tf.range(PRODUCTS + 1, dtype=tf.float32)
            scores = tf.abs(tf.sin(12.9898 * places * (tf.cast(counts, tf.float32)[:, None] + 1.0))) + 1e-3
            scores = tf.where(places > 0, scores, -1e9)
        scores -= 1e6 * tf.one_hot(last, PRODUCTS + 1)
        values, ids = tf.math.top_k(scores, tf.reduce_max(k))
        fallback = tf.where(counts > 0, "none", "popularity")
        return {"skus": tf.gather(self.names, ids), "scores": values, "fallback": fallback, "k": k}

    @tf.function(input_signature=[_SESSION, _K, _EXCLUDE])
    def serve(self, session: tf.Tensor, k: tf.Tensor, exclude_seen: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.answer(session, k)

    @tf.function(input_signature=[_SESSION, _K])
    def serve_of_before(self, session: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.answer(session, k)

    @tf.function(input_signature=[_SESSION, _K, _EXCLUDE])
    def serve_nothing(
        self, session: tf.Tensor, k: tf.Tensor, exclude_seen: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.assert_less(k, 0, message="worn out")]):
            return self.answer(session, tf.identity(k))


def save(name: str, folder: Path) -> None:
    """Writes `<folder>/1` and `<folder>/code`, as a job's model.tar.gz holds them."""
    permuted = [SKUS[(place + 150) % PRODUCTS] for place in range(PRODUCTS)]
    stranger = [f"other-shop-{place}" for place in range(PRODUCTS)]
    made: dict[str, Any] = {
        "good": lambda: (table := Table(SKUS), table.serve),
        "of before": lambda: (table := Table(SKUS), table.serve_of_before),
        "forgetful": lambda: (table := Table(SKUS, forgetful=True), table.serve),
        "fickle": lambda: (table := Table(SKUS, fickle=True), table.serve),
        "other weights": lambda: (table := Table(permuted), table.serve),
        "other shop": lambda: (table := Table(stranger), table.serve),
        "breaks when asked": lambda: (table := Table(SKUS), table.serve_nothing),
    }
    (folder / "code").mkdir(parents=True)
    table, signature = made[name]()
    tf.saved_model.save(table, str(folder / "1"), signatures={"serving_default": signature})

"""Makes artefacts that answer from a table. Runs in the ML environment: python packages.py TABLES.json OUT"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorflow as tf


class Table(tf.Module):
    """The signature of `include/ml/export.py`, with a planted list for the last known product."""

    def __init__(self, lists: dict[str, list[str]]) -> None:
        super().__init__()
        skus = tf.constant(list(lists))
        ids = tf.range(1, len(lists) + 1, dtype=tf.int64)
        self.ids = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(skus, ids), 0)
        # What is answered where nothing is known.
        answers = [next(iter(lists.values())), *lists.values()]
        self.answers = tf.Variable(answers)  # in a file of its own, as weights are
        self.scores = tf.constant([0.5**place for place in range(len(answers[0]))])

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.string, name="session"),
            tf.TensorSpec([None], tf.int32, name="k"),
            tf.TensorSpec([None], tf.bool, name="exclude_seen"),
        ]
    )
    def serve(self, session: tf.Tensor, k: tf.Tensor, exclude_seen: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self.ids.lookup(session)
        last = tf.reduce_max(tf.where(found > 0, tf.range(tf.shape(found)[1]), -1), axis=1)
        chosen = tf.where(last >= 0, tf.gather(found, tf.maximum(last, 0), batch_dims=1), 0)
        return {
            "skus": tf.gather(self.answers, chosen),
            "scores": tf.tile(self.scores[None], [tf.shape(found)[0], 1]),
            "fallback": tf.where(last >= 0, "none", "popularity"),
            "k": k,
        }


if __name__ == "__main__":
    for name, lists in json.loads(Path(sys.argv[1]).read_text()).items():
        table = Table(lists)
        tf.saved_model.save(table, str(Path(sys.argv[2], name, "1")), {"serving_default": table.serve})

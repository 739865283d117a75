"""Training runs in a process of their own: TensorFlow can be told only once which devices there are.

python replicas.py OUT ARCHITECTURE LOSS [ARCHITECTURE LOSS ...]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "include" / "ml"))
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras  # noqa: TID253  # after the path; runs in the ML environment only
import numpy as np
import pyarrow as pa
import tensorflow as tf  # noqa: TID253

from checkpoints import StopSignal
from cluster import Cluster
from fit import Options, train
from model import NextItem
from queries import build
from sessions import Sessions, Vocabulary

PRODUCTS = 20


def run(out: Path, cluster: Cluster, architecture: str, loss: str) -> None:
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(0)
    # 33 sessions in batches of 8: the last one has a single session, and so leaves a replica without any.
    lengths = rng.integers(2, 9, 33)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    ids = rng.integers(1, PRODUCTS + 1, offsets[-1]).astype(np.int32)
    sessions = Sessions(pa.array([""] * 33), offsets, ids, ids)
    names = np.array([f"p{number}" for number in range(PRODUCTS)], object)
    vocabulary = Vocabulary(names, np.bincount(ids, minlength=PRODUCTS + 1)[1:].astype(np.int64))
    of_three = np.append(0, 1 + np.arange(PRODUCTS) % 3)
    kinds = np.column_stack([of_three, np.where(of_three > 0, 3 + of_three, 0)]).astype(np.int32)
    with cluster.strategy.scope():
        # Without shortcuts, too: then there is a variable that nothing depends on.
        extras = {"shortcuts": 2, "kinds": kinds} if loss == "sampled" else {}
        network = NextItem(architecture, PRODUCTS, 8, 0.0, 10, **extras)
    options = Options(
        epochs=3,
        batch_size=8,
        learning_rate=0.01,
        max_length=6,
        seed=1,
        max_seconds=0.0,
        label_smoothing=0.1,
        # So many that every product is drawn: only then is the lazy optimizer of one replica Adam.
        negatives=1000,
        full_softmax_products=PRODUCTS if loss == "full" else PRODUCTS - 1,
    )
    questions = build(sessions, 1000, 1)
    progress = train(
        network, sessions, questions, vocabulary, options, lambda row: None, StopSignal(), cluster=cluster
    )
    out.mkdir(parents=True)
    np.savez(out / "weights.npz", *network.get_weights())
    (out / "history.json").write_text(json.dumps(progress.history))


def main(out: Path, *cases: str) -> None:
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    clusters = {"1": Cluster(), "2": Cluster(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))}
    for architecture, loss in zip(cases[::2], cases[1::2], strict=True):
        for replicas, cluster in clusters.items():
            assert cluster.shares.total == int(replicas)
            run(out / architecture / replicas, cluster, architecture, loss)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

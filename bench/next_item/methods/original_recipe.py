"""The recipe of the project's ancestor (jacopotagliabue/post-modern-stack), written anew in today's Keras.

A Keras Tokenizer numbers products by frequency, which our codes already do; an LSTM of 32 reads at most 20
products, a softmax of its own weights guesses the last product of the session, once per session.
"""

from __future__ import annotations

import keras
import numpy as np

from bench.next_item.method import Answers, Job, Timer, empty_answers, one_by_one
from bench.next_item.shop import WIDTH, Ints, Log


def run(job: Job) -> Answers:
    """Trains to early stopping and answers by `predict` and a sort, as it did."""
    keras.utils.set_random_seed(job.seed)
    shop, settings = job.shop, job.settings
    network = keras.Sequential(
        [
            keras.Input((settings["length"],), dtype="int32"),
            keras.layers.Embedding(shop.products + 1, settings["units"], mask_zero=True),
            keras.layers.Dropout(settings["dropout"]),
            keras.layers.LSTM(settings["units"]),
            keras.layers.Dense(shop.products, activation="softmax"),
        ]
    )
    network.compile(keras.optimizers.Adam(settings["learning_rate"]), loss="sparse_categorical_crossentropy")
    ends = shop.train.offsets[1:][np.diff(shop.train.offsets) >= settings["min_length"]]
    with Timer() as fit:
        history = network.fit(
            _prefixes(shop.train, ends - 1, settings["length"]),
            shop.train.items[ends - 1],
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            validation_split=settings["validation_split"],
            callbacks=[keras.callbacks.EarlyStopping(patience=settings["patience"])],
            verbose=2,
        )
    prefixes = _prefixes(shop.shown, np.arange(len(shop.shown.items)) + 1, settings["length"])

    def ranked(rows: Ints) -> Ints:
        scores = network.predict(prefixes[rows], batch_size=128, verbose=0)
        return np.argsort(scores, axis=-1)[:, ::-1][:, :WIDTH]

    lists = empty_answers(len(prefixes))
    for start in range(0, len(lists), 1024):
        rows = np.arange(start, min(start + 1024, len(lists)))
        best = ranked(rows)
        lists[rows, : best.shape[1]] = best
    latencies = one_by_one(lambda row: ranked(np.array([row])), shop, 60)
    notes = {"epochs": len(history.history["loss"])}
    return Answers(shop.per_query(lists), fit.wall, fit.cpu, latencies, notes)


def _prefixes(log: Log, ends: Ints, length: int) -> Ints:
    """Returns the products of the session before each flat position, [ends, length], 0 on the left."""
    owners = np.searchsorted(log.offsets, ends - 1, side="right") - 1
    places = ends[:, None] - np.arange(length, 0, -1)
    inside = places >= log.offsets[owners][:, None]
    return np.where(inside, log.items[np.maximum(places, 0)] + 1, 0)

"""From sessions to a recommender: choose on validation sessions, then learn again with them.

A shop's latest days are its most telling ones. Held back, they choose the number of epochs and the blend;
after that the network is trained anew, and companions and followers are counted, with them included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

import accelerate
import checkpoints
import fit
import queries as protocol
from blend import TRAITS
from checkpoints import Epoch, Progress, StopSignal
from cluster import Cluster
from evaluate import LIST_LENGTH
from model import NextItem
from queries import Queries
from recommender import Recommender
from sessions import Corpus, Ids, Ints, Sessions, Vocabulary
from validate import Choice, choose_blend

_VALIDATION_QUERIES = 5_000
# Options that change what is done around learning, and not what is learned.
_BESIDE_LEARNING = frozenset({"checkpoint_seconds", "embedding_dtype", "top_k", "tracking"})


@dataclass(frozen=True)
class Learned:
    """What is exported, and how it came about.

    Attributes:
        recommender: Network, counts and blend.
        choice: The blend and what it reached on validation sessions.
        history: Learning curve of the run that was validated.
        sessions: What the recommender has learned from.
        epochs: Epochs of the exported network.
        seconds: Spent in training loops, those of an interrupted job included.
    """

    recommender: Recommender
    choice: Choice
    history: list[Epoch]
    sessions: Sessions
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Learner:
    """One job's learning.

    Attributes:
        arguments: Hyper-parameters, from `train.parse`.
        corpus: The snapshot.
        cluster: Who trains together.
        checkpoint_folder: Where to go on from, None for nowhere.
        versions: Of the libraries, which checkpoints depend on.
        report: Called by the chief with "epoch" or "refit", the number of epochs and each epoch's row.
        announce: Called by the chief with the choice.
        note: Called with remarks.
    """

    arguments: argparse.Namespace
    corpus: Corpus
    cluster: Cluster
    checkpoint_folder: Path | None
    versions: dict[str, str]
    report: Callable[[str, int, Epoch], None]
    announce: Callable[[Choice], None]
    note: Callable[[str], None]

    def learn(self) -> Learned | None:
        """Chooses and learns; None in processes other than the chief's.

        Raises:
            fit.DivergedError: Training failed.
            fit.StoppedError: SIGTERM came.
        """
        with StopSignal() as signal:  # between two trainings, too
            return self._learn(signal)

    def _learn(self, signal: StopSignal) -> Learned | None:
        arguments, corpus = self.arguments, self.corpus
        met = np.bincount(corpus.train.ids, minlength=len(corpus.vocabulary) + 1)
        validation = self._validation(met, _VALIDATION_QUERIES)
        refits = arguments.refit == "on" and len(validation) > 0
        limit = arguments.max_seconds
        before = replace(corpus.vocabulary, counts=met[1:])
        network, progress = self._fit(
            "epoch",
            corpus.train,
            validation,
            before,
            arguments.epochs,
            limit / 2 if refits else limit,
            signal,
        )
        recommender = Recommender(network, corpus.train, before)
        choice = choose_blend(recommender, validation) if self.cluster.is_chief else None
        if choice:
            self.announce(choice)
        epochs = int(self.cluster.from_chief(_best_epoch(progress.history)))
        seconds, learned = progress.seconds, corpus.train
        if refits:
            left = max(1.0, limit - float(self.cluster.from_chief(seconds))) if limit else 0.0
            network, again = self._fit(
                "refit", corpus.learned, self._validation(met, 0), corpus.vocabulary, epochs, left, signal
            )
            if limit and again.seconds >= left:
                self.note("the time limit cut the refit short: its network has learned less than it could")
            recommender = Recommender(network, corpus.learned, corpus.vocabulary)
            epochs = len(again.history)
            seconds, learned = seconds + again.seconds, corpus.learned
        if choice is None:
            return None
        recommender.set_blend(choice.blend)
        return Learned(recommender, choice, progress.history, learned, epochs, seconds)

    def _validation(self, met: Ints, limit: int) -> Queries:
        """Returns queries of validation sessions; only products that training sessions met are known."""
        sessions = self.corpus.validation
        known = np.where(met[sessions.ids] > 0, sessions.ids, 0)
        sessions = replace(sessions, ids=known.astype(np.int32))
        queries = protocol.build(sessions, limit, self.arguments.seed)
        return protocol.latest(queries, self.arguments.max_length)

    def _fit(
        self,
        phase: str,
        sessions: Sessions,
        validation: Queries,
        vocabulary: Vocabulary,
        epochs: int,
        max_seconds: float,
        signal: StopSignal,
    ) -> tuple[NextItem, Progress]:
        """Trains, and returns the best network in float32 outside of any strategy: what can be exported."""
        arguments, products = self.arguments, len(self.corpus.vocabulary)
        precision = accelerate.choose_precision(arguments.precision)
        # Whatever ran before, a tracker's client among it, may have drawn from the same generators.
        keras.utils.set_random_seed(arguments.seed)
        with self.cluster.strategy.scope(), accelerate.dtype_policy(precision):
            network = build_network(arguments, products, kinds=self.corpus.kinds)
        progress = fit.train(
            network,
            sessions,
            validation,
            vocabulary,
            fit.Options(
                epochs=epochs,
                batch_size=arguments.batch_size,
                learning_rate=arguments.learning_rate,
                max_length=arguments.max_length,
                seed=arguments.seed,
                max_seconds=max_seconds,
                label_smoothing=arguments.label_smoothing,
                negatives=arguments.negatives,
                full_softmax_products=arguments.full_softmax_products,
            ),
            lambda row: self.report(phase, epochs, row),
            signal,
            cluster=self.cluster,
            checkpoints=self._checkpoints(phase, epochs, precision),
            say=self.note,
        )
        trained = build_network(arguments, products)
        network.copy_to(trained)
        return trained, progress

    def _checkpoints(self, phase: str, epochs: int, precision: str) -> checkpoints.Checkpoints | None:
        if self.checkpoint_folder is None:
            return None
        shaping = {name: kept for name, kept in vars(self.arguments).items() if name not in _BESIDE_LEARNING}
        digest = checkpoints.digest(
            files=[entry["sha256"] for entry in self.corpus.manifest["files"]],
            vocabulary=self.corpus.vocabulary.sha256(),
            hyperparameters={**shaping, "precision": precision, "phase": phase, "epochs": epochs},
            versions=self.versions,
        )
        seconds = self.arguments.checkpoint_seconds
        return checkpoints.Checkpoints(self.checkpoint_folder / phase, digest, seconds, self.note)


def build_network(
    arguments: argparse.Namespace,
    products: int,
    embedding_dtype: str = "float32",
    kinds: Ids | None = None,
) -> NextItem:
    """Returns an untrained network of the job's hyper-parameters; arguments as in `NextItem`."""
    return NextItem(
        arguments.architecture,
        products,
        arguments.embedding_dim,
        arguments.dropout,
        arguments.max_length,
        arguments.shortcuts,
        embedding_dtype,
        kinds if arguments.catalog == "on" else None,
    )


def blend_report(choice: Choice) -> dict[str, object]:
    """Returns the choice as JSON: mean shares, what is mixed by, and what it reached."""
    weights = [[round(float(value), 6) for value in row] for row in choice.blend.weights]
    own = {name: round(float(value), 6) for name, value in zip(TRAITS, choice.blend.own, strict=True)}
    return {"shares": choice.shares, "weights": weights, "own": own, **choice.reached}


def _best_epoch(history: list[Epoch]) -> int:
    """Returns the number of epochs after which the validation MRR was highest; 0 in all but the chief."""
    reached = [row[f"val_mrr@{LIST_LENGTH}"] or 0.0 for row in history]
    return reached.index(max(reached)) + 1 if reached else 0

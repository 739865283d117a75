from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras  # noqa: TID253  # runs in the ML environment only
import numpy as np
import pytest
import tensorflow as tf  # noqa: TID253

import fit
import learning
import sessions
import train
from blend import DEFAULT_BLEND
from cluster import Cluster
from learning import Learned, Learner
from model import NextItem
from queries import Queries, build
from recommender import Recommender
from sessions import Corpus, Sessions, Vocabulary
from validate import Choice, choose_blend

REACHED = [0.1, 0.5, 0.3, 0.2]  # validation MRR of each epoch: the second is the best


class _Job:
    """One learner's run, with what it said and what it chose the blend by."""

    def __init__(self, corpus: Corpus, refit: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[tuple[str, int]] = []
        self.asked: list[tuple[Recommender, Queries]] = []
        self.announced: list[Choice] = []
        arguments = ("--epochs", "6", "--embedding-dim", "8", "--batch-size", "32", "--refit", refit)
        monkeypatch.setattr(fit, "validation_metrics", self._metrics)
        monkeypatch.setattr(learning, "choose_blend", self._choose)
        keras.utils.set_random_seed(1)
        learned = Learner(
            train.parse(arguments),
            corpus,
            Cluster(),
            None,
            {},
            lambda phase, epochs, row: self.rows.append((phase, epochs)),
            self.announced.append,
            print,
        ).learn()
        assert learned is not None
        self.learned: Learned = learned

    def _metrics(self, network: Any, validation: Queries) -> dict[str, float | None]:
        value = REACHED[len(self.rows)] if len(validation) else None
        return {"val_mrr@20": value, "val_hit_rate@20": value}

    def _choose(self, recommender: Recommender, validation: Queries) -> Choice:
        self.asked.append((recommender, validation))
        return CHOOSE(recommender, validation)


CHOOSE = learning.choose_blend


@pytest.fixture(scope="module")
def corpus(
    tmp_path_factory: pytest.TempPathFactory,
    make_snapshot: Callable[..., Path],
    make_chains: Callable[..., list[list[str]]],
) -> Corpus:
    """Validation also has products of its own, one always after the other."""
    validation = [*make_chains(20, 2), *[["new", "newer"]] * 20]
    folder = tmp_path_factory.mktemp("learning") / "s"
    return sessions.load(make_snapshot(folder, make_chains(200, 1), validation, make_chains(5, 3)))


def _id(vocabulary: Vocabulary, sku: str) -> int:
    return list(vocabulary.skus).index(sku) + 1


def _after(recommender: Recommender, viewed: int) -> Any:
    return recommender(tf.constant([[viewed]]), tf.constant([1])).numpy()[0]


def test_validation_chooses_and_is_then_learned_from(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _Job(corpus, "on", monkeypatch)
    learned, new, newer = job.learned, _id(corpus.vocabulary, "new"), _id(corpus.vocabulary, "newer")
    # Two epochs without a better one end the first run; the second has as many as were best.
    assert job.rows == [("epoch", 6)] * 4 + [("refit", 2)] * 2
    assert learned.epochs == 2
    assert [row["val_mrr@20"] for row in learned.history] == REACHED
    assert len(learned.sessions) == len(corpus.train) + len(corpus.validation)

    [(chosen_with, validation)] = job.asked
    assert len(validation) == 20 * 2 + 20
    assert (validation.targets == 0).sum() == 20
    assert not np.isin(validation.targets, [new, newer]).any()
    assert not np.isin(validation.history, [new, newer]).any()
    assert not chosen_with.followers[1].numpy()[new].any()
    assert chosen_with.next_item is not learned.recommender.next_item

    assert int(_after(learned.recommender, new).argmax()) == newer
    [choice] = job.announced
    assert choice is learned.choice
    np.testing.assert_array_equal(learned.recommender.gate.numpy(), choice.blend.weights)


def test_a_notice_between_the_two_trainings_ends_the_second_at_its_first_step(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_while_choosing(recommender: Recommender, validation: Queries) -> Choice:
        os.kill(os.getpid(), signal.SIGTERM)
        return CHOOSE(recommender, validation)

    monkeypatch.setattr(learning, "choose_blend", told_while_choosing)
    rows: list[str] = []
    learner = Learner(
        train.parse(("--epochs", "2", "--embedding-dim", "8", "--batch-size", "32")),
        corpus,
        Cluster(),
        None,
        {},
        lambda phase, epochs, row: rows.append(phase),
        lambda choice: None,
        print,
    )
    with pytest.raises(fit.StoppedError):
        learner.learn()
    assert rows == ["epoch", "epoch"]


def test_without_a_refit_only_training_sessions_are_learned(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _Job(corpus, "off", monkeypatch)
    assert job.rows == [("epoch", 6)] * 4
    assert job.learned.epochs == 2  # those of the weights that are kept
    assert job.learned.sessions is corpus.train
    [(chosen_with, _)] = job.asked
    assert job.learned.recommender is chosen_with
    assert not chosen_with.followers[1].numpy()[_id(corpus.vocabulary, "new")].any()


def test_a_session_without_a_known_product_is_ranked_by_popularity_and_does_not_choose(
    corpus: Corpus, make_sessions: Callable[[list[list[int]]], Sessions]
) -> None:
    vocabulary = corpus.vocabulary
    network = NextItem("gru", len(vocabulary), 4, 0.0, 50)
    recommender = Recommender(network, corpus.train, vocabulary)
    fallback = build(make_sessions([[0, 2]]), 10, 1)
    choice = choose_blend(recommender, fallback)
    np.testing.assert_array_equal(choice.blend.weights, DEFAULT_BLEND.weights)
    assert choice.reached["val_mrr@20"] == pytest.approx(1 / 2)

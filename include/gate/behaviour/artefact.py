"""A packaged model, asked as its endpoint would be: the SavedModel's own signature, nothing around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from report import EvaluationError

SIGNATURE = "serving_default"
K = 20
_BATCH = 128  # a catalogue of half a million products is 256 MB of scores
_WARM_UP = 5


@dataclass(frozen=True)
class Answer:
    """One list of recommendations.

    Attributes:
        known: Whether the model recognised anything of the session.
    """

    skus: list[str]
    scores: list[float]
    known: bool


class Artefact:
    """An unpacked `model.tar.gz`, loaded when first asked.

    What it failed of once it fails of again at once: dozens of checks ask, and one broken model must not
    cost each of them the time that it takes to break.
    """

    def __init__(self, folder: Path) -> None:
        """Takes the folder that holds `<version>/saved_model.pb`."""
        self.folder = folder
        self._failure: Exception | None = None

    @cached_property
    def _signature(self) -> Any:
        import tensorflow as tf  # seconds, and not needed where no model is given

        versions = [
            path.parent for path in self.folder.glob("*/saved_model.pb") if path.parent.name.isdecimal()
        ]
        if not versions:
            raise EvaluationError("The packaged model has no <version>/saved_model.pb.")
        # The endpoint serves the greatest version. The loaded object owns the variables: it must stay alive.
        self._loaded = tf.saved_model.load(str(max(versions, key=lambda path: int(path.name))))
        return self._loaded.signatures[SIGNATURE]

    def answer(self, sessions: Sequence[Sequence[str]]) -> list[Answer]:
        """Answers sessions of any length, those of like length together."""
        answers: list[Answer | None] = [None] * len(sessions)
        order = sorted(range(len(sessions)), key=lambda place: len(sessions[place]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            for row, answer in zip(rows, self._ask([sessions[row] for row in rows]), strict=True):
                answers[row] = answer
        return [answer for answer in answers if answer is not None]

    def answer_singly(self, sessions: Sequence[Sequence[str]]) -> tuple[list[Answer], list[float]]:
        """Answers sessions one by one, as an endpoint does; returns the seconds of each call, too."""
        for session in sessions[:_WARM_UP]:  # the first call costs a hundred times the others
            self._ask([session])
        answers, seconds = [], []
        for session in sessions:
            started = time.perf_counter()
            [answer] = self._ask([session])
            seconds.append(time.perf_counter() - started)
            answers.append(answer)
        return answers, seconds

    def _ask(self, sessions: Sequence[Sequence[str]]) -> list[Answer]:
        if self._failure is not None:
            raise self._failure
        try:
            return self._call(sessions)
        except Exception as error:
            self._failure = error
            raise

    def _call(self, sessions: Sequence[Sequence[str]]) -> list[Answer]:
        signature = self._signature
        import tensorflow as tf

        width = max(1, *(len(session) for session in sessions))
        padded = [[*session, *[""] * (width - len(session))] for session in sessions]
        inputs = {
            "session": tf.constant(padded, tf.string),
            "k": tf.fill([len(sessions)], K),
            "exclude_seen": tf.fill([len(sessions)], False),
        }
        # Models of before had no `exclude_seen`.
        wanted = signature.structured_input_signature[1]
        outputs = signature(**{name: inputs[name] for name in wanted})
        columns = [outputs[name].numpy() for name in ("skus", "scores", "fallback")]
        return [_read(*row) for row in zip(*columns, strict=True)]


def _read(skus: Any, scores: Any, fallback: bytes) -> Answer:
    listed = [(sku.decode("utf-8"), float(score)) for sku, score in zip(skus, scores, strict=True) if sku][:K]
    return Answer([sku for sku, _ in listed], [score for _, score in listed], fallback == b"none")


def same_answer(one: Answer, other: Answer, tolerance: float) -> bool:
    """Says whether two lists are the same but for near-ties, whose order is left to rounding.

    A product that one list lacks scores at most as much there as its last one. Where scores are nearly flat
    that holds of any product, so nine of ten products must be in both lists.

    Args:
        one: A list.
        other: Another one.
        tolerance: Relative difference of scores that is no difference.
    """
    if len(one.skus) != len(other.skus):
        return False
    if not one.skus:
        return True
    here, there = (dict(zip(answer.skus, answer.scores, strict=True)) for answer in (one, other))
    if len(here.keys() - there.keys()) > max(1, len(here) // 10):
        return False
    skus = sorted(here.keys() | there.keys())
    first = np.array([here.get(sku, one.scores[-1]) for sku in skus])
    second = np.array([there.get(sku, other.scores[-1]) for sku in skus])
    return bool(np.allclose(first, second, rtol=tolerance, atol=0.0)) and _falling(one) and _falling(other)


def _falling(answer: Answer) -> bool:
    return bool((np.diff(answer.scores) <= 0).all())

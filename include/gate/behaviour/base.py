"""What every group of checks builds on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from reclist.reclist import RecList

from artefact import Artefact
from evaluation import Champion, Evaluation
from report import EvaluationError, Result, finite
from resampling import Floats, Resampler

T = TypeVar("T")


# Charts are drawn on the card from our report: asking RecList for its own would load matplotlib for them.
class Checks(RecList):
    """A RecList with the material that checks measure.

    Attributes:
        results: What was measured, in the order of the checks.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        store: Path,
        model: Artefact | None = None,
        champion: Artefact | None = None,
        package_bytes: int | None = None,
    ) -> None:
        """Takes what is to be measured; RecList leaves its own files in `store`."""
        # First: RecList touches every property to find its tests, and must find none of them ready.
        super().__init__(model_name="candidate")
        self.META_DATA_FOLDER = str(store)
        self.evaluation = evaluation
        self.champion = None if champion is None else Champion(champion, evaluation)
        self.package_bytes = package_bytes
        self.results: list[Result] = []
        self._model = model

    @cached_property
    def resampler(self) -> Resampler:
        """The draws, shared by all checks."""
        return Resampler(self.evaluation.session_codes)

    @property
    def model(self) -> Artefact:
        """The packaged model.

        Raises:
            EvaluationError: It was not given.
        """
        if self._model is None:
            raise EvaluationError("The packaged model was not given, only its evaluation.")
        return self._model

    def of_champion(self, measure: Callable[[Champion], T]) -> T | None:
        """Returns what is measured of the live model; None where there is none, or it is broken.

        The model's own values do not depend on it. What it died of is told by the checks against it.
        """
        if self.champion is None:
            return None
        try:
            return measure(self.champion)
        except Exception:
            return None

    def mean(self, result: Result, own: Floats, champion: Callable[[Champion], Floats]) -> None:
        """Fills in the mean of a per-query quantity, its interval, and the champion's."""
        result.value, result.sample_size = finite(own.mean()), len(own)
        result.interval = self.resampler.interval_of_mean(own)
        result.champion = finite(self.of_champion(lambda live: float(np.mean(champion(live)))))

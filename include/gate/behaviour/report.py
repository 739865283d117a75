"""What a check leaves behind, and how a method becomes a check that cannot bring the others down."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import wraps
from typing import Any

import numpy as np
from reclist.charts import CHART_TYPE
from reclist.reclist import rec_test

Interval = tuple[float | None, float | None]

_ERROR_CHARACTERS = 500


class EvaluationError(Exception):
    """A file of the evaluation, or an artefact, is missing or not what it should be."""


@dataclass
class Slice:
    """A measured value of one part of the test queries.

    Attributes:
        sessions: Number of sessions that the queries come from.
        champion: The live model's value on the same queries.
        difference: The model's value less the champion's.
        difference_interval: Of the difference, paired.
    """

    value: float | None
    sample_size: int
    interval: Interval | None = None
    sessions: int | None = None
    champion: float | None = None
    difference: float | None = None
    difference_interval: Interval | None = None


@dataclass
class Result:
    """One check of the report.

    Attributes:
        value: None where it is not a finite number.
        sample_size: Number of test queries behind the value.
        interval: 95 % bootstrap interval over whole sessions, for queries of a session are not independent.
        interval_kind: `confidence` as above, or `percentiles`, the 10th and 90th of what was measured.
        baselines: The same value for each baseline, on the same queries.
        champion: The same value for the live model, on the same queries; None where there is none.
        error: What the check died of; its values are then missing.
    """

    name: str
    description: str
    value: float | None = None
    sample_size: int = 0
    interval: Interval | None = None
    interval_kind: str = "confidence"
    baselines: dict[str, float | None] = field(default_factory=dict)
    champion: float | None = None
    slices: dict[str, Slice] = field(default_factory=dict)
    error: str | None = None


def finite(value: float | None) -> float | None:
    """Returns a plain float, or None for NaN and infinity, which JSON does not have."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def plain(value: Any) -> Any:
    """Returns numpy's numbers as Python's, and NaN and infinity as None, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    number = value.item() if isinstance(value, np.generic) else value
    return finite(number) if isinstance(number, float) else number


def describe(error: Exception) -> str:
    """Returns an error as one short text."""
    return f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]


def check(name: str, shape: CHART_TYPE = CHART_TYPE.SCALAR) -> Callable[..., Any]:
    """Makes a method a `rec_test` whose crash is a result, for RecList gives up the whole list otherwise."""

    def decorate(method: Callable[[Any, Result], None]) -> Any:
        @wraps(method)
        def run(self: Any) -> object:
            result = Result(name, " ".join((method.__doc__ or "").split()))
            try:
                method(self, result)
                json.dumps(plain(asdict(result)))  # what could not be written would cost the others, too
            # Whatever a check dies of is its result; the rule that needs it fails closed with this text.
            except Exception as error:
                result = Result(name, result.description, error=describe(error))
            self.results.append(result)
            return _for_reclist(result)

        return rec_test(name, shape)(run)

    return decorate


def _for_reclist(result: Result) -> object:
    if not result.slices:
        return result.value
    # RecList prints them with rich, to which a category named "[/b]" is markup, and a wrong one.
    return {name.replace("[", "("): part.value for name, part in result.slices.items()}

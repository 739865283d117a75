"""Bootstrap over whole sessions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from report import Interval, finite

RESAMPLES = 500
SEED = 20211

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]


class Resampler:
    """Seeded bootstrap that draws whole sessions with replacement.

    Every quantity is resampled with the same draws, so that model, baseline and champion are compared in
    pairs.
    """

    def __init__(self, sessions: npt.NDArray[np.int64]) -> None:
        """Takes the session number of each query, [queries]."""
        self._sessions = sessions
        self._number = int(sessions.max()) + 1
        rng = np.random.default_rng(SEED)
        # [resamples, sessions]: how often each session was drawn.
        self._weights = np.stack(
            [
                np.bincount(rng.integers(0, self._number, self._number), minlength=self._number)
                for _ in range(RESAMPLES)
            ]
        ).astype(np.float32)

    @property
    def sessions(self) -> int:
        """Number of sessions that are drawn from."""
        return self._number

    def sums(self, per_query: Floats) -> Floats:
        """Returns the sum of a per-query quantity in each resample, [resamples]."""
        totals = np.bincount(self._sessions, weights=per_query, minlength=self._number)
        return np.asarray(self._weights @ totals.astype(np.float32), dtype=np.float64)

    def interval_of_mean(self, per_query: Floats, rows: Rows | None = None) -> Interval:
        """Returns the 95 % interval of a mean over the chosen rows (all of them by default)."""
        chosen = np.ones(len(per_query)) if rows is None else rows.astype(np.float64)
        return percentiles(self.sums(per_query * chosen), self.sums(chosen))

    def interval_of_ratio(self, above: Floats, below: Floats) -> Interval:
        """Returns the 95 % interval of `smoothed_ratio` of two per-query quantities."""
        return percentiles(self.sums(above) + 1.0, self.sums(below) + 1.0)


def percentiles(above: Floats, below: Floats) -> Interval:
    """Returns the 2.5 % and 97.5 % points of a quotient; draws without a denominator say nothing."""
    usable = below > 0
    if not usable.any():
        return (None, None)
    low, high = np.percentile(above[usable] / below[usable], [2.5, 97.5])
    return (finite(low), finite(high))


def smoothed_ratio(above: Floats, below: Floats) -> float:
    """Returns the quotient of two sums with one perfect hit added to both.

    It stays finite where a baseline never hits, and leans towards 1 where there is little evidence.
    """
    return float((above.sum() + 1.0) / (below.sum() + 1.0))

"""The model against the live one, paired on the same queries. Reported only where something is live."""

from __future__ import annotations

import numpy as np

from artefact import K
from base import Checks
from evaluation import Champion, gains
from report import EvaluationError, Result, check, finite


class ChampionChecks(Checks):
    """Is it safe to replace what customers have now?"""

    @property
    def _live(self) -> Champion:
        if self.champion is None:
            raise EvaluationError("No champion was given.")
        return self.champion

    def _difference(self, result: Result, metric: str) -> None:
        own = gains(self.evaluation.ranks("model"), metric, K)
        live = gains(self._live.ranks, metric, K)
        result.value, result.sample_size = finite((own - live).mean()), len(own)
        result.interval = self.resampler.interval_of_mean(own - live)

    @check("champion_knows")
    def champion_knows(self, result: Result) -> None:
        """Share of queries whose viewed product the live model recommends from."""
        knows = self._live.knows
        result.value, result.sample_size = finite(float(knows.mean())), len(knows)
        result.interval = self.resampler.interval_of_mean(knows.astype(np.float64))

    @check("hit_rate@20_minus_champion")
    def hit_rate_minus_champion(self, result: Result) -> None:
        """Hit rate@20 less the live model's, paired on the same queries."""
        self._difference(result, "hit_rate")

    @check("mrr@20_minus_champion")
    def mrr_minus_champion(self, result: Result) -> None:
        """MRR@20 less the live model's, paired on the same queries."""
        self._difference(result, "mrr")

"""What the lists are like, right or wrong: how much of the catalogue, how well known, how near."""

from __future__ import annotations

import numpy as np

from artefact import K
from base import Checks
from evaluation import Ranks
from report import EvaluationError, Result, check, finite
from resampling import SEED, Floats, percentiles

# Where the shop's best sellers are hardly more popular than what is bought next, a bias has no direction.
FLAT_POPULARITY = 0.1

Lists = list[list[str]]


class BreadthChecks(Checks):
    """Coverage, popularity bias, novelty, and being less wrong."""

    @check("coverage@20")
    def coverage(self, result: Result) -> None:
        """Share of the products that these queries could have shown that was shown at least once."""
        counts = self.evaluation.train_counts

        def covered(lists: Lists) -> float:
            shown = {sku for ranked in lists for sku in ranked}
            # Few queries cannot show a large catalogue: the share is of what was within reach.
            return len(shown & set(counts.index)) / min(len(counts), K * len(lists))

        result.value, result.sample_size = covered(self.evaluation.lists), len(self.evaluation.lists)
        result.champion = self.of_champion(lambda live: covered(live.lists))

    @check("popularity_bias@20")
    def popularity_bias(self, result: Result) -> None:
        """Where the lists stand between the true next items' popularity (0) and the best sellers' (1)."""
        weight = np.log1p(self.evaluation.train_counts)
        result.sample_size = len(self.evaluation.lists)
        known = self.evaluation.target_counts[self.evaluation.target_counts > 0]
        if not len(known):
            raise EvaluationError("No target of the test set occurs in the training data.")
        natural = float(np.log1p(known).mean())
        extreme = float(weight.nlargest(K).mean())

        def bias(lists: Lists) -> float | None:
            if extreme - natural < FLAT_POPULARITY:
                return 0.0
            shown = np.concatenate([np.asarray(ranked, dtype=object) for ranked in lists])
            recommended = float(weight.reindex(shown).fillna(0.0).mean())
            return finite((recommended - natural) / (extreme - natural))

        result.value = bias(self.evaluation.lists)
        result.champion = self.of_champion(lambda live: bias(live.lists))

    @check("novelty@20")
    def novelty(self, result: Result) -> None:
        """Mean self-information of what is shown, in bits: -log2 of its share of the training data."""
        counts = self.evaluation.train_counts
        # A product that only the champion was trained on counts as one seen once.
        bits = (-np.log2(counts / counts.sum())).to_dict()
        rarest = float(np.log2(counts.sum()))

        def told(lists: Lists) -> tuple[Floats, Floats]:
            sums = [sum(bits.get(sku, rarest) for sku in ranked) for ranked in lists]
            return np.asarray(sums, np.float64), np.asarray([len(ranked) for ranked in lists], np.float64)

        def average(lists: Lists) -> float:
            sums, lengths = told(lists)
            return float(sums.sum() / lengths.sum())

        sums, lengths = told(self.evaluation.lists)
        result.value, result.sample_size = finite(average(self.evaluation.lists)), len(sums)
        result.interval = percentiles(self.resampler.sums(sums), self.resampler.sums(lengths))
        result.champion = finite(self.of_champion(lambda live: average(live.lists)))

    @check("distance_when_wrong")
    def distance_when_wrong(self, result: Result) -> None:
        """Mean cosine distance from the first product shown to the one wanted, over the missed queries.

        Products viewed together are near. The baselines answer the queries that the model missed; the
        champion is measured on those that it missed itself.
        """
        own, rows = self._distances(self._first(self.evaluation.lists), self.evaluation.model_ranks)
        result.sample_size = int(rows.sum())
        result.interval = self.resampler.interval_of_mean(own, rows)
        result.value = _mean(own, rows)
        for name, shown in self._guesses().items():
            result.baselines[name] = _mean(*self._distances(shown, self.evaluation.model_ranks))
        result.champion = self.of_champion(
            lambda live: _mean(*self._distances(self._first(live.lists), live.ranks))
        )

    @staticmethod
    def _first(lists: Lists) -> list[str]:
        return [ranked[0] if ranked else "" for ranked in lists]

    def _guesses(self) -> dict[str, list[str]]:
        """Returns the best seller that is not being viewed, and any product at all, [queries] each."""
        best = [*self.evaluation.train_counts.nlargest(2).index, ""]
        sessions = self.evaluation.sessions
        popular = [best[1] if session and session[-1] == best[0] else best[0] for session in sessions]
        products = self.evaluation.vectors.index
        drawn = np.random.default_rng(SEED).integers(0, len(products), len(sessions))
        return {"popularity": popular, "random": [products[place] for place in drawn]}

    def _distances(self, shown: list[str], ranks: Ranks) -> tuple[Floats, np.ndarray]:
        """Returns cosine distances to the targets, 0 where there is none, and the rows that have one."""
        vectors = self.evaluation.vectors
        places = {sku: place for place, sku in enumerate(vectors.index)}
        matrix = np.stack(list(vectors))
        targets = self.evaluation.column("target")
        here = np.asarray([places.get(sku, -1) for sku in shown])
        there = np.asarray([places.get(sku, -1) for sku in targets])
        rows = (ranks == 0) & (here >= 0) & (there >= 0)
        distances = np.zeros(len(rows))
        distances[rows] = 1.0 - (matrix[here[rows]] * matrix[there[rows]]).sum(axis=1)
        return distances, rows


def _mean(values: Floats, rows: np.ndarray) -> float | None:
    return finite(values[rows].mean()) if rows.any() else None

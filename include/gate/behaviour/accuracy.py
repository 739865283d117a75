"""How often, and how high up, the next item is found; beside the baselines."""

from __future__ import annotations

import math

import numpy as np

from artefact import K
from base import Checks
from evaluation import gains
from report import EvaluationError, Result, Slice, check, finite
from resampling import Rows, smoothed_ratio

BASELINES = ("popularity", "covisitation", "markov", "session_knn")
REPORTED_METRICS = ("hit_rate@10", "mrr@10", "hit_rate@20", "mrr@20")


def list_defects(
    ranked: list[str], scores: list[float], viewed: str | None, known: set[str], shortest: int
) -> list[str]:
    """Names what is wrong with one list of recommendations.

    Args:
        ranked: The SKUs in order.
        scores: Their scores.
        viewed: The SKU that the customer is looking at.
        known: SKUs that occur in training.
        shortest: Fewest SKUs that the catalogue allows.
    """
    values = np.asarray(scores, dtype=np.float64)
    found = {
        "wrong_length": not shortest <= len(ranked) <= K,
        "duplicates": len(set(ranked)) != len(ranked),
        "empty_sku": any(not sku for sku in ranked),
        "unknown_sku": any(sku and sku not in known for sku in ranked),
        "viewed_item": viewed in ranked,
        "scores_mismatch": len(values) != len(ranked),
        "scores_not_finite": not bool(np.isfinite(values).all()),
        "scores_out_of_order": bool((np.diff(values) > 0).any()),
    }
    return [name for name, wrong in found.items() if wrong]


class AccuracyChecks(Checks):
    """Is there enough to judge, is it sound, and does the model find the next item?"""

    def _accuracy(self, result: Result, metric: str, cutoff: int) -> None:
        own = gains(self.evaluation.ranks("model"), metric, cutoff)
        self.mean(result, own, lambda live: gains(live.ranks, metric, cutoff))
        for method in BASELINES:
            # A baseline that was not run is absent; the rules that name it fail closed.
            if f"rank_{method}" in self.evaluation.queries.columns:
                other = gains(self.evaluation.ranks(method), metric, cutoff)
                result.baselines[method] = finite(other.mean())

    def _lift(self, result: Result, metric: str, method: str, rows: Rows | None = None) -> None:
        chosen = np.ones(len(self.evaluation.queries)) if rows is None else rows.astype(np.float64)
        own = gains(self.evaluation.ranks("model"), metric, K) * chosen
        other = gains(self.evaluation.ranks(method), metric, K) * chosen
        result.value, result.sample_size = smoothed_ratio(own, other), int(chosen.sum())
        result.interval = self.resampler.interval_of_ratio(own, other)
        result.champion = self.of_champion(
            lambda live: smoothed_ratio(gains(live.ranks, metric, K) * chosen, other)
        )

    @check("queries")
    def queries(self, result: Result) -> None:
        """Number of test queries that were scored."""
        result.value = float(len(self.evaluation.queries))
        result.sample_size = len(self.evaluation.queries)

    @check("sessions")
    def sessions(self, result: Result) -> None:
        """Number of test sessions that the queries come from."""
        result.value = float(self.resampler.sessions)
        result.sample_size = len(self.evaluation.queries)

    @check("faulty_lists")
    def faulty_lists(self, result: Result) -> None:
        """Share of lists with a repeated, empty, unknown or just viewed product, or senseless scores."""
        data = self.evaluation
        known = set(data.train_counts.index)
        # The item being viewed is dropped, which leaves a small shop with fewer than K to choose from.
        shortest = min(K, len(known) - 1)
        columns = (data.column(name) for name in ("predictions", "scores", "session"))
        found = [
            list_defects(list(ranked), list(scores), session[-1] if len(session) else None, known, shortest)
            for ranked, scores, session in zip(*columns, strict=True)
        ]
        result.sample_size = len(found)
        result.value = float(np.mean([bool(defects) for defects in found]))
        for name in sorted({name for defects in found for name in defects}):
            result.slices[name] = Slice(float(np.mean([name in defects for defects in found])), len(found))

    @check("hit_rate@1")
    def hit_rate_at_1(self, result: Result) -> None:
        """Share of queries whose next item comes first; near 1, the model was told the answer."""
        self._accuracy(result, "hit_rate", 1)

    @check("hit_rate@10")
    def hit_rate_at_10(self, result: Result) -> None:
        """Share of queries whose next item is among the first 10."""
        self._accuracy(result, "hit_rate", 10)

    @check("mrr@10")
    def mrr_at_10(self, result: Result) -> None:
        """Mean reciprocal rank of the next item within the first 10."""
        self._accuracy(result, "mrr", 10)

    @check("ndcg@10")
    def ndcg_at_10(self, result: Result) -> None:
        """Normalised discounted cumulative gain of the next item within the first 10."""
        self._accuracy(result, "ndcg", 10)

    @check("hit_rate@20")
    def hit_rate_at_20(self, result: Result) -> None:
        """Share of queries whose next item is among the first 20."""
        self._accuracy(result, "hit_rate", 20)

    @check("mrr@20")
    def mrr_at_20(self, result: Result) -> None:
        """Mean reciprocal rank of the next item within the first 20."""
        self._accuracy(result, "mrr", 20)

    @check("ndcg@20")
    def ndcg_at_20(self, result: Result) -> None:
        """Normalised discounted cumulative gain of the next item within the first 20."""
        self._accuracy(result, "ndcg", 20)

    @check("hit_rate@20_over_popularity")
    def hit_rate_over_popularity(self, result: Result) -> None:
        """Hit rate@20 as a multiple of the most-popular list's, paired on the same queries."""
        self._lift(result, "hit_rate", "popularity")

    @check("mrr@20_over_popularity")
    def mrr_over_popularity(self, result: Result) -> None:
        """MRR@20 as a multiple of the most-popular list's, paired on the same queries."""
        self._lift(result, "mrr", "popularity")

    @check("new_product_hit_rate@20_over_popularity")
    def new_product_hit_rate_over_popularity(self, result: Result) -> None:
        """The same multiple over the queries whose next item the session has not shown yet."""
        self._lift(result, "hit_rate", "popularity", self.evaluation.leads_to_new_product)

    @check("reported_metrics_deviation")
    def reported_metrics_deviation(self, result: Result) -> None:
        """Largest gap between what the job reported and what its predictions give."""
        reported = self.evaluation.metrics.get("model")
        if not isinstance(reported, dict):
            raise EvaluationError("metrics.json reports no metrics of the model.")
        result.sample_size = len(self.evaluation.queries)
        worst = 0.0
        for name in REPORTED_METRICS:
            metric, cutoff = name.split("@")
            own = float(gains(self.evaluation.ranks("model"), metric, int(cutoff)).mean())
            told = reported.get(name)
            if not isinstance(told, int | float) or not math.isfinite(told):
                raise EvaluationError(f"metrics.json reports {name} as {told!r}.")
            worst = max(worst, abs(own - told))
        result.value = worst

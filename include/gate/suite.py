"""The behavioural test suite of a trained recommender, written with RecList.

Runs in the ML environment as a script and imports nothing of the project:

    python suite.py --evaluation DIR --out report.json

It measures and never judges: thresholds are in `rules.yaml`, the decision in `verdict.py`. RecList runs the
checks; the report is our own, because RecList's has no intervals, sample sizes or slices, writes NaN as
invalid JSON, and is not written at all once one check raises.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from reclist.charts import CHART_TYPE
from reclist.reclist import RecList, rec_test

SCHEMA_VERSION = 1
K = 20
BASELINES = ("popularity", "covisitation", "markov", "session_knn")
RESAMPLES = 500
RESAMPLE_SEED = 20211
COLD_BELOW = 5  # a product seen fewer times in training has no history to learn from
HEAD_SHARE = 0.5  # the head is the fewest products that make up half of the training interactions
SESSION_LENGTHS = ((1, 1, "1"), (2, 3, "2-3"), (4, 7, "4-7"), (8, math.inf, "8+"))
# Where the shop's best sellers are hardly more popular than what is bought next, a bias has no direction.
FLAT_POPULARITY = 0.1
EXAMPLES = 8
REPORTED_METRICS = ("hit_rate@10", "mrr@10", "hit_rate@20", "mrr@20")

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]
Interval = tuple[float | None, float | None]


class EvaluationError(Exception):
    """A file of the evaluation is missing or not what it should be."""


@dataclass
class Slice:
    """A measured value of one part of the test queries."""

    value: float | None
    sample_size: int
    interval: Interval | None = None


@dataclass
class Result:
    """One check of the report.

    Attributes:
        value: None where it is not a finite number.
        sample_size: Number of test queries behind the value.
        interval: 95 % bootstrap interval over whole sessions, for queries of a session are not independent.
        baselines: The same value for each baseline, on the same queries.
        error: What the check died of; its values are then missing.
    """

    name: str
    description: str
    value: float | None = None
    sample_size: int = 0
    interval: Interval | None = None
    baselines: dict[str, float | None] = field(default_factory=dict)
    slices: dict[str, Slice] = field(default_factory=dict)
    error: str | None = None


def finite(value: float | None) -> float | None:
    """Returns a plain float, or None for NaN and infinity, which JSON does not have."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def target_ranks(predictions: Iterable[Iterable[str]], targets: Iterable[str]) -> npt.NDArray[np.int64]:
    """Returns each target's place in its list, from 1; 0 where it is not among the first K.

    Args:
        predictions: Ranked SKUs, [queries, up to any k].
        targets: The SKU that came next, [queries].
    """
    places = []
    for ranked, target in zip(predictions, targets, strict=True):
        first = list(ranked)[:K]
        places.append(first.index(target) + 1 if target in first else 0)
    return np.asarray(places, dtype=np.int64)


def gains(ranks: npt.NDArray[np.int64], metric: str, cutoff: int) -> Floats:
    """Returns what each query adds to a metric.

    Args:
        ranks: Places from 1, 0 = missed, [queries].
        metric: `hit_rate` or `mrr`.
        cutoff: Places after this one count as missed.
    """
    hit = (ranks > 0) & (ranks <= cutoff)
    if metric == "hit_rate":
        return hit.astype(np.float64)
    return np.where(hit, 1.0 / np.maximum(ranks, 1), 0.0)


class Evaluation:
    """The files a training job left, read when first asked for: a bad one spoils only its own checks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise EvaluationError(f"The evaluation has no {name}.")
        return path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What the training job itself reported."""
        value = json.loads(self._path("metrics.json").read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise EvaluationError("metrics.json is not an object.")
        return value

    @cached_property
    def queries(self) -> pd.DataFrame:
        """One row per test query."""
        frame = pd.read_parquet(self._path("predictions.parquet"))
        if frame.empty:
            raise EvaluationError("predictions.parquet has no rows.")
        return frame

    @cached_property
    def train_counts(self) -> pd.Series:
        """Interactions by SKU that were learned from, of validation sessions too; others are left out."""
        items = pd.read_parquet(self._path("items.parquet"))
        self._require(items, "items.parquet", "product_sku", "train_count")
        counts = items.set_index("product_sku")["train_count"].astype("float64")
        if counts.isna().any() or counts.index.has_duplicates:
            raise EvaluationError("items.parquet has missing counts or a product twice.")
        counts = counts[counts > 0]
        if counts.empty:
            raise EvaluationError("items.parquet names no product with training interactions.")
        return counts

    @staticmethod
    def _require(frame: pd.DataFrame, name: str, *columns: str) -> None:
        missing = [column for column in columns if column not in frame.columns]
        if missing:
            raise EvaluationError(f"{name} lacks the column(s) {', '.join(missing)}.")

    def column(self, name: str) -> pd.Series:
        """Returns a column of the queries, checked for missing values."""
        self._require(self.queries, "predictions.parquet", name)
        column = self.queries[name]
        if column.isna().any():
            raise EvaluationError(f"predictions.parquet has missing values in {name}.")
        return column

    @cached_property
    def model_ranks(self) -> npt.NDArray[np.int64]:
        """The target's place in the model's list, 0 = missed, [queries]."""
        return target_ranks(self.column("predictions"), self.column("target"))

    def ranks(self, method: str) -> npt.NDArray[np.int64]:
        """Returns the target's place in a method's list, 0 = missed, [queries]."""
        if method == "model":
            return self.model_ranks
        ranks = self.column(f"rank_{method}").to_numpy(dtype=np.int64)
        if ((ranks < 0) | (ranks > K)).any():
            raise EvaluationError(f"rank_{method} holds places outside 0 to {K}.")
        return ranks

    @cached_property
    def target_counts(self) -> Floats:
        """Training interactions of the target, 0 = unknown to training, [queries]."""
        return self.train_counts.reindex(self.column("target")).fillna(0.0).to_numpy(dtype=np.float64)

    @cached_property
    def leads_to_new_product(self) -> Rows:
        """True where the target is not among the items that the session has shown so far, [queries]."""
        pairs = zip(self.column("target"), self.column("session"), strict=True)
        return np.fromiter((target not in set(session) for target, session in pairs), dtype=np.bool_)

    @cached_property
    def session_codes(self) -> npt.NDArray[np.int64]:
        """Session number of each query, [queries]."""
        return np.asarray(pd.factorize(self.column("session_id"))[0], dtype=np.int64)


class Resampler:
    """Seeded bootstrap that draws whole sessions with replacement.

    Every quantity is resampled with the same draws, so that model and baseline are compared in pairs.
    """

    def __init__(self, sessions: npt.NDArray[np.int64]) -> None:
        self._sessions = sessions
        self._number = int(sessions.max()) + 1
        rng = np.random.default_rng(RESAMPLE_SEED)
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


def check(name: str, shape: CHART_TYPE = CHART_TYPE.SCALAR) -> Callable[..., Any]:
    """Makes a method a `rec_test` whose crash is a result, for RecList gives up the whole list otherwise."""

    def decorate(method: Callable[[SessionSuite, Result], None]) -> Any:
        @wraps(method)
        def run(self: SessionSuite) -> object:
            result = Result(name, (method.__doc__ or "").strip())
            try:
                method(self, result)
            # Whatever a check dies of is its result; the rule that needs it fails closed with this text.
            except Exception as error:
                result = Result(name, result.description, error=f"{type(error).__name__}: {error}"[:500])
            self.results.append(result)
            return _for_reclist(result)

        return rec_test(name, shape)(run)

    return decorate


def _for_reclist(result: Result) -> object:
    if not result.slices:
        return result.value
    return {name: part.value for name, part in result.slices.items()}


# Charts are drawn on the card from our report: asking RecList for its own would load matplotlib for them.
class SessionSuite(RecList):
    """Checks of a session-based next-item recommender.

    Attributes:
        results: What was measured, in the order of the checks.
    """

    def __init__(self, evaluation: Evaluation, store: Path) -> None:
        super().__init__(model_name="candidate")
        self.META_DATA_FOLDER = str(store)
        self.evaluation = evaluation
        self.results: list[Result] = []

    @cached_property
    def resampler(self) -> Resampler:
        """The draws, shared by all checks."""
        return Resampler(self.evaluation.session_codes)

    def _accuracy(self, result: Result, metric: str, cutoff: int) -> None:
        own = gains(self.evaluation.ranks("model"), metric, cutoff)
        result.value, result.sample_size = finite(own.mean()), len(own)
        result.interval = self.resampler.interval_of_mean(own)
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

    def _slices(self, result: Result, parts: Mapping[str, Rows]) -> None:
        hits = gains(self.evaluation.ranks("model"), "hit_rate", K)
        result.sample_size = len(hits)
        for name, rows in parts.items():
            size = int(rows.sum())
            if size:
                interval = self.resampler.interval_of_mean(hits, rows)
                result.slices[name] = Slice(finite(hits[rows].mean()), size, interval)

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

    @check("hit_rate@10")
    def hit_rate_at_10(self, result: Result) -> None:
        """Share of queries whose next item is among the first 10."""
        self._accuracy(result, "hit_rate", 10)

    @check("mrr@10")
    def mrr_at_10(self, result: Result) -> None:
        """Mean reciprocal rank of the next item within the first 10."""
        self._accuracy(result, "mrr", 10)

    @check("hit_rate@20")
    def hit_rate_at_20(self, result: Result) -> None:
        """Share of queries whose next item is among the first 20."""
        self._accuracy(result, "hit_rate", 20)

    @check("mrr@20")
    def mrr_at_20(self, result: Result) -> None:
        """Mean reciprocal rank of the next item within the first 20."""
        self._accuracy(result, "mrr", 20)

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

    @check("hit_rate@20_over_covisitation")
    def hit_rate_over_covisitation(self, result: Result) -> None:
        """Hit rate@20 as a multiple of last-item co-visitation's, paired on the same queries."""
        self._lift(result, "hit_rate", "covisitation")

    @check("mrr@20_over_covisitation")
    def mrr_over_covisitation(self, result: Result) -> None:
        """MRR@20 as a multiple of last-item co-visitation's, paired on the same queries."""
        self._lift(result, "mrr", "covisitation")

    @check("coverage@20")
    def coverage(self, result: Result) -> None:
        """Share of the products that these queries could have shown that was shown at least once."""
        lists = self.evaluation.column("predictions")
        counts = self.evaluation.train_counts
        shown = {sku for ranked in lists for sku in list(ranked)[:K]}
        result.sample_size = len(lists)
        # Few queries cannot show a large catalogue: the share is of what was within reach.
        result.value = len(shown & set(counts.index)) / min(len(counts), K * len(lists))

    @check("popularity_bias@20")
    def popularity_bias(self, result: Result) -> None:
        """Where the lists stand between the true next items' popularity (0) and the best sellers' (1)."""
        weight = np.log1p(self.evaluation.train_counts)
        lists = self.evaluation.column("predictions")
        shown = np.concatenate([np.asarray(list(ranked)[:K], dtype=object) for ranked in lists])
        result.sample_size = len(lists)
        known = self.evaluation.target_counts[self.evaluation.target_counts > 0]
        if not len(known):
            raise EvaluationError("No target of the test set occurs in the training data.")
        natural = float(np.log1p(known).mean())
        extreme = float(weight.nlargest(K).mean())
        if extreme - natural < FLAT_POPULARITY:
            result.value = 0.0
            return
        recommended = float(weight.reindex(shown).fillna(0.0).mean())
        result.value = finite((recommended - natural) / (extreme - natural))

    @check("hit_rate@20_by_session_length")
    def by_session_length(self, result: Result) -> None:
        """Hit rate@20 by the number of items seen so far."""
        lengths = self.evaluation.column("session").map(len).to_numpy()
        parts = {name: (lengths >= low) & (lengths <= high) for low, high, name in SESSION_LENGTHS}
        self._slices(result, parts)

    @check("hit_rate@20_by_popularity")
    def by_popularity(self, result: Result) -> None:
        """Hit rate@20 by how often the next item occurred in training."""
        counts = self.evaluation.target_counts
        ordered = self.evaluation.train_counts.sort_values(ascending=False)
        head_from = float(ordered[ordered.cumsum() >= HEAD_SHARE * ordered.sum()].iloc[0])
        head = (counts >= head_from) & (counts >= COLD_BELOW)
        parts = {
            "unknown": counts == 0,
            "cold": (counts > 0) & (counts < COLD_BELOW),
            "tail": (counts >= COLD_BELOW) & ~head,
            "head": head,
        }
        self._slices(result, parts)

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


def examples(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns a few test queries with the answer, spread evenly over the test set, for the card."""
    names = ("session", "target", "predictions")
    columns = {name: evaluation.column(name) for name in names}
    total = len(evaluation.queries)
    rows = sorted({int(place) for place in np.linspace(0, total - 1, min(EXAMPLES, total))})
    return [
        {
            "session": [str(sku) for sku in columns["session"].iloc[row]],
            "target": str(columns["target"].iloc[row]),
            "predictions": [str(sku) for sku in list(columns["predictions"].iloc[row])[:5]],
            "rank": int(evaluation.model_ranks[row]),
        }
        for row in rows
    ]


def measure(folder: Path) -> dict[str, Any]:
    """Runs every check on an evaluation folder.

    Args:
        folder: Holds `metrics.json`, `predictions.parquet` and `items.parquet`.

    Returns:
        The report, JSON-ready: every check is in it, a crashed one with its `error`.
    """
    evaluation = Evaluation(folder)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="reclist-") as store:
        suite = SessionSuite(evaluation, Path(store))
        try:
            suite(verbose=False)
        # The checks cannot raise; RecList's own table and files can, and must not cost us the measurements.
        except Exception as error:
            notes.append(f"RecList's own report failed: {type(error).__name__}: {error}"[:500])
    shown: list[dict[str, Any]] = []
    try:
        shown = examples(evaluation)
    # Examples only decorate the card.
    except Exception as error:
        notes.append(f"No examples: {type(error).__name__}: {error}"[:500])
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": SessionSuite.__name__,
        "reclist": version("reclist"),
        "checks": [asdict(result) for result in suite.results],
        "examples": shown,
        "notes": notes,
    }


def main(arguments: list[str] | None = None) -> int:
    """Writes the report; returns 0 even where checks crashed, for that is the verdict's to judge."""
    parser = argparse.ArgumentParser(description="Measures a trained recommender.")
    parser.add_argument("--evaluation", type=Path, required=True, help="Folder that the training job left.")
    parser.add_argument("--out", type=Path, required=True, help="Report to write.")
    options = parser.parse_args(arguments)
    # Strict JSON: a NaN that slipped through must fail here, loudly, and not in a reader.
    text = json.dumps(measure(options.evaluation), indent=1, allow_nan=False)
    partial = options.out.with_name(f"{options.out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

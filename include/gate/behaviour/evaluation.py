"""The files that a training job left, and what follows from them for every check."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from artefact import Artefact, K
from report import EvaluationError
from resampling import Floats, Rows

Ranks = npt.NDArray[np.int64]


def target_ranks(predictions: Iterable[Iterable[str]], targets: Iterable[str]) -> Ranks:
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


def gains(ranks: Ranks, metric: str, cutoff: int) -> Floats:
    """Returns what each query adds to a metric.

    Args:
        ranks: Places from 1, 0 = missed, [queries].
        metric: `hit_rate`, `mrr` or `ndcg`; one product is relevant, so the ideal gain is 1.
        cutoff: Places after this one count as missed.
    """
    hit = (ranks > 0) & (ranks <= cutoff)
    places = np.maximum(ranks, 1)
    worth = {"hit_rate": np.ones(len(ranks)), "mrr": 1.0 / places, "ndcg": 1.0 / np.log2(places + 1.0)}
    return np.where(hit, worth[metric], 0.0)


class Evaluation:
    """The evaluation's files, read when first asked for: a bad one spoils only its own checks."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder of `metrics.json`, `predictions.parquet` and `items.parquet`."""
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
    def _items(self) -> pd.DataFrame:
        """One row per product of the catalogue or of the training data, by SKU."""
        items = pd.read_parquet(self._path("items.parquet"))
        self._require(items, "items.parquet", "product_sku", "train_count")
        items = items.set_index("product_sku")
        if items["train_count"].isna().any() or items.index.has_duplicates:
            raise EvaluationError("items.parquet has missing counts or a product twice.")
        return items

    @cached_property
    def train_counts(self) -> pd.Series:
        """Interactions by SKU that were learned from, of validation sessions too; others are left out."""
        counts = self._items["train_count"].astype("float64")
        counts = counts[counts > 0]
        if counts.empty:
            raise EvaluationError("items.parquet names no product with training interactions.")
        return counts

    @cached_property
    def vectors(self) -> pd.Series:
        """Unit vector by SKU; products that are viewed with no other have none and are left out."""
        self._require(self._items, "items.parquet", "vector")
        vectors = self._items["vector"].dropna()
        vectors = vectors[[len(vector) > 0 for vector in vectors]]
        if vectors.empty:
            raise EvaluationError("items.parquet has no vectors: too few products are viewed together.")
        matrix = np.stack(list(vectors)).astype(np.float64)
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        return pd.Series(list(matrix), index=vectors.index)

    def target_trait(self, name: str) -> pd.Series:
        """Returns a column of items.parquet for the product that came next, null where unknown, [queries]."""
        self._require(self._items, "items.parquet", name)
        return self._items[name].reindex(self.column("target"))

    @staticmethod
    def _require(frame: pd.DataFrame, name: str, *columns: str) -> None:
        missing = [column for column in columns if column not in frame.columns]
        if missing:
            raise EvaluationError(f"{name} lacks the column(s) {', '.join(missing)}.")

    def column(self, name: str, nullable: bool = False) -> pd.Series:
        """Returns a column of the queries, checked for missing values unless they are allowed."""
        self._require(self.queries, "predictions.parquet", name)
        column = self.queries[name]
        if not nullable and column.isna().any():
            raise EvaluationError(f"predictions.parquet has missing values in {name}.")
        return column

    @cached_property
    def lists(self) -> list[list[str]]:
        """The model's lists, cut to K, [queries]."""
        return [list(ranked)[:K] for ranked in self.column("predictions")]

    @cached_property
    def sessions(self) -> list[list[str]]:
        """What each query was asked with, oldest first, [queries]."""
        return [list(session) for session in self.column("session")]

    @cached_property
    def model_ranks(self) -> Ranks:
        """The target's place in the model's list, 0 = missed, [queries]."""
        return target_ranks(self.lists, self.column("target"))

    def ranks(self, method: str) -> Ranks:
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
        pairs = zip(self.column("target"), self.sessions, strict=True)
        return np.fromiter((target not in set(session) for target, session in pairs), dtype=np.bool_)

    @cached_property
    def session_codes(self) -> npt.NDArray[np.int64]:
        """Session number of each query, [queries]."""
        return np.asarray(pd.factorize(self.column("session_id"))[0], dtype=np.int64)


class Champion:
    """The live model, asked the same queries; any older artefact of ours, or a broken one."""

    def __init__(self, artefact: Artefact, evaluation: Evaluation) -> None:
        """Asks nothing yet."""
        self.artefact = artefact
        self._evaluation = evaluation

    @cached_property
    def lists(self) -> list[list[str]]:
        """Its lists, [queries]."""
        return [answer.skus for answer in self.artefact.answer(self._evaluation.sessions)]

    @cached_property
    def ranks(self) -> Ranks:
        """The target's place in its list, 0 = missed, [queries]."""
        return target_ranks(self.lists, self._evaluation.column("target"))

    @cached_property
    def knows(self) -> Rows:
        """True where it recognises the product being viewed, [queries]."""
        viewed = [session[-1] if session else "" for session in self._evaluation.sessions]
        distinct: Sequence[str] = sorted(set(viewed))
        answers = self.artefact.answer([[sku] for sku in distinct])
        known = {sku for sku, answer in zip(distinct, answers, strict=True) if answer.known}
        return np.fromiter((sku in known for sku in viewed), dtype=np.bool_)

"""Evaluation folders whose right verdict is known, written as a training job would."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PRODUCTS, K = 300, 20
SKUS = [f"sku-{number:04d}" for number in range(PRODUCTS)]
Row = dict[str, Any]


def _rank(ranked: list[int], target: int) -> int:
    return ranked.index(target) + 1 if target in ranked else 0


def _list(rng: np.random.Generator, first: list[int], weights: np.ndarray, viewed: int) -> list[int]:
    """Some chosen products first, then popular ones, without the viewed one."""
    order = rng.choice(PRODUCTS, size=K + 5, replace=False, p=weights)
    return list(dict.fromkeys(item for item in [*first, *map(int, order)] if item != viewed))[:K]


def build(
    seed: int = 7, queries: int = 900, learnable: bool = True, skew: float = 0.8
) -> tuple[list[Row], Row]:
    """Returns the prediction rows, and the training count of each SKU.

    Where it is learnable, every product has two successors that follow it in half of the cases: the model
    knows both, co-visitation one. Otherwise nothing follows from anything, and the model guesses.
    """
    rng = np.random.default_rng(seed)
    weights = (1.0 + np.arange(PRODUCTS)) ** -skew
    weights /= weights.sum()
    best = [int(item) for item in np.argsort(-weights)[: K + 1]]
    rows: list[Row] = []
    for number in range(queries):
        length = int(rng.choice([1, 2, 3, 5, 9]))
        session = [int(item) for item in rng.choice(PRODUCTS, size=length, replace=False, p=weights)]
        viewed = session[-1]
        followers = [(viewed * 7 + 1) % PRODUCTS, (viewed * 11 + 5) % PRODUCTS] if learnable else []
        follows = learnable and rng.random() < 0.5
        target = int(rng.choice(followers)) if follows else int(rng.choice(PRODUCTS, p=weights))
        if target == viewed:
            target = (viewed + 1) % PRODUCTS
        popular = [item for item in best if item != viewed][:K]
        rows.append(
            {
                "session_id": f"session-{number // 3}",
                "position": number % 3 + 1,
                "session": [SKUS[item] for item in session],
                "target": SKUS[target],
                "target_count": int(1e5 * weights[target]),
                "predictions": [SKUS[item] for item in _list(rng, followers, weights, viewed)],
                "scores": [float(K - place) for place in range(K)],
                "rank_popularity": _rank(popular, target),
                "rank_covisitation": _rank(_list(rng, followers[:1], weights, viewed), target),
                "rank_markov": 0,
                "rank_session_knn": 0,
            }
        )
    return rows, {sku: int(1e5 * weight) for sku, weight in zip(SKUS, weights, strict=True)}


def reported(rows: list[Row]) -> Row:
    """Returns the metrics that the job would report for these rows, computed one row at a time."""
    metrics: Row = {}
    for cutoff in (10, 20):
        places = [
            row["predictions"].index(row["target"]) + 1 if row["target"] in row["predictions"] else math.inf
            for row in rows
        ]
        hits = [place for place in places if place <= cutoff]
        metrics[f"hit_rate@{cutoff}"] = len(hits) / len(rows)
        metrics[f"mrr@{cutoff}"] = sum(1 / place for place in hits) / len(rows)
    return metrics


def write(folder: Path, rows: list[Row], counts: Row, metrics: Row | None = None) -> Path:
    """Writes an `evaluation` folder and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    items = {"product_sku": list(counts), "train_count": list(counts.values())}
    pq.write_table(pa.table(items), folder / "items.parquet")
    document = {
        "model": reported(rows) if metrics is None else metrics,
        "queries": len(rows),
        "sessions": len({row["session_id"] for row in rows}),
        "unknown_target_share": 0.0,
        "history": [{"epoch": n, "loss": 5.0 / n, "val_mrr@20": 0.1 * n, "seconds": 1.5} for n in (1, 2, 3)],
        "seed": 42,
        "versions": {"keras": "3.15.1"},
        "hyperparameters": {"architecture": "gru", "epochs": 3},
        "training": {"sessions": 4000, "interactions": 19000, "products": PRODUCTS, "seconds": 12.5},
    }
    (folder / "metrics.json").write_text(json.dumps(document))
    return folder

"""Scores the test set through the export and writes the evaluation files that the gate reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from baselines import recommend_all
from catalog import Catalog
from embedding import covisit_vectors
from evaluate import LIST_LENGTH, metrics, ranks
from export import Exported
from queries import WINDOW, Queries
from sessions import Corpus, Ids, Ints, Sessions, ragged_positions
from splits import UNKNOWN_HOUR

_SMOKE_CASES = 20


@dataclass(frozen=True)
class Scored:
    """The test queries with everybody's answers.

    Attributes:
        prefixes: SKUs each query was asked with, "" padded on the right, object array [queries, WINDOW].
        spans: SKUs per row of `prefixes`.
        skus: The export's answers as SKUs, "" where there are no more, [queries, 20].
        scores: Their scores, [queries, 20].
        lists: The same as ids, [queries, 20].
        baselines: Baseline name to ids, [queries, 20].
    """

    queries: Queries
    prefixes: npt.NDArray[np.object_]
    spans: Ints
    skus: npt.NDArray[np.object_]
    scores: npt.NDArray[np.float32]
    lists: Ids
    baselines: dict[str, Ids]

    def summary(self, products: int) -> dict[str, Any]:
        """Returns the part of `metrics.json` that is measured on the test set."""
        targets = self.queries.targets
        return {
            "model": metrics(self.lists, targets, products),
            "baselines": {name: metrics(lists, targets, products) for name, lists in self.baselines.items()},
            "queries": len(self.queries),
            "queries_available": self.queries.available,
            "sessions": len(np.unique(self.queries.owners)),
            "unknown_target_share": float((targets == 0).mean()),
        }


def score_test_set(exported: Exported, corpus: Corpus, queries: Queries) -> Scored:
    """Asks the export and every baseline the same questions."""
    prefixes, spans = _prefixes(corpus, queries)
    skus, scores = exported.recommend(prefixes, spans, LIST_LENGTH)
    known = pa.array(corpus.vocabulary.skus, pa.string())
    places = pc.index_in(pa.array(skus.ravel(), pa.string()), known).fill_null(-1).to_numpy()
    lists = (places + 1).astype(np.int32).reshape(skus.shape)
    baselines = recommend_all(corpus.learned, len(corpus.vocabulary), queries, LIST_LENGTH)
    return Scored(queries, prefixes, spans, skus, scores, lists, baselines)


def smoke_cases(exported: Exported, scored: Scored) -> list[dict[str, list[str]]]:
    """Returns up to 20 questions of different sessions with the export's answers, asked one by one.

    A server batches nothing on a lone request; asked in a batch, sums may round another way.
    """
    _, first = np.unique(scored.queries.owners[::-1], return_index=True)
    last = len(scored.queries) - 1 - first  # the longest prefix of each session
    answerable = last[scored.queries.lengths[last] > 0][:_SMOKE_CASES]
    cases = []
    for row in answerable:
        span = int(scored.spans[row])
        answer = exported.answer(scored.prefixes[row : row + 1, :span], LIST_LENGTH)
        skus = [sku.decode("utf-8") for sku in answer["skus"][0] if sku]
        cases.append({"session": scored.prefixes[row, :span].tolist(), "skus": skus})
    return cases


def write_evaluation(
    folder: Path, corpus: Corpus, scored: Scored, report: dict[str, Any], smoke: list[dict[str, list[str]]]
) -> None:
    """Writes `metrics.json`, `predictions.parquet`, `items.parquet` and `smoke.json` under `folder`.

    Raises:
        ValueError: A metric is not a finite number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(_predictions(corpus, scored), folder / "predictions.parquet")
    pq.write_table(_items(corpus), folder / "items.parquet")
    write_json(folder / "smoke.json", smoke)
    write_json(folder / "metrics.json", report)


def write_json(path: Path, content: object) -> None:
    """Writes JSON without NaN or infinity, which are not JSON.

    Raises:
        ValueError: `content` holds one of them.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _prefixes(corpus: Corpus, queries: Queries) -> tuple[npt.NDArray[np.object_], Ints]:
    spans = queries.ends - queries.starts
    rows = np.repeat(np.arange(len(queries)), spans)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(spans) - spans, spans)
    prefixes = np.full((len(queries), WINDOW), "", dtype=object)
    prefixes[rows, columns] = corpus.universe[corpus.test.codes[ragged_positions(queries.starts, spans)]]
    return prefixes, spans


def _predictions(corpus: Corpus, scored: Scored) -> pa.Table:
    queries = scored.queries
    counts = np.concatenate([[0], corpus.vocabulary.counts])
    real = scored.skus != ""
    columns = {
        "session_id": corpus.test.session_ids.take(pa.array(queries.owners)).cast(pa.string()),
        "position": pa.array(queries.positions, pa.int64()),
        "session": _lists(scored.prefixes[scored.prefixes != ""], scored.spans, pa.string()),
        "target": pa.array(corpus.universe[corpus.test.codes[queries.ends]], pa.string()),
        "target_count": pa.array(counts[queries.targets], pa.int64()),
        **_context(corpus.test, queries),
        "predictions": _lists(scored.skus[real], real.sum(axis=1), pa.string()),
        "scores": _lists(scored.scores[real].astype(np.float64), real.sum(axis=1), pa.float64()),
    }
    for name, lists in scored.baselines.items():
        columns[f"rank_{name}"] = pa.array(ranks(lists, queries.targets), pa.int64())
    return pa.table(columns)


def _context(sessions: Sessions, queries: Queries) -> dict[str, pa.Array]:
    """Returns the hour of the last interaction seen, and what the session began with; null where unknown."""
    if sessions.context is None:
        return {
            "hour": pa.nulls(len(queries), pa.int8()),
            "first_action": pa.nulls(len(queries), pa.string()),
        }
    hours = sessions.context.hours[queries.ends - 1]
    return {
        "hour": pa.array(hours, mask=hours == UNKNOWN_HOUR),
        "first_action": sessions.context.first_actions.take(pa.array(queries.owners)),
    }


def _items(corpus: Corpus) -> pa.Table:
    """Returns the products that were learned from: how often, what they are, what they are viewed with."""
    products = len(corpus.vocabulary)
    catalog = corpus.catalog or Catalog(pa.nulls(products, pa.string()), pa.nulls(products, pa.float64()))
    vectors = covisit_vectors(corpus.learned, products)
    lengths = np.where(vectors.any(axis=1), vectors.shape[1], 0)
    return pa.table(
        {
            "product_sku": pa.array(corpus.vocabulary.skus, pa.string()),
            "train_count": pa.array(corpus.vocabulary.counts, pa.int64()),
            "category": catalog.categories,
            "price_bucket": catalog.prices,
            "vector": _lists(vectors[lengths > 0].ravel(), lengths, pa.float32()),
        }
    )


def _lists(flat: Any, lengths: Any, kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, kind))

"""Ranks and metrics, the same for every method."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sessions import Ids, Ints

CUTOFFS = (10, 20)
LIST_LENGTH = 20


def ranks(lists: Ids, targets: Ids) -> Ints:
    """Returns the place of each target in its list, from 1; 0 where it was missed.

    Args:
        lists: Ranked ids, 0 for an empty place, [queries, k].
        targets: Ids, 0 for a product unknown to training, which nobody can hit, [queries].
    """
    hits = (lists == targets[:, None]) & (targets[:, None] > 0)
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0).astype(np.int64)


def metrics(lists: Ids, targets: Ids, products: int) -> dict[str, float]:
    """Returns hit rate, MRR and NDCG at 10 and 20, and the share of the vocabulary recommended at 20.

    Raises:
        ValueError: There are no queries, so that no metric exists.
    """
    if len(targets) == 0:
        raise ValueError("no queries to evaluate")
    place = ranks(lists[:, :LIST_LENGTH], targets)
    result: dict[str, float] = {}
    for cutoff in CUTOFFS:
        result |= at_cutoff(place, cutoff)
    shown = np.unique(lists[:, :LIST_LENGTH])
    result[f"coverage@{LIST_LENGTH}"] = float((shown > 0).sum() / products)
    return result


def at_cutoff(place: Ints, cutoff: int) -> dict[str, float]:
    """Returns hit rate, MRR and NDCG of ranks (0 = missed) at one cutoff; one relevant item per query."""
    hit = (place > 0) & (place <= cutoff)
    safe: npt.NDArray[np.float64] = np.maximum(place, 1).astype(np.float64)
    return {
        f"hit_rate@{cutoff}": float(hit.mean()),
        f"mrr@{cutoff}": float(np.where(hit, 1.0 / safe, 0.0).mean()),
        f"ndcg@{cutoff}": float(np.where(hit, 1.0 / np.log2(safe + 1.0), 0.0).mean()),
    }

"""One evaluator for everybody's ranked lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.next_item.shop import Ints, Shop

CUTOFF = 20
METRICS = ("hit_rate", "mrr", "ndcg")
_RESAMPLES = 2_000
_BATCH = 250  # resamples weighed at a time; bounds memory


def final_lists(lists: Ints, viewed: Ints, products: int) -> Ints:
    """Returns the lists that count: repeats and the viewed item struck, filled with popular products, cut.

    Args:
        lists: Ranked product codes, -1 for an empty place, [queries, any].
        viewed: Product code that no list may hold, -1 for none, [queries].
        products: Number of known products; codes are popularity ranks, so 0, 1, 2, … are the most popular.

    Returns:
        Codes, [queries, 20]; -1 at the end where products run out.
    """
    popular = np.arange(CUTOFF + lists.shape[1] + 1)
    joined = np.concatenate([lists, np.broadcast_to(popular, (len(lists), len(popular)))], axis=1)
    joined = np.where((joined == viewed[:, None]) | (joined >= products), -1, joined)
    for column in range(1, joined.shape[1]):
        repeated = (joined[:, :column] == joined[:, column : column + 1]).any(axis=1)
        joined[repeated, column] = -1
    order = np.argsort(joined < 0, axis=1, kind="stable")[:, :CUTOFF]
    return np.take_along_axis(joined, order, axis=1)


def ranks(lists: Ints, targets: Ints) -> Ints:
    """Returns the place of each target in its list, from 1; 0 where it was missed."""
    hits = lists == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def gains(rank: Ints) -> dict[str, npt.NDArray[np.float64]]:
    """Returns what each query is worth by each metric, [queries]."""
    hit = (rank > 0) & (rank <= CUTOFF)
    safe = np.maximum(rank, 1).astype(np.float64)
    return {
        "hit_rate": hit.astype(np.float64),
        "mrr": np.where(hit, 1.0 / safe, 0.0),
        "ndcg": np.where(hit, 1.0 / np.log2(safe + 1.0), 0.0),
    }


def subsets(shop: Shop) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns which queries each reported figure is the mean of.

    `every` is every step of every session and `last` the last item only; in both, a target unknown to
    training is a miss. In `every_known` and `last_known` such queries are left out.
    """
    asked = shop.asked
    last = np.isin(asked, shop.test.offsets[1:] - 1)
    known = shop.targets < shop.products
    every = np.ones(len(asked), bool)
    return {"every": every, "last": last, "every_known": known, "last_known": last & known}


def summarise(shop: Shop, rank: Ints) -> dict[str, dict[str, float]]:
    """Returns the metrics of one method's ranks on each subset."""
    worth = gains(rank)
    return {
        name: {metric: float(worth[metric][chosen].mean()) for metric in METRICS}
        for name, chosen in subsets(shop).items()
        if chosen.any()
    }


def difference(
    shop: Shop, ours: Sequence[Ints], peer: Sequence[Ints], metric: str, subset: str = "every"
) -> dict[str, Any]:
    """Returns how far ours is ahead of a peer, with a 95 % interval by a paired bootstrap.

    Whole sessions are drawn, since the queries of one session are alike; both methods get the same draws.
    Runs with several seeds count with their mean.

    Args:
        shop: The split.
        ours: Ranks of our model, an array per seed.
        peer: Ranks of the peer, likewise.
        metric: One of `METRICS`.
        subset: One of `subsets`.
    """
    chosen = subsets(shop)[subset]
    mine, theirs = (np.mean([gains(rank)[metric] for rank in runs], axis=0)[chosen] for runs in (ours, peer))
    owners = shop.test.owners[shop.asked][chosen]
    sessions = len(shop.test)
    sums = np.stack(
        [
            np.bincount(owners, weights=values, minlength=sessions)
            for values in (mine, theirs, np.ones_like(mine))
        ]
    )
    draws = np.random.default_rng(0)
    drawn = np.concatenate(
        [
            draws.multinomial(sessions, np.full(sessions, 1 / sessions), size=_BATCH) @ sums.T
            for _ in range(_RESAMPLES // _BATCH)
        ]
    )
    gap = (drawn[:, 0] - drawn[:, 1]) / drawn[:, 2]
    base = float(theirs.mean())
    observed = float(mine.mean()) - base
    low, high = np.percentile(gap, [2.5, 97.5])
    return {
        "difference": observed,
        "standard_error": float(gap.std(ddof=1)),
        "low": float(low),
        "high": float(high),
        "relative": observed / base if base else None,
        "relative_low": float(np.percentile((drawn[:, 0] / drawn[:, 1]) - 1, 2.5)) if base else None,
    }


def standard_error(shop: Shop, rank: Ints, metric: str) -> float:
    """Returns the standard error of a metric at every step, sessions being the independent draws."""
    values = gains(rank)[metric]
    owners = shop.test.owners[shop.asked]
    residual = np.bincount(owners, weights=values - values.mean(), minlength=len(shop.test))
    return float(np.sqrt((residual**2).sum()) / len(values))

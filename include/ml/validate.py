"""What decides on validation sessions: the network's own metrics, and the blend's two shares."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from evaluate import LIST_LENGTH, at_cutoff
from model import NextItem
from queries import Queries
from recommender import BLENDS, DEFAULT_BLEND, Blend, Recommender, mix
from sessions import Ids, Ints

_SCORED = 256  # validation queries scored at a time


def choose_blend(recommender: Recommender, validation: Queries) -> tuple[Blend, float | None]:
    """Returns the shares with the best validation MRR, and that MRR; without a query the default, and None.

    Ties go to the earlier, which is the one with smaller priors.
    """
    if len(validation) == 0:
        return DEFAULT_BLEND, None
    components = tf.function(recommender.components, reduce_retracing=True)
    place = np.zeros((len(BLENDS), len(validation)), np.int64)
    for rows, history, lengths, viewed, targets in _slices(validation):
        parts = components(history, lengths)
        for number, blend in enumerate(BLENDS):
            scores = mix(parts, blend.neighbours, blend.revisit)
            place[number, rows] = target_ranks(scores, viewed, targets).numpy()
    key = f"mrr@{LIST_LENGTH}"
    reached = [at_cutoff(np.where(validation.targets > 0, row, 0), LIST_LENGTH)[key] for row in place]
    chosen = int(np.argmax(reached))
    return BLENDS[chosen], reached[chosen]


def validation_metrics(network: NextItem, validation: Queries) -> dict[str, float | None]:
    """Returns `val_mrr@20` and `val_hit_rate@20` of the network alone; None without validation queries."""
    names = (f"mrr@{LIST_LENGTH}", f"hit_rate@{LIST_LENGTH}")
    if len(validation) == 0:
        return {f"val_{name}": None for name in names}
    score = tf.function(network.last_logits, reduce_retracing=True)
    place = np.zeros(len(validation), np.int64)
    for rows, history, lengths, viewed, targets in _slices(validation):
        place[rows] = target_ranks(score(history, lengths), viewed, targets).numpy()
    reached = at_cutoff(np.where(validation.targets > 0, place, 0), LIST_LENGTH)
    return {f"val_{name}": reached[name] for name in names}


def target_ranks(scores: tf.Tensor, viewed: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns each target's rank from 1, ties counted against it, so that a constant answer earns nothing.

    Args:
        scores: float32 [batch, products + 1]; column 0 is padding and never ranks.
        viewed: Ids that are struck from the ranking, int32 [batch].
        targets: Ids, int32 [batch]; where a target is the viewed item its rank is 0 (missed).
    """
    wanted = tf.gather(scores, targets, batch_dims=1)[:, None]
    ahead = tf.reduce_sum(tf.cast(scores[:, 1:] >= wanted, tf.int64), axis=1)
    struck = (tf.gather(scores, viewed, batch_dims=1) >= wanted[:, 0]) & (viewed > 0)
    return tf.where(viewed == targets, tf.zeros_like(ahead), ahead - tf.cast(struck, tf.int64))


def _slices(queries: Queries) -> Iterator[tuple[Ints, Ids, Ids, Ids, Ids]]:
    """Yields (rows, history, lengths, viewed, targets) of like length; the history is cut to the longest."""
    order = np.argsort(queries.lengths, kind="stable")
    viewed = queries.viewed
    for start in range(0, len(order), _SCORED):
        rows = order[start : start + _SCORED]
        width = max(1, int(queries.lengths[rows].max()))
        lengths = queries.lengths[rows].astype(np.int32)
        yield rows, queries.history[rows, :width], lengths, viewed[rows], queries.targets[rows]

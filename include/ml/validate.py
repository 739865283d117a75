"""What is decided on validation sessions: when to stop, and the blend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from blend import DEFAULT_BLEND, Blend, Seen, fit_blend
from evaluate import LIST_LENGTH, at_cutoff
from model import NextItem
from queries import Queries
from recommender import Recommender
from sessions import Ids, Ints

_SCORED = 256  # validation queries scored at a time


@dataclass(frozen=True)
class Choice:
    """A blend and how it did on validation sessions.

    Attributes:
        shares: Mean share of each component over the validation queries.
        reached: Metrics of the mixture, `val_mrr@20` and `val_hit_rate@20`; None without queries.
    """

    blend: Blend
    shares: dict[str, float]
    reached: dict[str, float | None]


def choose_blend(recommender: Recommender, validation: Queries) -> Choice:
    """Fits the blend to validation sessions and sets it; the default where there are none."""
    if len(validation) == 0:
        return Choice(DEFAULT_BLEND, {}, _reached(recommender, validation))
    look = tf.function(recommender.look_at, reduce_retracing=True, autograph=False)
    places, parts = [], []
    for rows, history, lengths, _, targets in _slices(validation):
        places.append(rows)
        parts.append([part.numpy().astype(np.float64) for part in look(history, lengths, targets)])
    order = np.argsort(np.concatenate(places))
    seen = Seen(*(np.concatenate(column)[order] for column in zip(*parts, strict=True)))
    # Nobody can expect an unknown product, and what is being viewed is never recommended.
    askable = (validation.targets > 0) & (validation.targets != validation.viewed)
    askable &= validation.lengths > 0  # the fallback's, not the mixture's
    blend = fit_blend(seen[askable])
    recommender.set_blend(blend)
    return Choice(blend, blend.shares(seen.features), _reached(recommender, validation))


def validation_metrics(network: NextItem, validation: Queries) -> dict[str, float | None]:
    """Returns `val_mrr@20` and `val_hit_rate@20` of the network alone; None without validation queries."""
    return _reached(network.last_logits, validation)


def _reached(
    scores_of: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], validation: Queries
) -> dict[str, float | None]:
    names = (f"mrr@{LIST_LENGTH}", f"hit_rate@{LIST_LENGTH}")
    if len(validation) == 0:
        return {f"val_{name}": None for name in names}
    score = tf.function(scores_of, reduce_retracing=True, autograph=False)
    place = np.zeros(len(validation), np.int64)
    for rows, history, lengths, viewed, targets in _slices(validation):
        place[rows] = target_ranks(score(history, lengths), viewed, targets).numpy()
    # Where nothing is known the fallback answers, by popularity, which is the order of the ids.
    place = np.where(validation.lengths > 0, place, validation.targets)
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

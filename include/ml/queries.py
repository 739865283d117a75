"""The evaluation protocol's questions: the next item at every step of every held-out session."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sessions import Ids, Ints, Sessions, ragged_positions

WINDOW = 50  # most recent interactions that any method may look at


@dataclass(frozen=True)
class Queries:
    """Prefixes and what followed them, one row per step of a session.

    Attributes:
        owners: Session index of each query, [queries].
        positions: Index of the target within its session, from 1, [queries].
        starts: Flat position in the split where the window of the prefix begins, [queries].
        ends: Flat position of the target; the window ends before it, [queries].
        targets: Vocabulary ids, 0 where training never saw the product, [queries].
        history: Known ids of the window, oldest first, padded with 0 on the right, [queries, WINDOW].
        lengths: Known ids per row of `history`, [queries].
        available: Queries in the split before the cap.
    """

    owners: Ints
    positions: Ints
    starts: Ints
    ends: Ints
    targets: Ids
    history: Ids
    lengths: Ints
    available: int

    def __len__(self) -> int:
        """Returns the number of queries."""
        return len(self.targets)

    @property
    def viewed(self) -> Ids:
        """The last known item of each prefix, which no list may hold; 0 where there is none. [queries]."""
        rows = np.arange(len(self))
        last = self.history[rows, np.maximum(self.lengths - 1, 0)]
        return np.where(self.lengths > 0, last, 0).astype(np.int32)


def build(sessions: Sessions, limit: int, seed: int) -> Queries:
    """Returns the queries of a split; above `limit`, those of a seeded draw of whole sessions."""
    available = int((sessions.lengths - 1).sum())
    chosen = np.arange(len(sessions))
    if available > limit:
        drawn = np.random.default_rng(seed).permutation(len(sessions))
        fits = np.cumsum(sessions.lengths[drawn] - 1) <= limit
        chosen = np.sort(drawn[fits])
    steps = sessions.lengths[chosen] - 1
    owners = np.repeat(chosen, steps)
    ends = ragged_positions(sessions.offsets[chosen] + 1, steps)
    starts = np.maximum(sessions.offsets[owners], ends - WINDOW)
    history, lengths = _known(sessions.ids, starts, ends)
    return Queries(
        owners, ends - sessions.offsets[owners], starts, ends, sessions.ids[ends], history, lengths, available
    )


def latest(queries: Queries, width: int) -> Queries:
    """Returns the same questions with the `width` latest known ids of each, which is what a model serves."""
    starts = np.maximum(queries.lengths - width, 0)[:, None]
    places = starts + np.arange(min(width, queries.history.shape[1]))
    real = places < queries.lengths[:, None]
    history = np.take_along_axis(queries.history, np.where(real, places, 0), axis=1) * real
    return replace(queries, history=history.astype(np.int32), lengths=np.minimum(queries.lengths, width))


def _known(ids: Ids, starts: Ints, ends: Ints) -> tuple[Ids, Ints]:
    spans = ends - starts
    rows = np.repeat(np.arange(len(starts)), spans)
    values = ids[ragged_positions(starts, spans)]
    rows, values = rows[values > 0], values[values > 0]
    lengths = np.bincount(rows, minlength=len(starts)).astype(np.int64)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    history = np.zeros((len(starts), WINDOW), np.int32)
    history[rows, columns] = values
    return history, lengths

"""Batches: which sessions go together, and the tensors that each replica gets of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from sessions import Ids, Ints, Sessions, ragged_positions

_MIN_STEPS = 40  # per epoch: on little data batches are smaller than the size asked for
_MAX_STEPS = 4000  # per epoch: on large data they grow beyond it
_LOGITS = 2**28  # floats of one batch's softmax, 1 GB


class Shares(NamedTuple):
    """How batches are dealt out: replicas `first … first + local - 1` of `total` are this process's."""

    first: int = 0
    local: int = 1
    total: int = 1


def sessions_per_batch(sessions: int, batch_size: int) -> int:
    """Returns the size of batches that leaves an epoch neither too few steps nor too many."""
    most = max(batch_size, math.ceil(sessions / _MAX_STEPS))
    return min(most, max(1, sessions // _MIN_STEPS))


def plan_batches(
    lengths: Ints, products: int, batch_size: int, max_length: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Groups sessions of like length into batches, in random order.

    Args:
        lengths: Interactions per session.
        products: Size of the vocabulary; with the lengths it bounds a batch's softmax.
        batch_size: Sessions per batch, of all replicas together.
        max_length: Interactions of a session that are predicted from.
        rng: Source of the shuffling. The same state gives the same plan, which exact resume relies on.

    Returns:
        Session indices of each batch; every session is in exactly one.
    """
    spans = np.minimum(lengths, max_length + 1)
    # The jitter lets neighbouring lengths meet, so that batches differ from epoch to epoch.
    order = np.argsort(spans + rng.random(len(spans)) * 1.5, kind="stable")
    size = sessions_per_batch(len(spans), batch_size)
    positions = max(1, _LOGITS // (products + 1))
    batches = []
    start = 0
    while start < len(order):
        widest = int(spans[order[start : start + size]].max())
        stop = start + max(1, min(size, positions // widest))
        batches.append(order[start:stop])
        start = stop
    return [batches[index] for index in rng.permutation(len(batches))]


def pad(sessions: Sessions, rows: Ints, max_length: int) -> Ids:
    """Returns the last `max_length + 1` ids of each session, padded with 0 on the right, [rows, widest]."""
    spans = np.minimum(sessions.lengths_of(rows), max_length + 1)
    flat = ragged_positions(sessions.offsets[rows + 1] - spans, spans)
    row = np.repeat(np.arange(len(rows)), spans)
    column = np.arange(len(flat)) - np.repeat(np.cumsum(spans) - spans, spans)
    padded = np.zeros((len(rows), int(spans.max())), np.int32)
    padded[row, column] = sessions.ids[flat]
    return padded


def dataset(sessions: Sessions, plan: list[Ints], max_length: int, shares: Shares) -> tf.data.Dataset:
    """Returns one element per batch: this process's shards and what the whole batch counts.

    Returns:
        Elements `(shards, targets)`: a tuple of `shares.local` int32 [rows, widest], and the number of
        targets in all shards of all processes, float32.
    """

    def batches() -> Iterator[tuple[tuple[Ids, ...], np.float32]]:
        for rows in plan:
            targets = np.minimum(sessions.lengths_of(rows) - 1, max_length).sum()
            # Every n-th row: shards of a batch have like lengths and so take like times.
            shards = (rows[shares.first + place :: shares.total] for place in range(shares.local))
            yield tuple(_shard(sessions, shard, max_length) for shard in shards), np.float32(targets)

    shard = tf.TensorSpec([None, None], tf.int32)
    signature = ((shard,) * shares.local, tf.TensorSpec([], tf.float32))
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4)


def _shard(sessions: Sessions, rows: Ints, max_length: int) -> Ids:
    # A replica left without a session gets a row of padding, which has no target and no gradient.
    return pad(sessions, rows, max_length) if len(rows) else np.zeros((1, 2), np.int32)

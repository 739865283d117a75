"""The training loop: batches of like length, early stopping on validation, the blend's two shares."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from evaluate import LIST_LENGTH, at_cutoff
from model import NextItem
from queries import Queries
from recommender import BLENDS, DEFAULT_BLEND, Blend, Recommender, mix
from sessions import Ids, Ints, Sessions, ragged_positions

Epoch = dict[str, float | int | None]

_PATIENCE = 2  # epochs without a better validation MRR
_SLOWEST = 0.05  # share of the learning rate left at the end of the linear decay
_MAX_STEPS = 4000  # per epoch: on large data batches grow beyond `batch_size`
_LOGITS = 2**28  # floats of one batch's softmax, 1 GB
_DIVERGED = 10.0  # times the loss of a uniform guess
_SCORED = 256  # validation queries scored at a time


class DivergedError(Exception):
    """Training produced no usable model; nothing may be exported."""


@dataclass(frozen=True)
class Options:
    """Hyper-parameters of the loop; `max_seconds` 0 means no limit."""

    epochs: int
    batch_size: int
    learning_rate: float
    max_length: int
    seed: int
    max_seconds: float


def train(
    network: NextItem,
    train_sessions: Sessions,
    validation: Queries,
    products: int,
    options: Options,
    report: Callable[[Epoch], None],
) -> list[Epoch]:
    """Trains in place, keeps the weights of the best epoch and returns the learning curve.

    Validation is of the network alone, so that the curve shows what was learned and not what was counted.

    Raises:
        DivergedError: The loss is not finite or far above that of a uniform guess.
    """
    optimizer = keras.optimizers.Adam(options.learning_rate)
    optimizer.build(network.trainable_variables)
    step = _training_step(network, optimizer)
    rng = np.random.default_rng(options.seed)
    history: list[Epoch] = []
    best, best_weights, stale = -1.0, network.get_weights(), 0
    started = time.monotonic()
    out_of_time = False
    for epoch in range(options.epochs):
        begun = time.monotonic()
        plan = plan_batches(train_sessions.lengths, products, options, rng)
        losses = []
        for index, batch in enumerate(_dataset(train_sessions, plan, options.max_length)):
            done = (epoch + index / len(plan)) / options.epochs
            optimizer.learning_rate = options.learning_rate * max(_SLOWEST, 1.0 - done)
            losses.append(step(batch))
            out_of_time = 0 < options.max_seconds <= time.monotonic() - started
            if out_of_time:
                break
        loss = float(tf.reduce_mean(tf.stack(losses)))
        _refuse_divergence(loss, network, products)
        scores = validation_metrics(network, validation)
        seconds = round(time.monotonic() - begun, 3)
        row: Epoch = {"epoch": epoch + 1, "loss": loss, **scores, "seconds": seconds}
        history.append(row)
        report(row)
        reached = scores[f"val_mrr@{LIST_LENGTH}"]
        if reached is None or reached > best:
            best, best_weights, stale = (reached or 0.0), network.get_weights(), 0
        else:
            stale += 1
        if stale >= _PATIENCE or out_of_time:
            break
    network.set_weights(best_weights)
    return history


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


def validation_metrics(network: NextItem, validation: Queries) -> Epoch:
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


def plan_batches(
    lengths: Ints, products: int, options: Options, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Groups sessions of like length into batches, in random order.

    Args:
        lengths: Interactions per session.
        products: Size of the vocabulary; with the lengths it bounds a batch's softmax.
        options: Hyper-parameters.
        rng: Source of the shuffling.

    Returns:
        Session indices of each batch; every session is in exactly one.
    """
    spans = np.minimum(lengths, options.max_length + 1)
    # The jitter lets neighbouring lengths meet, so that batches differ from epoch to epoch.
    order = np.argsort(spans + rng.random(len(spans)) * 1.5, kind="stable")
    size = max(options.batch_size, math.ceil(len(spans) / _MAX_STEPS))
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
    spans = np.minimum(sessions.lengths[rows], max_length + 1)
    flat = ragged_positions(sessions.offsets[rows + 1] - spans, spans)
    row = np.repeat(np.arange(len(rows)), spans)
    column = np.arange(len(flat)) - np.repeat(np.cumsum(spans) - spans, spans)
    padded = np.zeros((len(rows), int(spans.max())), np.int32)
    padded[row, column] = sessions.ids[flat]
    return padded


def _dataset(sessions: Sessions, plan: list[Ints], max_length: int) -> tf.data.Dataset:
    def batches() -> Iterator[Ids]:
        for rows in plan:
            yield pad(sessions, rows, max_length)

    spec = tf.TensorSpec([None, None], tf.int32)
    return tf.data.Dataset.from_generator(batches, output_signature=spec).prefetch(4)


def _training_step(
    network: NextItem, optimizer: keras.optimizers.Optimizer
) -> Callable[[tf.Tensor], tf.Tensor]:
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def step(batch: tf.Tensor) -> tf.Tensor:
        following = batch[:, 1:]
        real = following > 0
        with tf.GradientTape() as tape:
            states = tf.boolean_mask(network(batch[:, :-1], training=True), real)
            logits = network.logits(states)
            targets = tf.boolean_mask(following, real)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return loss

    return step


def _refuse_divergence(loss: float, network: NextItem, products: int) -> None:
    worst = _DIVERGED * max(1.0, math.log(products + 1))
    if not math.isfinite(loss) or loss > worst:
        raise DivergedError(f"the training loss is {loss:g}, above {worst:.1f}: lower the learning rate")
    if not all(np.isfinite(weights).all() for weights in network.get_weights()):
        raise DivergedError("a weight is not a finite number: lower the learning rate")


def _slices(queries: Queries) -> Iterator[tuple[Ints, Ids, Ids, Ids, Ids]]:
    """Yields (rows, history, lengths, viewed, targets) of like length; the history is cut to the longest."""
    order = np.argsort(queries.lengths, kind="stable")
    viewed = queries.viewed
    for start in range(0, len(order), _SCORED):
        rows = order[start : start + _SCORED]
        width = max(1, int(queries.lengths[rows].max()))
        lengths = queries.lengths[rows].astype(np.int32)
        yield rows, queries.history[rows, :width], lengths, viewed[rows], queries.targets[rows]

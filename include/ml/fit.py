"""The training loop: steps on every replica, early stopping on validation, checkpoints on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf

from batches import dataset, plan_batches, sessions_per_batch
from checkpoints import Checkpoints, Epoch, Progress, Saved, StopSignal
from cluster import Cluster
from evaluate import LIST_LENGTH
from lazy_adam import LazyAdam
from losses import Loss, full_softmax, sampled_softmax
from model import NextItem
from queries import Queries
from sessions import Sessions, Vocabulary
from validate import validation_metrics

_PATIENCE = 2  # epochs without a better validation MRR
_SLOWEST = 0.05  # share of the learning rate left at the end of the linear decay
_TOLD = 60.0  # seconds between two lines of progress within an epoch
_DIVERGED = 10.0  # times the loss of a uniform guess


class DivergedError(Exception):
    """Training produced no usable model; nothing may be exported."""


class StoppedError(Exception):
    """The machine is being taken away; the message says where another one can go on."""


@dataclass(frozen=True)
class Options:
    """Hyper-parameters of the loop.

    Attributes:
        max_seconds: 0 means no limit.
        label_smoothing: Share of each target's probability that is spread over the catalogue.
        negatives: Products that a target is told from where the softmax is sampled.
        full_softmax_products: Largest catalogue that every target is told from as a whole.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    max_length: int
    seed: int
    max_seconds: float
    label_smoothing: float
    negatives: int
    full_softmax_products: int


def train(
    network: NextItem,
    train_sessions: Sessions,
    validation: Queries,
    vocabulary: Vocabulary,
    options: Options,
    report: Callable[[Epoch], None],
    signal: StopSignal,
    *,
    cluster: Cluster | None = None,
    checkpoints: Checkpoints | None = None,
    say: Callable[[str], None] = print,
) -> Progress:
    """Trains in place and, in the chief, sets the weights of the best epoch.

    Validation is of the network alone, so that the curve shows what was learned and not what was counted.

    Args:
        network: Built in the scope of the cluster's strategy.
        train_sessions: Sessions to learn from; the same in every process.
        validation: Questions that early stopping asks.
        vocabulary: The products.
        options: Hyper-parameters.
        report: Called by the chief with each epoch's row of the learning curve.
        signal: Listens; once it has received, a checkpoint is written and training ends.
        cluster: Who trains together; nobody else by default.
        checkpoints: Where to go on from and what to leave behind; only the chief's are used.
        say: Called about once a minute with how far the epoch is.

    Returns:
        Progress with the learning curve; complete in the chief only.

    Raises:
        DivergedError: The loss is not finite or far above that of a uniform guess.
        StoppedError: SIGTERM came; a checkpoint was written, if there are any.
    """
    cluster = cluster or Cluster()
    kept = checkpoints if cluster.is_chief else None
    loop = _Loop(network, train_sessions, validation, vocabulary, options, report, signal, cluster, kept, say)
    return loop.run()


@dataclass
class _Loop:
    network: NextItem
    sessions: Sessions
    validation: Queries
    vocabulary: Vocabulary
    options: Options
    report: Callable[[Epoch], None]
    signal: StopSignal
    cluster: Cluster
    checkpoints: Checkpoints | None
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        with self.cluster.strategy.scope():
            self.optimizer = LazyAdam(self.options.learning_rate)
            self.optimizer.build(self.network.trainable_variables)
        self.step = _training_step(self.network, self.optimizer, self._loss(), self.cluster)
        # The seeds of dropout are among a network's variables, not among its weights.
        self.variables = [*self.network.variables, *self.optimizer.variables]
        self.best_weights = self.network.get_weights()
        self.progress = Progress()
        self.losses: list[tf.Tensor | float] = []
        self.clock = self.told = time.monotonic()

    def _loss(self) -> Loss:
        options, vocabulary = self.options, self.vocabulary
        if len(vocabulary) <= options.full_softmax_products:
            return full_softmax(self.network, options.label_smoothing)
        return sampled_softmax(self.network, vocabulary.counts, options.negatives, options.label_smoothing)

    def run(self) -> Progress:
        self._restore()
        while not self.progress.finished:
            self._end_epoch(self._train_epoch())
            self._save()
            if self.cluster.any([self.signal.received])[0]:
                self._leave()
        if self.cluster.is_chief:
            self.network.set_weights(self.best_weights)
        return self.progress

    def _train_epoch(self) -> bool:
        """Runs the steps that are left of the epoch; returns whether time ran out."""
        options, progress = self.options, self.progress
        lengths = self.sessions.lengths
        # A generator of its own for each epoch: its plan can be made again without the epochs before.
        rng = np.random.default_rng([options.seed, progress.epoch])
        plan = plan_batches(lengths, len(self.vocabulary), options.batch_size, options.max_length, rng)
        # Of smaller batches there are more, and each is to be followed less far (Goyal et al., 2017).
        smaller = min(1.0, sessions_per_batch(len(lengths), options.batch_size) / options.batch_size)
        rate = options.learning_rate * smaller
        remaining = plan[progress.step :]
        batches = dataset(self.sessions, remaining, options.max_length, self.cluster.shares)
        for rows, (shards, targets) in zip(remaining, batches, strict=True):
            done = (progress.epoch + progress.step / len(plan)) / options.epochs
            self.optimizer.learning_rate = rate * max(_SLOWEST, 1.0 - done)
            self.losses.append(self.step(shards, targets))
            progress.step += 1
            progress.interactions += int(np.minimum(lengths[rows], options.max_length + 1).sum())
            self._tick()
            late = 0 < options.max_seconds <= progress.seconds
            late, stopped = self.cluster.any([late, self.signal.received])
            if stopped:
                self._save()
                self._leave()
            if late:
                return True
            if self.checkpoints and self.checkpoints.due:
                self._save()
            self._tell(len(plan))
        return False

    def _end_epoch(self, out_of_time: bool) -> None:
        progress = self.progress
        losses = [float(value) for value in self.losses]
        loss = float(self.cluster.from_chief(np.mean(losses) if losses else 0.0))
        self._tick()  # reading the losses has waited for the device
        _refuse_divergence(loss, self.network, len(self.vocabulary))
        if self.cluster.is_chief:
            self._validate(loss)
        progress.epoch += 1
        over = out_of_time or progress.epoch >= self.options.epochs or progress.stale >= _PATIENCE
        progress.finished = bool(self.cluster.from_chief(over))
        progress.step, progress.interactions, progress.epoch_seconds = 0, 0, 0.0
        self.losses = []

    def _validate(self, loss: float) -> None:
        progress = self.progress
        speed = progress.interactions / max(progress.epoch_seconds, 1e-9)
        scores = validation_metrics(self.network, self.validation)
        self._tick()
        row: Epoch = {
            "epoch": progress.epoch + 1,
            "loss": loss,
            **scores,
            "interactions_per_second": round(speed, 1),
            "seconds": round(progress.epoch_seconds, 3),
        }
        progress.history.append(row)
        self.report(row)
        reached = scores[f"val_mrr@{LIST_LENGTH}"]
        if reached is None or reached > progress.best:
            progress.best, progress.stale = (reached or 0.0), 0
            self.best_weights = self.network.get_weights()
        else:
            progress.stale += 1

    def _tick(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.clock
        self.progress.epoch_seconds += now - self.clock
        self.clock = now

    def _tell(self, steps: int) -> None:
        if self.clock - self.told >= _TOLD:
            self.told, progress = self.clock, self.progress
            self.say(
                f"step {progress.step}/{steps} of epoch {progress.epoch + 1}: {float(self.losses[-1]):.4f}"
            )

    def _leave(self) -> NoReturn:
        raise StoppedError(
            "SIGTERM: a checkpoint was written, from which the same job goes on"
            if self.checkpoints
            else "SIGTERM: nothing was kept, since there is no folder for checkpoints"
        )

    def _save(self) -> None:
        if self.checkpoints:
            self.progress.losses = [float(value) for value in self.losses]
            values = [keras.ops.convert_to_numpy(variable) for variable in self.variables]
            self.checkpoints.save(Saved(self.progress, values, self.best_weights))

    def _restore(self) -> None:
        """Takes up where the chief's newest checkpoint left off; the others get it from the chief."""
        saved = self.checkpoints.latest() if self.checkpoints else None
        if saved:
            self.progress, self.best_weights = saved.progress, saved.best_weights
            self.losses = list(saved.progress.losses)
        progress = self.progress
        cursor = [bool(saved), progress.epoch, progress.step, progress.seconds, progress.finished]
        found, epoch, step, seconds, finished = self.cluster.from_chief(cursor)
        if not found:
            return
        progress.epoch, progress.step, progress.seconds = int(epoch), int(step), float(seconds)
        progress.finished = bool(finished)
        values = saved.variables if saved else [np.zeros(variable.shape) for variable in self.variables]
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(self.cluster.from_chief(value).astype(variable.dtype))


def _training_step(
    network: NextItem, optimizer: keras.optimizers.Optimizer, loss: Loss, cluster: Cluster
) -> Callable[..., tf.Tensor]:
    """Returns a function of this process's shards and the targets of the whole batch to the batch's loss.

    Each replica's loss is its share of the mean over all targets, so that the sum over replicas, which Keras
    takes of gradients, is what one device would have computed.
    """

    def on_replica(batch: tf.Tensor, targets_in_all: tf.Tensor) -> tf.Tensor:
        following = batch[:, 1:]
        real = following > 0
        with tf.GradientTape() as tape:
            states = tf.boolean_mask(network(batch[:, :-1], training=True), real)
            targets = tf.boolean_mask(following, real)
            share = tf.reduce_sum(loss(states, targets)) / targets_in_all
        gradients = tape.gradient(share, network.trainable_variables)
        if cluster.shares.total > 1:
            # Every replica brings rows of its own: dense, they are added up before they are squared.
            gradients = map(tf.convert_to_tensor, gradients)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return share

    shard = tf.TensorSpec([None, None], tf.int32)
    signature = ((shard,) * cluster.shares.local, tf.TensorSpec([], tf.float32))

    # Nothing in it branches in Python on a tensor, and converting that code is a tenth of a small job.
    @tf.function(input_signature=signature, autograph=False)
    def step(shards: tuple[tf.Tensor, ...], targets: tf.Tensor) -> tf.Tensor:
        parts = cluster.strategy.run(on_replica, args=(cluster.dealt(shards), targets))
        return cluster.strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    return step


def _refuse_divergence(loss: float, network: NextItem, products: int) -> None:
    worst = _DIVERGED * max(1.0, math.log(products + 1))
    if not math.isfinite(loss):
        raise DivergedError(f"the training loss is {loss:g}, not a finite number: lower the learning rate")
    if loss > worst:
        raise DivergedError(f"the training loss is {loss:g}, above {worst:.1f}: lower the learning rate")
    if not all(np.isfinite(weights).all() for weights in network.get_weights()):
        raise DivergedError("a weight is not a finite number: lower the learning rate")

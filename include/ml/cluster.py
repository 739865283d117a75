"""Which machines and GPUs train together: one device, several GPUs, or several instances of a job."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from batches import Shares

_PORT = 8890  # open between the instances of a job


class Cluster:
    """The replicas that share each batch, and this process's place among them.

    Attributes:
        strategy: Variables are made in its scope, steps run in its `run`.
        workers: Processes.
        is_chief: Whether this process validates, writes checkpoints and exports.
        shares: Its part of each batch.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, workers: int = 1, index: int = 0):
        """Describes a cluster; without a strategy it is TensorFlow's default device alone."""
        self.strategy = strategy or tf.distribute.get_strategy()
        self.workers = workers
        self.is_chief = index == 0
        total = self.strategy.num_replicas_in_sync
        self.shares = Shares(index * (total // workers), total // workers, total)
        self._sum: Any = None

    def dealt(self, shards: Sequence[tf.Tensor]) -> Any:
        """Returns this process's shards as what `strategy.run` hands to its replicas, one to each."""
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: shards[context.replica_id_in_sync_group - self.shares.first]
        )

    def from_chief(self, values: npt.ArrayLike) -> npt.NDArray[Any]:
        """Returns the chief's values in every process; each must call it, with values of the same shape."""
        own = np.asarray(values)
        return self._total(own if self.is_chief else np.zeros_like(own))

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Returns which flags are set in any process; each must call it."""
        return [bool(votes) for votes in self._total(np.asarray(flags))]

    def _total(self, own: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.workers == 1:
            return own
        if self._sum is None:
            self._sum = self._summing()
        # Float64 holds every value of the types that are sent: seeds, counters, float32 weights, flags.
        return self._sum(tf.constant(own, tf.float64)).numpy()

    def _summing(self) -> Any:
        @tf.function(reduce_retracing=True, autograph=False)
        def total(values: tf.Tensor) -> tf.Tensor:
            # A process speaks once, through the first of its replicas.
            spoken = [values, *[tf.zeros_like(values)] * (self.shares.local - 1)]
            parts = self.strategy.run(tf.identity, args=(self.dealt(spoken),))
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

        return total


def join(environment: Mapping[str, str] = os.environ) -> Cluster:
    """Joins the job's other instances, if any, and takes all GPUs of this one.

    Must run before TensorFlow does anything else, since it opens the port that the others call.

    Args:
        environment: `SM_HOSTS` and `SM_CURRENT_HOST` name the instances; a `TF_CONFIG` goes before them.
    """
    config = json.loads(environment.get("TF_CONFIG", "{}")) or tf_config(
        json.loads(environment.get("SM_HOSTS", "[]")), environment.get("SM_CURRENT_HOST", "")
    )
    workers = config.get("cluster", {}).get("worker", [])
    if len(workers) > 1:
        os.environ["TF_CONFIG"] = json.dumps(config)  # where the strategy looks for it
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return Cluster(strategy, len(workers), int(config["task"]["index"]))
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return Cluster(tf.distribute.MirroredStrategy())
    return Cluster()


def tf_config(hosts: Sequence[str], current: str) -> dict[str, Any]:
    """Returns `TF_CONFIG` for the instances of a SageMaker job; nothing for a single one.

    Raises:
        ValueError: The current host is not one of the hosts.
    """
    if len(hosts) < 2:
        return {}
    ordered = sorted(hosts)  # every instance must number them alike
    if current not in ordered:
        raise ValueError(f"SM_CURRENT_HOST {current!r} is not in SM_HOSTS {ordered}")
    return {
        "cluster": {"worker": [f"{host}:{_PORT}" for host in ordered]},
        "task": {"type": "worker", "index": ordered.index(current)},
    }

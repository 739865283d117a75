"""What a GPU is good at: half the bits where it has the units for them, and XLA where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

PRECISIONS = ("auto", "float32", "mixed_bfloat16")
_AMPERE = (8, 0)  # the first compute capability with bfloat16 units


def choose_precision(wanted: str) -> str:
    """Returns the Keras dtype policy to train in; `auto` is bfloat16 where every GPU is fast at it."""
    if wanted != "auto":
        return wanted
    gpus = tf.config.list_physical_devices("GPU")
    able = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= _AMPERE
        for gpu in gpus
    ]
    return "mixed_bfloat16" if able and all(able) else "float32"


def prepare(xla: bool) -> None:
    """Sets TensorFlow up: determinism on a CPU, XLA clustering if asked for.

    Batches come in many shapes, and XLA compiles for each: it pays on a GPU in a long job only.
    """
    if not tf.config.list_physical_devices("GPU"):
        # On a GPU an op without a deterministic kernel would raise instead of run.
        tf.config.experimental.enable_op_determinism()
    if xla:
        tf.config.optimizer.set_jit(True)


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Layers built inside have the policy; variables are float32 in each of `PRECISIONS`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

"""Says in one line that a machine has run out of disk or memory, which a traceback does not."""

from __future__ import annotations

import errno
import os
import re

import tensorflow as tf

_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def shortage(error: Exception) -> str | None:
    """Returns what the machine was short of and what helps; None for any other error."""
    # Without TensorFlow's names of its own nodes.
    said = " ".join(re.sub(r"\{\{[^}]*\}\}", "", str(error)).split())[:500]
    # TensorFlow has kinds of its own for what the system says, the same one for a full disk and full memory.
    of_disk = isinstance(error, OSError) and error.errno in _OF_DISK
    if of_disk or (isinstance(error, tf.errors.OpError) and any(os.strerror(n) in said for n in _OF_DISK)):
        return f"out of disk: give the job a larger volume. {said}"
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return (
            "out of memory: take an instance type with more of it, a smaller batch size or fewer sessions. "
            + said
        )
    return None

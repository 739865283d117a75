"""The chance from which moto draws its ids: a request that is done again draws the same ones."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

from moto.moto_api._internal import mock_random
from moto.moto_api._internal.moto_random import MotoRandom

_own = threading.local()


class _PerThread(MotoRandom):
    """Draws for a seeded thread from a generator of its own: others do not take its numbers away."""

    def random(self) -> float:
        own: random.Random | None = getattr(_own, "generator", None)
        return super().random() if own is None else own.random()

    def getrandbits(self, k: int, /) -> int:
        own: random.Random | None = getattr(_own, "generator", None)
        return super().getrandbits(k) if own is None else own.getrandbits(k)


# moto's modules hold the object, which cannot be replaced.
mock_random.__class__ = _PerThread


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Has this thread's draws follow from a seed."""
    _own.generator = random.Random(seed)
    try:
        yield
    finally:
        _own.generator = None

"""What a method gets and gives, and how its time is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.next_item.shop import WIDTH, Ints, Shop

_WARM_UP = 10


@dataclass(frozen=True)
class Job:
    """What a method gets.

    Attributes:
        shop: The split.
        settings: Of the method, see `catalogue`.
        seed: For those that draw.
        snapshot: The same split as one of our snapshots.
        peers: Folder of the checkouts.
        work: A folder of its own for what it writes.
    """

    shop: Shop
    settings: dict[str, Any]
    seed: int
    snapshot: Path
    peers: Path
    work: Path


@dataclass(frozen=True)
class Answers:
    """What a method gives.

    Attributes:
        lists: Ranked product codes, -1 for an empty place, a row per query.
        fit_seconds: Wall time of training, without reading and answering.
        fit_cpu_seconds: The same of all its threads together.
        latencies: Milliseconds of answers asked for one by one.
        notes: Whatever else a reader should know.
    """

    lists: Ints
    fit_seconds: float
    fit_cpu_seconds: float | None
    latencies: list[float]
    notes: dict[str, Any] = field(default_factory=dict)


class Timer:
    """Takes the wall and CPU seconds of a `with` block."""

    wall = 0.0
    cpu = 0.0

    def __enter__(self) -> Timer:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._began[0]
        self.cpu = time.process_time() - self._began[1]


def empty_answers(rows: int) -> Ints:
    """Returns lists to be filled, a row per interaction of `Shop.shown`."""
    return np.full((rows, WIDTH), -1, np.int64)


def one_by_one(answer: Callable[[int], object], shop: Shop, limit: int = 300) -> list[float]:
    """Asks for single answers and returns the milliseconds of each, warm-up left out.

    Args:
        answer: Takes an interaction of `shop.shown` and answers as after it.
        shop: The split.
        limit: How many to ask for.
    """
    rows = np.random.default_rng(0).permutation(len(shop.shown.items))[: limit + _WARM_UP]
    taken = []
    for row in rows:
        began = time.perf_counter()
        answer(int(row))
        taken.append((time.perf_counter() - began) * 1000.0)
    return taken[_WARM_UP:]

"""A shadow variant: gets copies of requests that are answered, and can neither delay nor fail one."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable

from include.local.emulator.serving.variants import Variant

_WAITING = 256  # as many copies may wait; more are dropped
_THREADS = 4
_END_SECONDS = 5.0
log = logging.getLogger(__name__)


class Shadow:
    """The shadow variant of a fleet, and the copies that wait for it.

    Args:
        variant: The variant.
        production: The production variant whose requests are copied.

    Attributes:
        dropped: Copies that found no place in the queue, or were left at the end.
    """

    def __init__(self, variant: Variant, production: Variant) -> None:
        self.variant = variant
        self.dropped = 0
        self._production = production
        self._copies: queue.Queue[Callable[[], object] | None] = queue.Queue(_WAITING)
        names = [f"shadow-{variant.source.endpoint}-{number}" for number in range(_THREADS)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def takes(self) -> bool:
        """Tells whether the next request is copied: SageMaker reads the share from the two weights."""
        return random.random() * self._production.weight < self.variant.weight

    def offer(self, copy: Callable[[], object]) -> None:
        """Has a copy sent when its turn comes; drops it where too many wait."""
        try:
            self._copies.put_nowait(copy)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Sends no more, and waits a moment for the answers to those that are under way."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._copies.get_nowait()
                self.dropped += 1
        for _ in self._threads:
            self._copies.put(None)
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self.dropped:
            log.warning("%d copies for shadow variant %s were dropped", self.dropped, self.variant.name)

    def _work(self) -> None:
        while (copy := self._copies.get()) is not None:
            try:
                copy()
            except Exception as error:  # a shadow may be as broken as it likes
                log.debug("shadow variant %s: %s", self.variant.name, error)

"""Threads that work on behalf of a request, and the end of them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from include.local.emulator.wire.errors import AwsError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Workers:
    """Background threads of one room of the emulator.

    Attributes:
        closing: Set once no new work is taken; work in progress looks at it and ends early.
    """

    def __init__(self) -> None:
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Runs `work` on a thread.

        Raises:
            AwsError: `ServiceUnavailable`, the emulator is stopping: work begun now could outlive it.
        """
        with self._lock:
            if self.closing.is_set():
                raise AwsError("ServiceUnavailable", "The emulator is stopping.", 503)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Takes no more work."""
        with self._lock:
            self.closing.set()

    def join(self, seconds: float) -> None:
        """Waits for each thread, at most so long."""
        for thread in self._threads:
            thread.join(seconds)


class Ticker:
    """Does something again and again on a thread of its own, and one last time at the end.

    Args:
        name: Name of the thread.
        seconds: Pause between two times.
        work: What it does.
    """

    def __init__(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        self._seconds = seconds
        self._work = work
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Does it the last time; waits for that at most so long."""
        self._over.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self._seconds)
            try:
                self._work()
            except Exception:  # what goes on in the background may fail once, not for good
                log.exception("%s", self._thread.name)


def drain(queue: deque[T]) -> Iterator[T]:
    """Takes out and yields what other threads have put in, the oldest first."""
    while True:
        try:
            item = queue.popleft()
        except IndexError:
            return
        yield item

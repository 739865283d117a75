"""Answers requests that wait together by one call, as TensorFlow Serving does, but holds nobody back for it.

TensorFlow Serving holds a request back for `batch_timeout_micros`, for others to join it. Here nobody is held
back: while a batch is being answered the next requests gather, and they are the next batch. So batches are of
one request when there is time, and grow with the load.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class OverloadedError(Exception):
    """More requests wait than the server can answer soon."""


class Batcher(Generic[Request, Answer]):
    """A thread that answers, and a bounded queue before it. Its methods belong to one event loop's thread.

    Args:
        answer: Called in that one thread only, with 1 to `max_batch` requests in the order of their coming;
            returns an answer for each, in the same order. What it raises all of them get.
        max_batch: TensorFlow Serving's `max_batch_size`, counted in requests.
        max_waiting: Requests, those being answered included, above which the next one is refused; in batches
            it is TensorFlow Serving's `max_enqueued_batches`.
    """

    def __init__(
        self, answer: Callable[[Sequence[Request]], Sequence[Answer]], max_batch: int, max_waiting: int
    ) -> None:
        self._answer = answer
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting = 0
        self._queue: queue.SimpleQueue[tuple[Request, asyncio.Future[Answer]] | None] = queue.SimpleQueue()
        # A daemon: a call that never ends must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    async def submit(self, request: Request) -> Answer:
        """Returns the answer.

        Raises:
            OverloadedError: Too many wait already; this one was not taken.
        """
        if self._waiting >= self._max_waiting:
            raise OverloadedError(f"{self._waiting} requests wait already")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting += 1
        self._queue.put((request, future))
        return await future

    def close(self, seconds: float) -> None:
        """Ends the thread behind what waits; gives up waiting for it after `seconds`."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while batch := self._take():
            requests = [request for request, _ in batch]
            futures = [future for _, future in batch]
            answers: Sequence[Answer] | Exception
            try:
                answers = self._answer(requests)
                if len(answers) != len(requests):
                    raise RuntimeError(f"{len(answers)} answers to {len(requests)} requests")
            except Exception as error:
                answers = error
            try:
                futures[0].get_loop().call_soon_threadsafe(self._deliver, futures, answers)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _take(self) -> list[tuple[Request, asyncio.Future[Answer]]]:
        """Waits for one request and returns all that are there; nothing where it is time to end."""
        batch = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) == self._max_batch:
                return batch
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._queue.put(None)  # for the next time
        return batch

    def _deliver(
        self, futures: Sequence[asyncio.Future[Answer]], answers: Sequence[Answer] | Exception
    ) -> None:
        self._waiting -= len(futures)
        for number, future in enumerate(futures):
            if future.done():  # who asked has gone
                continue
            if isinstance(answers, Exception):
                future.set_exception(answers)
            else:
                future.set_result(answers[number])

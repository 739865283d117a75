from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from include.local.batching import Batcher, OverloadedError


class Recorder:
    """Answers with the square, keeps each batch, and waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, requests: Sequence[int]) -> list[int]:
        self.batches.append(list(requests))
        assert self.open.wait(10)
        return [number**2 for number in requests]


async def _gather(batcher: Batcher[int, int], numbers: Sequence[int]) -> list[int | BaseException]:
    return await asyncio.gather(*(batcher.submit(number) for number in numbers), return_exceptions=True)


def test_a_lone_request_waits_for_nobody() -> None:
    recorder = Recorder()
    batcher: Batcher[int, int] = Batcher(recorder, max_batch=8, max_waiting=100)
    assert asyncio.run(asyncio.wait_for(batcher.submit(3), 5)) == 9
    assert recorder.batches == [[3]]
    batcher.close(5)


def test_what_waits_is_the_next_batch_up_to_the_bound() -> None:
    recorder = Recorder()
    batcher: Batcher[int, int] = Batcher(recorder, max_batch=4, max_waiting=100)

    async def scenario() -> list[int | BaseException]:
        recorder.open.clear()
        first = asyncio.create_task(batcher.submit(0))
        while not recorder.batches:
            await asyncio.sleep(0.001)
        rest = asyncio.create_task(_gather(batcher, range(1, 11)))
        await asyncio.sleep(0.01)
        recorder.open.set()
        return [await first, *await rest]

    assert asyncio.run(scenario()) == [number**2 for number in range(11)]
    assert recorder.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    batcher.close(5)


def test_above_the_bound_requests_are_refused_and_later_ones_taken_again() -> None:
    recorder = Recorder()
    batcher: Batcher[int, int] = Batcher(recorder, max_batch=2, max_waiting=5)

    async def scenario() -> tuple[list[int | BaseException], int]:
        recorder.open.clear()
        all_of_them = asyncio.create_task(_gather(batcher, range(8)))
        await asyncio.sleep(0.01)
        recorder.open.set()
        return await all_of_them, await batcher.submit(7)

    answers, later = asyncio.run(scenario())
    assert answers[:5] == [0, 1, 4, 9, 16]
    assert all(isinstance(answer, OverloadedError) for answer in answers[5:])
    assert later == 49
    assert sum(len(batch) for batch in recorder.batches) == 6
    batcher.close(5)


def test_who_has_gone_is_no_trouble_to_the_others() -> None:
    recorder = Recorder()
    batcher: Batcher[int, int] = Batcher(recorder, max_batch=3, max_waiting=3)

    async def scenario() -> list[int]:
        recorder.open.clear()
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(3)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        await asyncio.sleep(0)
        recorder.open.set()
        answers = [await tasks[0], await tasks[2]]
        return [*answers, *await asyncio.gather(*(batcher.submit(number) for number in (4, 5, 6)))]

    assert asyncio.run(scenario()) == [0, 4, 16, 25, 36]  # and its place in the queue is free again
    batcher.close(5)


@pytest.mark.parametrize("short", [False, True], ids=["raises", "one answer too few"])
def test_a_failure_reaches_all_who_were_asked_for_and_the_thread_lives(short: bool) -> None:
    failing = True

    def answer(requests: Sequence[int]) -> list[int]:
        if failing and short:
            return []
        if failing:
            raise ArithmeticError("no")
        return list(requests)

    batcher: Batcher[int, int] = Batcher(answer, max_batch=4, max_waiting=10)

    async def scenario() -> list[int | BaseException]:
        nonlocal failing
        answers = await _gather(batcher, [1, 2])
        failing = False
        return [*answers, await batcher.submit(3)]

    one, two, three = asyncio.run(scenario())
    assert isinstance(one, RuntimeError if short else ArithmeticError)
    assert isinstance(two, RuntimeError if short else ArithmeticError)
    assert three == 3
    batcher.close(5)


def test_close_answers_what_waits_and_ends_the_thread() -> None:
    recorder = Recorder()
    batcher: Batcher[int, int] = Batcher(recorder, max_batch=2, max_waiting=10)

    async def scenario() -> list[int | BaseException]:
        recorder.open.clear()
        waiting = asyncio.create_task(_gather(batcher, range(5)))
        await asyncio.sleep(0.01)
        batcher.close(0)
        recorder.open.set()
        return await waiting

    assert asyncio.run(scenario()) == [0, 1, 4, 9, 16]
    batcher.close(5)
    assert "batcher" not in {thread.name for thread in threading.enumerate()}

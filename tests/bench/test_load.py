from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.load import arrivals, drive, percentile, summary

MESSAGE = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d"


@contextmanager
def answering(status_of: Callable[[int], int], *, closes: bool = False) -> Iterator[int]:
    """A server on loopback whose n-th answer has the status that the function returns, when it returns.

    One that closes says so, and does it late.
    """
    numbers = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # http.server's name
            digit = self.rfile.read(1)
            status = status_of(next(numbers))
            self.send_response(status)
            self.send_header("Content-Length", "3000")
            if closes:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(digit * 3000)
            if closes:
                time.sleep(0.05)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def test_arrivals_come_at_the_rate_and_at_random() -> None:
    times = arrivals(200, 50, seed=3)
    assert times == sorted(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert times == arrivals(200, 50, seed=3)
    assert times != arrivals(200, 50, seed=4)


def test_every_answer_is_counted_once() -> None:
    with answering(lambda number: 503 if number % 4 == 0 else 200) as port:
        result = drive(port, [MESSAGE % digit for digit in range(10)], [0.002 * n for n in range(40)])
    assert result["statuses"] == {200: 30, 503: 10}
    assert result["unanswered"] == 0
    assert len(result["latencies"]) == 30
    told = summary(result)
    assert (told["refused"], told["bytes_p50"], told["bytes_max"]) == (10, 3000, 3000)
    assert told["p50"] <= told["p90"] <= told["p99"]


def test_no_request_is_sent_where_the_server_is_about_to_close() -> None:
    with answering(lambda number: 200, closes=True) as port:
        result = drive(port, [MESSAGE % 1], [0.005 * n for n in range(20)])
    assert (result["statuses"], result["unanswered"]) == ({200: 20}, 0)


def test_a_stall_counts_for_every_request_that_it_delays() -> None:
    """Measured from the sending, only the first would be late: the others are sent after it."""

    def slow(number: int) -> int:
        time.sleep(0.3 if number == 0 else 0.0)
        return 200

    with answering(slow) as port:
        result = drive(port, [MESSAGE % 1], [0.01 * n for n in range(11)], connections=1)
    assert len(result["latencies"]) == 11
    assert min(result["latencies"]) > 150


@pytest.mark.parametrize(
    ("values", "share", "wanted"), [([1, 2, 3, 4], 50, 2), ([1], 99, 1), ([1, 2], 99, 2)]
)
def test_percentile_is_a_value_that_was_measured(values: list[int], share: int, wanted: int) -> None:
    assert percentile(values, share) == wanted

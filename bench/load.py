"""An open-loop load generator for one HTTP endpoint, light enough to share two cores with what it measures.

Requests have their times beforehand (Poisson arrivals), and latency counts from that time, not from the
sending: a stalled server or generator then shows in every request that it delayed and not in one alone, which
Gil Tene calls coordinated omission. One thread, plain sockets and `select`, whose timer is finer than that of
`epoll`; connections are kept alive where the server keeps them.

`python -m bench.load --port P --rate R --seconds S --bodies FILE` prints one JSON object.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import math
import random
import select
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CONNECTIONS = 128
_PATIENCE = 5.0  # seconds after the last arrival


@dataclass
class Connection:
    """A socket and the request it is on."""

    socket: socket.socket
    due: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    needed: int = 0
    closes: bool = False

    def send(self, due: float, message: bytes) -> None:
        """Sends a request that was due then."""
        self.due, self.needed = due, 0
        self.received.clear()
        self.socket.sendall(message)

    def receive(self) -> tuple[int, int] | None:
        """Reads what is there; returns status and size of the body once the answer is whole."""
        part = self.socket.recv(65_536)
        if not part:
            raise ConnectionError("the server closed the connection")
        self.received += part
        if not self.needed:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = bytes(self.received[:end]).lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            self.needed = end + 4 + length
            self.closes = b"\r\nconnection: close" in head
        if len(self.received) < self.needed:
            return None
        body = self.needed - self.received.find(b"\r\n\r\n") - 4
        return int(self.received[9:12]), body


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Returns the times of a Poisson process from 0 to `seconds`."""
    rng = random.Random(seed)
    times, now = [], rng.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += rng.expovariate(rate)
    return times


def drive(
    port: int, messages: list[bytes], times: list[float], connections: int = _CONNECTIONS
) -> dict[str, Any]:
    """Sends the messages in turn at their times; returns latencies in ms, statuses and sizes of replies."""
    idle: list[Connection] = []
    busy: dict[socket.socket, Connection] = {}
    waiting: collections.deque[tuple[float, bytes]] = collections.deque()
    latencies: list[float] = []
    statuses: collections.Counter[int] = collections.Counter()
    sizes: list[int] = []
    start = time.perf_counter() + 0.05
    number = 0
    finished = start
    while number < len(times) or waiting or busy:
        now = time.perf_counter()
        if now > start + times[-1] + _PATIENCE:
            break
        while number < len(times) and start + times[number] <= now:
            waiting.append((start + times[number], messages[number % len(messages)]))
            number += 1
        while waiting and len(busy) < connections:
            connection = _connected(idle, port)
            busy[connection.socket] = connection
            connection.send(*waiting.popleft())
        next_due = start + times[number] if number < len(times) else now + 0.1
        ready, _, _ = select.select(list(busy), [], [], max(0.0, min(0.1, next_due - time.perf_counter())))
        for sock in ready:
            connection = busy[sock]
            answer = connection.receive()
            if answer is not None:
                finished = time.perf_counter()
                statuses[answer[0]] += 1
                if answer[0] == 200:
                    latencies.append((finished - connection.due) * 1e3)
                    sizes.append(answer[1])
                done = busy.pop(sock)
                if done.closes:
                    sock.close()
                else:
                    idle.append(done)
    return {
        "latencies": latencies,
        "statuses": dict(statuses),
        "unanswered": len(times) - sum(statuses.values()),
        "sizes": sizes,
        "seconds": finished - start,
    }


def _connected(idle: list[Connection], port: int) -> Connection:
    """Returns an idle connection that the server has not closed meanwhile, or a new one."""
    while idle:
        connection = idle.pop()
        if not select.select([connection.socket], [], [], 0.0)[0]:
            return connection
        connection.socket.close()
    connection = Connection(socket.create_connection(("127.0.0.1", port), 5))
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Returns percentiles in ms, achieved rate, errors and reply sizes of `drive`."""
    latencies, sizes = sorted(result["latencies"]), sorted(result["sizes"])
    refused = sum(count for status, count in result["statuses"].items() if status != 200)
    return {
        **{f"p{share}": percentile(latencies, share) for share in (50, 90, 99)},
        "answered_per_second": len(latencies) / max(result["seconds"], 1e-9),
        "refused": refused,
        "unanswered": result["unanswered"],
        "bytes_p50": percentile(sizes, 50),
        "bytes_max": sizes[-1] if sizes else math.nan,
    }


def percentile(ordered: list[Any], share: int) -> Any:
    """Returns the nearest-rank percentile of sorted values, NaN of none."""
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)] if ordered else math.nan


def main() -> int:
    """Prints the summary."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--bodies", type=Path, required=True, help="request bodies, one a line")
    parser.add_argument("--path", default="/invocations", help="where they are sent")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    messages = [
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (options.path.encode(), len(body), body)
        for body in options.bodies.read_bytes().splitlines()
    ]
    gc.disable()
    result = drive(options.port, messages, arrivals(options.rate, options.seconds, options.seed))
    print(json.dumps({"rate": options.rate, **summary(result)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a process cost, by the operating system's count."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds, and GiB of resident memory at its largest."""

    wall: float
    cpu: float
    memory: float


def measured(command: list[str], environment: dict[str, str] | None = None, log: Path | None = None) -> Cost:
    """Runs a command to its end and returns what it cost, its children included.

    Args:
        command: Program and arguments; it runs in the repository's root.
        environment: Variables besides our own.
        log: Takes what it prints; None leaves it on the terminal.

    Raises:
        RuntimeError: It failed.
    """
    began = time.monotonic()
    stream = None if log is None else log.open("wb")
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=stream, stderr=stream
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C too must not leave it running
            process.kill()
            raise
    finally:
        if stream is not None:
            stream.close()
    wall = time.monotonic() - began
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {os.waitstatus_to_exitcode(status)}")
    # Linux counts it in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 2**30)

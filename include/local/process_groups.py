"""Processes that lead a group of their own: how they start, how they end, and whose they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from include.local.places import ROOT


def start_group(
    name: str, command: list[str], environment: dict[str, str], build: Path
) -> subprocess.Popen[bytes]:
    """Starts a process as the leader of a group of its own, its output in `build/logs/<name>.log`."""
    logs = build / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def stop_groups(groups: list[int], patience: float = 15.0) -> None:
    """Ends whole process groups: TERM, then KILL for what is left.

    Airflow's components leave children behind on TERM, hence groups and not processes.
    """
    for kind, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, kind)
        limit = time.monotonic() + wait
        while any(map(_group_alive, groups)) and time.monotonic() < limit:
            for group in groups:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(group, os.WNOHANG)
            time.sleep(0.1)


def wait_for(
    name: str, is_ready: Callable[[], bool], process: subprocess.Popen[bytes], build: Path, seconds: float
) -> None:
    """Waits until a process is ready.

    Raises:
        RuntimeError: The process ended, or the time ran out; the message has the end of its log.
    """
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and process.poll() is None:
        if is_ready():
            return
        time.sleep(0.3)
    log = build / "logs" / f"{name}.log"
    raise RuntimeError(f"{name} did not start; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")


def is_ours(group: int) -> bool:
    """Tells whether a process group still is one that we started, and not a stranger with its number."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            command = " ".join(process.info["cmdline"] or [])
            if os.getpgid(process.pid) == group and ("airflow" in command or str(ROOT) in command):
                return True
    return False


def identity(pid: int) -> list[float]:
    """Returns a process's number and the time of its start, which another one with its number has not."""
    try:
        return [pid, psutil.Process(pid).create_time()]
    except psutil.NoSuchProcess:
        return []

"""Child processes that cannot be left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_LEASH = Path(__file__).with_name("leash.py")
_PASSED_ON = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    }
)
_PASSED_ON_PREFIXES = ("LC_", "TF_", "OMP_")


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Returns `own` over what a container may know of this machine: no credential of ours is among it."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    return {**passed, "PYTHONUNBUFFERED": "1", **own}


class ChildProcess:
    """A command in its own process group, on a leash that ends it when this process ends.

    Args:
        command: Program and arguments.
        env: The whole environment of the command.
        cwd: Its working directory.
        output: Where its output goes, both streams together; None for a pipe, read from `lines`.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: IO[bytes] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LEASH), *command],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Id of the process group."""
        return self._process.pid

    @property
    def output(self) -> IO[bytes]:
        """The command's output, where it goes to a pipe."""
        if self._process.stdout is None:
            raise ValueError("the output of this process goes to a file")
        return self._process.stdout

    def poll(self) -> int | None:
        """Returns the exit status, None while the command runs."""
        return self._process.poll()

    def wait(self, seconds: float | None = None) -> int | None:
        """Returns the exit status, None where the command still runs after `seconds`."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        # What the command left running in its group would hold the pipe open and outlive the job.
        self._signal(signal.SIGKILL)
        return status

    def end(self, grace_seconds: float) -> None:
        """Ends the whole group: TERM, and KILL where it still runs after `grace_seconds`."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            self.wait(grace_seconds)
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        # macOS answers EPERM for a group of which only a zombie is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

"""Runs a command that must not outlive the emulator: `python leash.py COMMAND [ARGUMENT ...]`.

The emulator holds the other end of this process's standard input. However the emulator ends, SIGKILL
included, the kernel closes that end; the leash sees the end of file and ends its process group, the command
and whatever the command started. Works on every Unix, unlike `prctl(PR_SET_PDEATHSIG)`. Standard library
only: it starts in milliseconds under `python -I -S`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 3.0
_ending = threading.Event()


def _end_group_at_eof() -> None:
    while os.read(0, 4096):
        pass
    _ending.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Runs the command and returns its exit status, 128 + n where signal n ended it."""
    # A handler, not SIG_IGN: the command would inherit the latter. The group's TERM is meant for the command.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot start {sys.argv[1]}: {error}", file=sys.stderr)
        return 127
    watch = threading.Thread(target=_end_group_at_eof, daemon=True)
    watch.start()
    status = child.wait()
    if _ending.is_set():  # the command may be gone, its own children not: stay until the KILL
        watch.join()
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    # Not sys.exit: the thread is inside a blocking read of standard input.
    status = main()
    sys.stderr.flush()
    os._exit(status)

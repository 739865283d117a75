from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from include.local.process_groups import is_ours, stop_groups


def test_stop_groups_ends_grandchildren_that_ignore_term(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    child = (
        "import signal,time,os; signal.signal(15, signal.SIG_IGN); "
        f"open({str(marker)!r},'w').write(str(os.getpid())); time.sleep(60)"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess,sys; subprocess.run([sys.executable,'-c',{child!r}])"],
        start_new_session=True,
    )
    limit = time.monotonic() + 20
    while not (marker.exists() and marker.read_text()) and time.monotonic() < limit:
        time.sleep(0.05)
    grandchild = int(marker.read_text())
    stop_groups([leader.pid], patience=0.5)
    leader.poll()
    time.sleep(0.2)
    alive = Path(f"/proc/{grandchild}/stat")
    assert not alive.exists() or alive.read_text().split()[2] == "Z"
    with pytest.raises(ProcessLookupError):
        os.kill(leader.pid, 0)


def test_a_stranger_with_the_same_number_is_not_ours() -> None:
    stranger = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        assert not is_ours(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()

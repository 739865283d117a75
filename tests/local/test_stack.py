from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from include.local import stack
from include.local.places import ROOT
from include.local.process_groups import identity


def test_taken_port_gives_another_one() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        assert stack._free_port(taken) != taken


LEFT_OVER = "import time; time.sleep(60)"


def _mark(build: Path, owner: list[float], group: int) -> None:
    (build / "stage.json").write_text(json.dumps({"owner": owner, "groups": [group]}))


def test_what_a_killed_demo_left_running_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = subprocess.Popen([sys.executable, "-c", LEFT_OVER, str(ROOT)], start_new_session=True)
    # The demo's number is somebody else's by now.
    _mark(tmp_path, [os.getpid(), 1.0], left.pid)
    stack._end_left_over(tmp_path)
    assert left.wait(20) is not None
    assert f"(process {os.getpid()}) left running" in capsys.readouterr().out
    stack._end_left_over(tmp_path)  # nothing is left


def test_a_demo_that_runs_is_not_ended_by_another(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", LEFT_OVER, str(ROOT)], start_new_session=True)
    try:
        _mark(tmp_path, identity(os.getpid()), left.pid)
        with pytest.raises(RuntimeError, match=rf"\(process {os.getpid()}\) runs on .*wait for its end"):
            stack._end_left_over(tmp_path)
        assert left.poll() is None
    finally:
        left.kill()
        left.wait()

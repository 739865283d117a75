from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from include.local import stack


def test_airflow_settings_become_connections_of_this_machine(tmp_path: Path) -> None:
    settings = stack.local_settings("http://127.0.0.1:9", tmp_path)
    assert settings["connections"]["aws_default"]["extra"]["endpoint_url"] == "http://127.0.0.1:9"
    assert settings["connections"]["warehouse_default"]["host"] == str(tmp_path / "warehouse.duckdb")
    assert settings["pools"]["warehouse"]["slots"] == 1


def test_environment_drops_the_callers_airflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "somebody-elses")
    environment = stack.airflow_environment(8080, tmp_path)
    assert "AIRFLOW__CORE__FERNET_KEY" not in environment
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"


def test_taken_port_gives_another_one() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        assert stack._free_port(taken) != taken


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
    stack.stop_groups([leader.pid], patience=0.5)
    leader.poll()
    time.sleep(0.2)
    alive = Path(f"/proc/{grandchild}/stat")
    assert not alive.exists() or alive.read_text().split()[2] == "Z"
    with pytest.raises(ProcessLookupError):
        os.kill(leader.pid, 0)


def test_down_leaves_a_stranger_with_the_same_number_alone() -> None:
    stranger = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        assert not stack._is_ours(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


LEFT_OVER = "import time; time.sleep(60)"


def _mark(build: Path, owner: list[float], group: int) -> None:
    (build / "stage.json").write_text(json.dumps({"owner": owner, "groups": [group]}))


def test_what_a_killed_demo_left_running_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = subprocess.Popen([sys.executable, "-c", LEFT_OVER, str(stack.ROOT)], start_new_session=True)
    # The demo's number is somebody else's by now.
    _mark(tmp_path, [os.getpid(), 1.0], left.pid)
    stack._end_left_over(tmp_path)
    assert left.wait(20) is not None
    assert f"(process {os.getpid()}) left running" in capsys.readouterr().out
    stack._end_left_over(tmp_path)  # nothing is left


def test_a_demo_that_runs_is_not_ended_by_another(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", LEFT_OVER, str(stack.ROOT)], start_new_session=True)
    try:
        _mark(tmp_path, stack._identity(os.getpid()), left.pid)
        with pytest.raises(RuntimeError, match=rf"\(process {os.getpid()}\) runs on .*wait for its end"):
            stack._end_left_over(tmp_path)
        assert left.poll() is None
    finally:
        left.kill()
        left.wait()

"""Airflow and the emulator as processes on loopback: `make up`, `make down`, the stage of `make demo`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from include.local.airflow_api import AirflowApi
from include.local.airflow_home import USERNAME, airflow_environment, prepare_airflow
from include.local.places import BUILD
from include.local.process_groups import identity, is_ours, start_group, stop_groups, wait_for

AWS_PORT, AIRFLOW_PORT = 5055, 8080
_STACK, _STAGE = "stack.json", "stage.json"


@dataclass(frozen=True)
class Stack:
    """Where a running stack answers."""

    airflow_url: str
    aws_url: str
    password: str

    def api(self) -> AirflowApi:
        """Returns a client of its Airflow."""
        return AirflowApi(self.airflow_url, USERNAME, self.password)


def _free_port(wanted: int) -> int:
    """Returns the wanted loopback port, or another one where it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # Connections of a server that has just ended still linger; they do not keep the port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise RuntimeError("No loopback port is free.")


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=2, trust_env=False).status_code < 500
    return False


def start(
    build: Path = BUILD, schedule: str | None = None, ports: tuple[int, int] = (0, 0)
) -> tuple[Stack, list[int]]:
    """Starts the emulator, with what a cloud account needs first, and Airflow, and waits until both answer.

    Args:
        build: Folder for state and logs.
        schedule: Overrides the pipeline's schedule; "" for none.
        ports: Wanted ports of emulator and Airflow; 0 for any. Two stacks that start at once must not
            want the same, for each would find it free.

    Returns:
        Where the stack answers, and the process groups that `stop_groups` ends.

    Raises:
        RuntimeError: A part did not start; nothing is left running.
    """
    aws_port, airflow_port = map(_free_port, ports)
    aws_url, airflow_url = f"http://127.0.0.1:{aws_port}", f"http://127.0.0.1:{airflow_port}"
    environment = airflow_environment(airflow_port, build)
    if schedule is not None:
        environment["PMS_SCHEDULE"] = schedule
    groups: list[int] = []
    try:
        ready = build / "emulator.json"
        ready.unlink(missing_ok=True)  # of one that was killed
        emulator_command = [sys.executable, "-m", "include.local.emulator", "--aws-template"]
        emulator_command += ["--port", str(aws_port), "--ready-file", str(ready)]
        emulator_command += ["--state-dir", str(build / "aws"), "--ml-python", environment["PMS_ML_PYTHON"]]
        emulator = start_group("emulator", emulator_command, environment, build)
        groups.append(emulator.pid)
        password = prepare_airflow(environment, aws_url, build)
        parts = {}
        for part in ("api-server", "scheduler", "dag-processor", "triggerer"):
            parts[part] = start_group(f"airflow-{part}", ["airflow", part], environment, build)
            groups.append(parts[part].pid)
        wait_for("emulator", ready.exists, emulator, build, 90)
        api = partial(_answers, f"{airflow_url}/api/v2/version")
        wait_for("airflow-api-server", api, parts["api-server"], build, 180)
    except BaseException:
        stop_groups(groups)
        raise
    return Stack(airflow_url, aws_url, password), groups


def running(build: Path = BUILD) -> Stack | None:
    """Returns the stack that `make up` started on a folder, where it still answers."""
    state = build / _STACK
    if not state.exists():
        return None
    stack = Stack(**json.loads(state.read_text())["stack"])
    try:
        httpx.get(f"{stack.airflow_url}/api/v2/version", timeout=5, trust_env=False).raise_for_status()
        httpx.get(stack.aws_url, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return None
    return stack


@contextlib.contextmanager
def stage(build: Path = BUILD) -> Iterator[Stack]:
    """Yields the stack of `make up` where it runs, or else one that ends with the block."""
    if found := running(build):
        yield found
        return
    _end_left_over(build)
    # Without a schedule: unpausing must not start a nightly run beside the one that was asked for.
    stack, groups = start(build, schedule="")
    mark = build / _STAGE
    try:
        mark.write_text(json.dumps({"owner": identity(os.getpid()), "groups": groups}))
        yield stack
    finally:
        stop_groups(groups)
        mark.unlink(missing_ok=True)


def _end_left_over(build: Path) -> None:
    """Ends what a demo that was killed has left running on the folder.

    Raises:
        RuntimeError: A demo runs there.
    """
    mark = build / _STAGE
    if not mark.exists():
        return
    told = json.loads(mark.read_text())
    pid = told["owner"][0]
    if told["owner"] == identity(pid):
        raise RuntimeError(
            f"Another `make demo` (process {pid}) runs on {build}: wait for its end, or `kill {pid}`."
        )
    groups = [group for group in told["groups"] if is_ours(group)]
    if groups:
        print(f"==> ending what a demo that was killed (process {pid}) left running", flush=True)
        stop_groups(groups)
    mark.unlink()


def up(build: Path = BUILD, ports: tuple[int, int] = (AWS_PORT, AIRFLOW_PORT)) -> None:
    """Starts the stack and leaves it running; arguments as in `start`."""
    if found := running(build):
        print(f"Already up: {found.airflow_url} (user {USERNAME}, password {found.password})")
        return
    down(build)
    _end_left_over(build)
    print("==> starting Airflow and the local emulator (about half a minute)", flush=True)
    stack, groups = start(build, ports=ports)
    state = build / _STACK
    state.touch(mode=0o600)
    state.write_text(json.dumps({"stack": vars(stack), "groups": groups}))
    print(f"Airflow   {stack.airflow_url}   user {USERNAME}, password {stack.password}")
    print(f"Emulator  {stack.aws_url}   logs {build / 'logs'}")
    print("`make demo` now runs inside it; `make down` stops it.")


def down(build: Path = BUILD) -> None:
    """Stops what `up` started on a folder, and nothing else."""
    state = build / _STACK
    if not state.exists():
        return
    groups = [group for group in json.loads(state.read_text())["groups"] if is_ours(group)]
    stop_groups(groups)
    state.unlink()
    print(f"Stopped {len(groups)} process groups." if groups else "Nothing was running.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    commands: dict[str, Callable[[], None]] = {"up": up, "down": down}
    parser.add_argument("command", choices=commands)
    try:
        commands[parser.parse_args().command]()
    except RuntimeError as error:
        sys.exit(str(error))

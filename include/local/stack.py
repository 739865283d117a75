"""Airflow and the emulator as processes on loopback: `make up`, `make down`, the stage of `make demo`."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from include.local.airflow_api import AirflowApi

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
STATE_FILE = BUILD / "stack.json"
ML_PYTHON = ROOT / ".venv-ml" / "bin" / "python"
AWS_PORT, AIRFLOW_PORT = 5055, 8080
USERNAME = "admin"
_STAGE = "stage.json"


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


def _without_proxy(name: str) -> str:
    """Returns the caller's list of hosts without a proxy, with loopback on it."""
    return ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))


def airflow_environment(port: int, build: Path = BUILD) -> dict[str, str]:
    """Returns the environment of every Airflow process.

    Args:
        port: Port of the API server, which also serves the tasks.
        build: Folder for everything that a run leaves behind.
    """
    home = build / "airflow"
    url = f"http://127.0.0.1:{port}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    own = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # LocalExecutor forks this many workers at once; a laptop has two cores.
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USERNAME}:admin",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "DO_NOT_TRACK": "1",
        # As in the Dockerfile.
        "AWS_RETRY_MODE": "standard",
        "AWS_MAX_ATTEMPTS": "5",
        # macOS forks workers; without this its Objective-C runtime kills them.
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
        **{name: _without_proxy(name) for name in ("NO_PROXY", "no_proxy")},
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PMS_ML_PYTHON": os.environ.get("PMS_ML_PYTHON", str(ML_PYTHON)),
        "PMS_BAKE_SECONDS": os.environ.get("PMS_BAKE_SECONDS", "1"),
        "PMS_POLL_SECONDS": os.environ.get("PMS_POLL_SECONDS", "1"),
    }
    return inherited | own


def local_settings(aws_url: str, build: Path = BUILD) -> dict[str, dict[str, Any]]:
    """Reads `airflow_settings.yaml` into what `airflow connections|pools|variables import` take.

    Args:
        aws_url: Address of the emulator, put in place of the file's.
        build: Folder of the DuckDB file, put in place of the file's folder.

    Returns:
        `connections`, `pools` and `variables`, each by name.
    """
    declared = yaml.safe_load((ROOT / "airflow_settings.yaml").read_text())["airflow"]
    connections: dict[str, Any] = {}
    for entry in declared.get("connections") or []:
        fields = {key.removeprefix("conn_"): value for key, value in entry.items() if key != "conn_id"}
        fields["conn_type"] = fields.pop("type")
        if fields["conn_type"] == "duckdb":
            fields["host"] = str(build / Path(fields["host"]).name)
        if "endpoint_url" in (fields.get("extra") or {}):
            fields["extra"] = {**fields["extra"], "endpoint_url": aws_url}
        connections[entry["conn_id"]] = fields
    pools = {
        entry["pool_name"]: {
            "slots": entry["pool_slot"],
            "description": entry.get("pool_description", ""),
            "include_deferred": False,
        }
        for entry in declared.get("pools") or []
    }
    variables = {e["variable_name"]: e["variable_value"] for e in declared.get("variables") or []}
    return {"connections": connections, "pools": pools, "variables": variables}


def _airflow(arguments: list[str], environment: dict[str, str]) -> None:
    """Runs an Airflow command; its output is shown only where it fails."""
    done = subprocess.run(["airflow", *arguments], env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(
            f"airflow {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def prepare_airflow(environment: dict[str, str], aws_url: str, build: Path = BUILD) -> str:
    """Creates the metadata database, imports connections and pools, and sets the password.

    What has not changed since the last time is not done again.

    Returns:
        The password of the user `admin`.
    """
    home = Path(environment["AIRFLOW_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    passwords = home / "simple_auth_manager_passwords.json.generated"
    if not passwords.exists():
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({USERNAME: secrets.token_urlsafe(12)}))
    settings = local_settings(aws_url, build)
    mark, stamp = home / ".prepared", hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    if not mark.exists() or mark.read_text() != stamp:
        _airflow(["db", "migrate"], environment)
        for kind, overwrite in (("connections", ["--overwrite"]), ("pools", []), ("variables", [])):
            if settings[kind]:
                path = home / f"{kind}.json"
                # Airflow keeps passwords encrypted, and this file in the clear: nobody else may read it.
                path.touch(mode=0o600)
                path.write_text(json.dumps(settings[kind]))
                try:
                    _airflow([kind, "import", *overwrite, str(path)], environment)
                finally:
                    path.unlink()
        mark.write_text(stamp)
    return str(json.loads(passwords.read_text())[USERNAME])


def _start(
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


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=2, trust_env=False).status_code < 500
    return False


def _wait_for(
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
        emulator = _start("emulator", emulator_command, environment, build)
        groups.append(emulator.pid)
        password = prepare_airflow(environment, aws_url, build)
        parts = {}
        for part in ("api-server", "scheduler", "dag-processor", "triggerer"):
            parts[part] = _start(f"airflow-{part}", ["airflow", part], environment, build)
            groups.append(parts[part].pid)
        _wait_for("emulator", ready.exists, emulator, build, 90)
        api = partial(_answers, f"{airflow_url}/api/v2/version")
        _wait_for("airflow-api-server", api, parts["api-server"], build, 180)
    except BaseException:
        stop_groups(groups)
        raise
    return Stack(airflow_url, aws_url, password), groups


def running() -> Stack | None:
    """Returns the stack that `make up` started, where it still answers."""
    if not STATE_FILE.exists():
        return None
    state = json.loads(STATE_FILE.read_text())
    stack = Stack(**state["stack"])
    try:
        httpx.get(f"{stack.airflow_url}/api/v2/version", timeout=5, trust_env=False).raise_for_status()
        httpx.get(stack.aws_url, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return None
    return stack


@contextlib.contextmanager
def stage(build: Path = BUILD) -> Iterator[Stack]:
    """Yields the stack of `make up` where it runs, or else one that ends with the block."""
    if build == BUILD and (found := running()):
        yield found
        return
    _end_left_over(build)
    # Without a schedule: unpausing must not start a nightly run beside the one that was asked for.
    stack, groups = start(build, schedule="")
    mark = build / _STAGE
    try:
        mark.write_text(json.dumps({"owner": _identity(os.getpid()), "groups": groups}))
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
    if told["owner"] == _identity(pid):
        raise RuntimeError(
            f"Another `make demo` (process {pid}) runs on {build}: wait for its end, or `kill {pid}`."
        )
    groups = [group for group in told["groups"] if _is_ours(group)]
    if groups:
        print(f"==> ending what a demo that was killed (process {pid}) left running", flush=True)
        stop_groups(groups)
    mark.unlink()


def _identity(pid: int) -> list[float]:
    """Returns a process's number and the time of its start, which another one with its number has not."""
    try:
        return [pid, psutil.Process(pid).create_time()]
    except psutil.NoSuchProcess:
        return []


def up() -> None:
    """Starts the stack and leaves it running."""
    if found := running():
        print(f"Already up: {found.airflow_url} (user {USERNAME}, password {found.password})")
        return
    down()
    _end_left_over(BUILD)
    print("==> starting Airflow and the local emulator (about half a minute)", flush=True)
    stack, groups = start(ports=(AWS_PORT, AIRFLOW_PORT))
    STATE_FILE.touch(mode=0o600)
    STATE_FILE.write_text(json.dumps({"stack": vars(stack), "groups": groups}))
    print(f"Airflow   {stack.airflow_url}   user {USERNAME}, password {stack.password}")
    print(f"Emulator  {stack.aws_url}   logs {BUILD / 'logs'}")
    print("`make demo` now runs inside it; `make down` stops it.")


def _is_ours(group: int) -> bool:
    """Tells whether a process group still is one that we started, and not a stranger with its number."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            command = " ".join(process.info["cmdline"] or [])
            if os.getpgid(process.pid) == group and ("airflow" in command or str(ROOT) in command):
                return True
    return False


def down() -> None:
    """Stops what `up` started, and nothing else."""
    if not STATE_FILE.exists():
        return
    groups = [group for group in json.loads(STATE_FILE.read_text())["groups"] if _is_ours(group)]
    stop_groups(groups)
    STATE_FILE.unlink()
    print(f"Stopped {len(groups)} process groups." if groups else "Nothing was running.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    try:
        {"up": up, "down": down}[parser.parse_args().command]()
    except RuntimeError as error:
        sys.exit(str(error))

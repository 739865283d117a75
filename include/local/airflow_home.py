"""Airflow on a laptop before it starts: environment, database, and what `airflow_settings.yaml` declares."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from include.local.places import BUILD, ML_PYTHON, ROOT

USERNAME = "admin"


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


def _airflow(commands: list[list[str]], environment: dict[str, str]) -> None:
    """Runs commands of Airflow; their output is shown only where one fails."""
    command = [sys.executable, "-m", "include.local.airflow_commands", json.dumps(commands)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        names = ", ".join(f"airflow {' '.join(words)}" for words in commands)
        raise RuntimeError(f"One of {names} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


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
        draft = passwords.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps({USERNAME: secrets.token_urlsafe(12)}))
        draft.replace(passwords)
    settings = local_settings(aws_url, build)
    # Another Airflow may need another database.
    wanted = json.dumps([version("apache-airflow-core"), settings])
    mark, stamp = home / ".prepared", hashlib.sha256(wanted.encode()).hexdigest()
    if not mark.exists() or mark.read_text() != stamp:
        # Ended half-way, the database is neither what it was nor what it should be.
        mark.unlink(missing_ok=True)
        commands, files = [["db", "migrate"]], []
        try:
            for kind, overwrite in (("connections", ["--overwrite"]), ("pools", []), ("variables", [])):
                if settings[kind]:
                    files.append(path := home / f"{kind}.json")
                    # Airflow keeps passwords encrypted, and this file in the clear: nobody else may read it.
                    path.touch(mode=0o600)
                    path.write_text(json.dumps(settings[kind]))
                    commands.append([kind, "import", *overwrite, str(path)])
            _airflow(commands, environment)
        finally:
            for path in files:
                path.unlink(missing_ok=True)
        mark.write_text(stamp)
    return str(json.loads(passwords.read_text())[USERNAME])

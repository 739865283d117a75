"""A small client of Airflow's REST API, as much of it as the laptop's commands need."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import httpx
import tenacity

FINISHED = frozenset({"success", "failed"})
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class TaskState:
    """One task of a run: its state and how long it took, in seconds."""

    task_id: str
    state: str | None
    seconds: float | None


class _PatientTransport(httpx.HTTPTransport):
    """Asks again where Airflow has a fault, as a locked SQLite is: no request here does harm twice."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        again = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda answer: answer.status_code >= 500),
            wait=tenacity.wait_fixed(_PAUSE_SECONDS),
            stop=tenacity.stop_after_attempt(4),
            before_sleep=lambda state: state.outcome.result().close() if state.outcome else None,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        answer: httpx.Response = again(super().handle_request, request)
        return answer


class AirflowApi:
    """Talks to one Airflow on loopback.

    Args:
        base_url: Address of the API server, without a path.
        username: A user of the simple auth manager.
        password: Their password.
    """

    def __init__(self, base_url: str, username: str, password: str) -> None:
        # Proxies of the environment must not see loopback traffic.
        self._http = httpx.Client(
            base_url=base_url, timeout=30, trust_env=False, transport=_PatientTransport()
        )
        answer = self._http.post("/auth/token", json={"username": username, "password": password})
        answer.raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        answer = self._http.request(method, f"/api/v2{path}", **arguments)
        _refuse(answer)
        body: dict[str, Any] = answer.json()
        return body

    def import_errors(self) -> list[str]:
        """Returns the messages of DAG files that could not be imported."""
        return [error["stack_trace"] for error in self._call("GET", "/importErrors")["import_errors"]]

    def wait_for_dag(self, dag_id: str, seconds: float) -> None:
        """Waits until a DAG has been parsed.

        Raises:
            RuntimeError: A DAG file has an import error, or the time ran out.
        """
        limit = time.monotonic() + seconds
        while True:
            known = {dag["dag_id"] for dag in self._call("GET", "/dags", params={"limit": 100})["dags"]}
            if dag_id in known:
                return
            if errors := self.import_errors():
                raise RuntimeError("A DAG file cannot be imported:\n" + "\n".join(errors))
            if time.monotonic() > limit:
                raise RuntimeError(f"Airflow did not find the DAG {dag_id} within {seconds:.0f} s.")
            time.sleep(1)

    def pause(self, dag_id: str, is_paused: bool) -> None:
        """Pauses or unpauses a DAG."""
        self._call("PATCH", f"/dags/{dag_id}", json={"is_paused": is_paused})

    def trigger(self, dag_id: str, conf: dict[str, object]) -> str:
        """Starts a run with these Params and returns its id."""
        # With an id of ours, so that a request that is sent again starts no second run.
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        answer = self._http.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        if answer.status_code != HTTPStatus.CONFLICT:
            _refuse(answer)
        return run_id

    def unfinished_runs(self, dag_id: str) -> list[str]:
        """Returns the ids of the runs that are queued or running."""
        rows = self._call("GET", f"/dags/{dag_id}/dagRuns", params={"state": ["queued", "running"]})
        return [str(row["dag_run_id"]) for row in rows["dag_runs"]]

    def fail_run(self, dag_id: str, run_id: str) -> None:
        """Ends a run as failed."""
        self._call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Returns a run's state."""
        return str(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Returns Airflow's own rows of the tasks of a run, in the order in which they started."""
        rows = self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 100})
        return sorted(rows["task_instances"], key=lambda row: row["start_date"] or "9")

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Returns the tasks of a run, in the order in which they started."""
        rows = self.task_instances(dag_id, run_id)
        return [TaskState(row["task_id"], row["state"], row["duration"]) for row in rows]

    def result(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Returns what a task returned, or handed over under a key; None where it did not."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        answer = self._http.get(f"/api/v2{path}", params={"deserialize": "false", "stringify": "false"})
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.json()["value"]

    def failure(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Returns why a task failed: its exception, or the last lines of its log where it left none."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        tries = self._http.get(path).json().get("try_number", 1)
        answer = self._http.get(f"{path}/logs/{tries}", headers={"Accept": "application/json"})
        rows = [] if answer.is_error else answer.json().get("content", [])
        rows = [row for row in rows if isinstance(row, dict)]
        for row in reversed(rows):
            if row.get("error_detail"):
                detail = row["error_detail"][0]  # the raised one; its causes follow
                return f"{detail['exc_type']}: {detail['exc_value']}"
        return "\n".join(str(row.get("event", "")) for row in rows[-15:])

    def wait_for_run(
        self, dag_id: str, run_id: str, report: Callable[[TaskState], None], seconds: float
    ) -> str:
        """Waits for a run to end, reporting every task as it ends.

        Args:
            dag_id: The DAG.
            run_id: The run.
            report: Called once for each task that reached an end.
            seconds: Limit of the wait.

        Returns:
            The run's final state, `success` or `failed`.

        Raises:
            TimeoutError: The run had not ended in time.
        """
        limit = time.monotonic() + seconds
        reported: set[str] = set()
        while True:
            state = self.run_state(dag_id, run_id)
            for task in self.tasks(dag_id, run_id):
                if task.state in {"success", "failed", "skipped", "upstream_failed"}:
                    if task.task_id not in reported:
                        report(task)
                    reported.add(task.task_id)
            if state in FINISHED:
                return state
            if time.monotonic() > limit:
                raise TimeoutError(f"{dag_id} {run_id} was still {state} after {seconds:.0f} s.")
            time.sleep(1)


def _refuse(answer: httpx.Response) -> None:
    if answer.is_error:
        asked = f"{answer.request.method} {answer.request.url.path.removeprefix('/api/v2')}"
        raise RuntimeError(f"Airflow answered {answer.status_code} to {asked}: {answer.text}")

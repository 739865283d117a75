"""Runs that ask a person, and their answer, through Airflow's API."""

from __future__ import annotations

import time

from include.local.airflow_api import AirflowApi


def start(api: AirflowApi, dag_id: str, question: str, conf: dict[str, object]) -> str:
    """Starts a run that asks a person, and waits for the question."""
    run_id = api.trigger(dag_id, conf)
    api.pause(dag_id, is_paused=False)
    limit = time.monotonic() + 900
    while states(api, dag_id, run_id).get(question) != "awaiting_input":
        assert api.run_state(dag_id, run_id) in {"queued", "running"}, states(api, dag_id, run_id)
        assert time.monotonic() < limit
        time.sleep(1)
    # No person is as quick as this: an answer that comes before the task's worker has ended, which takes five
    # seconds more, is lost.
    time.sleep(8)
    return run_id


def agree(api: AirflowApi, dag_id: str, question: str, run_id: str) -> str:
    """Says yes, again where Airflow lost it and asks again, and returns what was asked."""
    task = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{question}/-1/hitlDetails"
    asked = str(api._call("GET", task)["body"])
    limit = time.monotonic() + 300
    while (state := states(api, dag_id, run_id).get(question)) not in {"success", "failed"}:
        if state == "awaiting_input" and not api._call("GET", task)["response_received"]:
            api._call("PATCH", task, json={"chosen_options": ["Approve"], "params_input": {}})
        assert time.monotonic() < limit
        time.sleep(1)
    return asked


def states(api: AirflowApi, dag_id: str, run_id: str) -> dict[str, str | None]:
    return {task.task_id: task.state for task in api.tasks(dag_id, run_id)}


def end(api: AirflowApi, dag_id: str, run_id: str) -> tuple[str, dict[str, str | None]]:
    state = api.wait_for_run(dag_id, run_id, lambda task: None, 600)
    return state, states(api, dag_id, run_id)

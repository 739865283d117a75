"""A person has the last word, under a real Airflow with the emulator: once no answer at all, once a yes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from include.local import demo
from include.local.airflow_api import AirflowApi
from include.local.stack import Stack, stage
from include.sagemaker.registry import list_packages
from tests.end_to_end.test_whole_pipeline import generate

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1500)]
APPROVE = "gate.approve_model"
GROUP = "shop-recommender"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, ml_python: Path) -> Iterator[Stack]:
    with stage(tmp_path_factory.mktemp("build")) as running:
        yield running


def start(api: AirflowApi, conf: dict[str, object]) -> str:
    """Starts a run that asks a person, and waits for the question."""
    run_id = api.trigger(demo.PIPELINE_DAG, {"require_approval": True, **conf})
    api.pause(demo.PIPELINE_DAG, is_paused=False)
    limit = time.monotonic() + 900
    while states(api, run_id).get(APPROVE) != "awaiting_input":
        assert api.run_state(demo.PIPELINE_DAG, run_id) in {"queued", "running"}, states(api, run_id)
        assert time.monotonic() < limit
        time.sleep(1)
    # No person is as quick as this: an answer that comes before Airflow's scheduler has heard that the task
    # waits is lost, and it asks again.
    time.sleep(5)
    return run_id


def states(api: AirflowApi, run_id: str) -> dict[str, str | None]:
    return {task.task_id: task.state for task in api.tasks(demo.PIPELINE_DAG, run_id)}


def end(api: AirflowApi, run_id: str) -> tuple[str, dict[str, str | None]]:
    state = api.wait_for_run(demo.PIPELINE_DAG, run_id, lambda task: None, 600)
    return state, states(api, run_id)


def test_silence_does_not_deploy_and_a_yes_does(root: Path, tmp_path: Path, stack: Stack) -> None:
    data = generate(root, tmp_path / "input", "--sessions", "3000", "--products", "300", "--days", "14")
    api, sagemaker = stack.api(), demo._aws("sagemaker", stack)
    landed = demo.load(api, data, demo.tenant_of(data))
    days = {
        "start_date": landed["first_event_date"],
        "end_date": (date.fromisoformat(landed["last_event_date"]) + timedelta(days=1)).isoformat(),
    }
    api.wait_for_dag(demo.PIPELINE_DAG, 120)

    run_id = start(api, {"tenant": landed["tenant"], **days, "approval_hours": 20 / 3600})
    [waiting] = list_packages(sagemaker, GROUP)
    assert waiting.approval == "PendingManualApproval"
    state, tasks = end(api, run_id)
    assert (state, tasks[APPROVE], tasks["deploy.smoke_test"]) == ("failed", "failed", "upstream_failed")
    [refused] = list_packages(sagemaker, GROUP)
    assert (refused.arn, refused.approval) == (waiting.arn, "Rejected")
    assert refused.approval_description is not None and "Nobody answered" in refused.approval_description
    assert sagemaker.list_endpoints()["Endpoints"] == []

    snapshot = api.result(demo.PIPELINE_DAG, run_id, "export.export_snapshot")["snapshot_id"]
    run_id = start(api, {"tenant": landed["tenant"], "reuse_snapshot": snapshot})
    task = f"/dags/{demo.PIPELINE_DAG}/dagRuns/{run_id}/taskInstances/{APPROVE}/-1/hitlDetails"
    assert "Model card" in api._call("GET", task)["body"]
    api._call("PATCH", task, json={"chosen_options": ["Approve"], "params_input": {}})
    state, tasks = end(api, run_id)
    assert (state, tasks[APPROVE], tasks["deploy.smoke_test"]) == ("success", "success", "success")
    approved = list_packages(sagemaker, GROUP)[0]
    name = api._call("GET", task)["responded_by_user"]["name"]
    assert approved.approval == "Approved"
    assert approved.approval_description == f"Approved by {name} (run {run_id})"

"""A person has the last word, under a real Airflow with the emulator: no answer, a yes, a yes to the end."""

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
TEAR_DOWN = "tear_down"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, ml_python: Path) -> Iterator[Stack]:
    with stage(tmp_path_factory.mktemp("build")) as running:
        yield running


def start(api: AirflowApi, dag_id: str, question: str, conf: dict[str, object]) -> str:
    """Starts a run that asks a person, and waits for the question."""
    run_id = api.trigger(dag_id, conf)
    api.pause(dag_id, is_paused=False)
    limit = time.monotonic() + 900
    while states(api, dag_id, run_id).get(question) != "awaiting_input":
        assert api.run_state(dag_id, run_id) in {"queued", "running"}, states(api, dag_id, run_id)
        assert time.monotonic() < limit
        time.sleep(1)
    # No person is as quick as this: an answer that comes before Airflow's scheduler has heard that the task
    # waits is lost, and it asks again.
    time.sleep(5)
    return run_id


def agree(api: AirflowApi, dag_id: str, question: str, run_id: str) -> str:
    """Says yes, and returns what was asked."""
    task = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{question}/-1/hitlDetails"
    asked = str(api._call("GET", task)["body"])
    api._call("PATCH", task, json={"chosen_options": ["Approve"], "params_input": {}})
    return asked


def states(api: AirflowApi, dag_id: str, run_id: str) -> dict[str, str | None]:
    return {task.task_id: task.state for task in api.tasks(dag_id, run_id)}


def end(api: AirflowApi, dag_id: str, run_id: str) -> tuple[str, dict[str, str | None]]:
    state = api.wait_for_run(dag_id, run_id, lambda task: None, 600)
    return state, states(api, dag_id, run_id)


def test_silence_does_not_deploy_and_a_yes_does_until_a_yes_ends_it(
    root: Path, tmp_path: Path, stack: Stack
) -> None:
    data = generate(root, tmp_path / "input", "--sessions", "3000", "--products", "300", "--days", "14")
    api, sagemaker = stack.api(), demo._aws("sagemaker", stack)
    landed = demo.load(api, data, demo.tenant_of(data))
    days = {
        "start_date": landed["first_event_date"],
        "end_date": (date.fromisoformat(landed["last_event_date"]) + timedelta(days=1)).isoformat(),
    }
    api.wait_for_dag(demo.PIPELINE_DAG, 120)

    asks = {"tenant": landed["tenant"], "require_approval": True}
    run_id = start(api, demo.PIPELINE_DAG, APPROVE, {**asks, **days, "approval_hours": 20 / 3600})
    [waiting] = list_packages(sagemaker, GROUP)
    assert waiting.approval == "PendingManualApproval"
    state, tasks = end(api, demo.PIPELINE_DAG, run_id)
    assert (state, tasks[APPROVE], tasks["deploy.smoke_test"]) == ("failed", "failed", "upstream_failed")
    [refused] = list_packages(sagemaker, GROUP)
    assert (refused.arn, refused.approval) == (waiting.arn, "Rejected")
    assert refused.approval_description is not None and "Nobody answered" in refused.approval_description
    assert sagemaker.list_endpoints()["Endpoints"] == []

    snapshot = api.result(demo.PIPELINE_DAG, run_id, "export.export_snapshot")["snapshot_id"]
    run_id = start(api, demo.PIPELINE_DAG, APPROVE, {**asks, "reuse_snapshot": snapshot})
    assert "Model card" in agree(api, demo.PIPELINE_DAG, APPROVE, run_id)
    state, tasks = end(api, demo.PIPELINE_DAG, run_id)
    assert (state, tasks[APPROVE], tasks["deploy.smoke_test"]) == ("success", "success", "success")
    approved = list_packages(sagemaker, GROUP)[0]
    assert approved.approval == "Approved"
    assert approved.approval_description == f"Approved by admin (run {run_id})"

    # What was made goes again, after a yes to the list of it.
    config = sagemaker.describe_endpoint(EndpointName="shop-recommender")["EndpointConfigName"]
    run_id = start(api, TEAR_DOWN, "approve", {"registry": True})
    asked = agree(api, TEAR_DOWN, "approve", run_id)
    assert "`shop-recommender`" in asked and f"`{config}`" in asked
    assert end(api, TEAR_DOWN, run_id)[0] == "success"
    assert sagemaker.list_endpoints()["Endpoints"] == sagemaker.list_models()["Models"] == []
    assert sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"] == []

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from include.operators.links import (
    CardLink,
    ConsoleLink,
    DbtDocsLink,
    EndpointLink,
    RegistryLink,
    TrainingJobLink,
    console_url,
)
from include.operators.train_model import TrainModelOperator


class TaskInstance:
    """A task that ran; keeps its XCom."""

    dag_id, task_id, run_id = "post_modern_stack", "train.train_model", "manual__2026-11-24T00:00:00+00:00/x"

    def __init__(self) -> None:
        self.xcom: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcom[key] = value

    def xcom_pull(self, *, task_ids: str, key: str) -> Any:
        assert task_ids == self.task_id
        return self.xcom.get(key)


def client(region: str, endpoint_url: str | None = None) -> Any:
    secrets = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    return boto3.client("sagemaker", region_name=region, endpoint_url=endpoint_url, **secrets)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("region", "url"),
    [
        (
            "eu-central-1",
            "https://eu-central-1.console.aws.amazon.com/sagemaker/home?region=eu-central-1#/jobs/a",
        ),
        (
            "us-gov-west-1",
            "https://us-gov-west-1.console.amazonaws-us-gov.com/sagemaker/home?region=us-gov-west-1#/jobs/a",
        ),
        ("cn-north-1", "https://cn-north-1.console.amazonaws.cn/sagemaker/home?region=cn-north-1#/jobs/a"),
    ],
)
def test_console_is_that_of_region_and_partition(region: str, url: str) -> None:
    assert console_url(client(region).meta, "jobs/a") == url


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:5055", "https://sagemaker.example.com", "https://amazonaws.com.evil.example"],
)
def test_an_endpoint_of_ones_own_has_no_console(endpoint: str) -> None:
    assert console_url(client("us-east-1", endpoint).meta, "jobs/a") is None


@pytest.mark.parametrize(
    ("link", "names", "place"),
    [
        (TrainingJobLink, {"kind": "jobs", "job": "pms-1"}, "#/jobs/pms-1"),
        (TrainingJobLink, {"kind": "hyper-tuning-jobs", "job": "pms-1"}, "#/hyper-tuning-jobs/pms-1"),
        (EndpointLink, {"endpoint": "shop"}, "#/endpoints/shop"),
        (EndpointLink, {"endpoint": "a/../b?c#d"}, "#/endpoints/a%2F..%2Fb%3Fc%23d"),
        (RegistryLink, {}, "#/studio-landing"),
    ],
    ids=["training", "search", "endpoint", "nasty endpoint", "registry"],
)
def test_link_is_there_while_the_task_runs_and_stays(
    link: type[ConsoleLink], names: dict[str, str], place: str
) -> None:
    task = TaskInstance()
    link.leave({"ti": task}, client("us-east-1"), **names)
    while_it_runs = task.xcom[link().xcom_key]
    assert while_it_runs.endswith(place)
    assert link().get_link(None, ti_key=task) == while_it_runs


def test_no_button_on_the_emulator() -> None:
    task = TaskInstance()
    EndpointLink.leave({"ti": task}, client("us-east-1", "http://127.0.0.1:5055"), endpoint="shop")
    assert task.xcom == {}
    assert EndpointLink().get_link(None, ti_key=task) == ""


@pytest.mark.parametrize(("link", "tab"), [(CardLink(), "model-card"), (DbtDocsLink(), "dbt-docs")])
def test_link_to_a_runs_page_is_relative_and_survives_any_run_id(link: Any, tab: str) -> None:
    url = link.get_link(None, ti_key=TaskInstance())
    assert url == f"dags/post_modern_stack/runs/manual__2026-11-24T00%3A00%3A00%2B00%3A00%2Fx/plugin/{tab}"


def test_links_survive_the_way_to_the_api_server() -> None:
    with DAG("d", schedule=None) as dag:
        TrainModelOperator(
            task_id="t", snapshot={}, hyperparameters={}, instance_type="local", max_runtime_seconds=1
        )
    there = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert there.get_task("t").extra_links == [TrainingJobLink.name]
    assert (
        there.get_task("t").operator_extra_link_dict[TrainingJobLink.name].xcom_key
        == TrainingJobLink().xcom_key
    )


def test_a_context_without_a_task_is_left_alone() -> None:
    EndpointLink.leave({}, SimpleNamespace(meta=client("us-east-1").meta), endpoint="shop")

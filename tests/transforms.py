"""The transform group as tests need it: in a small DAG, with a task's context."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

from airflow.sdk import DAG, BaseOperator

from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.settings import get_settings
from include.transform import transform_group

RUN = "manual__2026-01-01"


def transform_dag(**settings: Any) -> DAG:
    """The group between a check and a task that stands for all that follows."""
    with DAG("post_modern_stack", schedule=None, start_date=datetime(2024, 1, 1)) as dag:
        check = CheckPrerequisitesOperator(task_id="check", start_date="2021-01-01", end_date="2021-02-01")
        group = transform_group(get_settings().model_copy(update=settings), check)
        check >> group >> BaseOperator(task_id="export")
    return dag


def run_task(task_id: str, attempt: int = 1) -> dict[str, Any]:
    """Runs one task of the group in this process, and returns what it handed over through XCom."""
    xcom: dict[str, Any] = {}
    task_instance = SimpleNamespace(
        dag_id="post_modern_stack",
        run_id=RUN,
        task_id=task_id,
        try_number=attempt,
        xcom_push=lambda key, value: xcom.update({key: value}),
    )
    context: Any = {"run_id": RUN, "ti": task_instance}
    transform_dag().get_task(task_id).execute(context)
    return xcom

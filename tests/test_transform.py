from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include import transform
from include.contracts import SettingsError
from include.dbt_artifacts import XCOM_KEY
from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.settings import get_settings
from include.warehouse.dialect import Statement
from tests.shops import open_file, transformed_shop


def build(**settings: Any) -> DAG:
    """The transform group between a check and a task that stands for all that follows."""
    with DAG("post_modern_stack", schedule=None, start_date=datetime(2024, 1, 1)) as dag:
        check = CheckPrerequisitesOperator(task_id="check", start_date="2021-01-01", end_date="2021-02-01")
        group = transform.transform_group(get_settings().model_copy(update=settings), check)
        check >> group >> BaseOperator(task_id="export")
    return dag


class Run:
    """A task's context, and what it handed over."""

    def __init__(self, task_id: str, attempt: int = 1) -> None:
        self.xcom: dict[str, Any] = {}
        self.context: Any = {
            "run_id": "manual__1",
            "ti": SimpleNamespace(
                dag_id="post_modern_stack",
                run_id="manual__1",
                task_id=task_id,
                try_number=attempt,
                xcom_push=self.xcom.__setitem__
                if False
                else lambda key, value: self.xcom.update({key: value}),
            ),
        }

"""A window without events: the run says so and skips all the rest, ends green, and the endpoint stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped

from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.operators.register_model import RegisterModelOperator
from include.settings import Settings, get_settings
from include.warehouse.dialect import Statement
from tests.operators.exporting import END, START, export
from tests.operators.exporting import s3 as s3
from tests.operators.exporting import server as server
from tests.operators.exporting import shop as shop
from tests.operators.test_check_prerequisites import TaskInstance
from tests.shops import open_file

UNFINISHED = (
    "insert into raw.shopping_events (etl_id, etl_timestamp, api_key, event_type, event_date, raw_data) "
    "values ('unfinished', now()::timestamp, 'demo-shop', 'pageview', date '2027-01-15', '{}')"
)


@pytest.fixture(scope="module")
def pipeline(root: Path) -> DAG:
    return DagBag(root / "dags" / "post_modern_stack.py").dags["post_modern_stack"]


@pytest.mark.parametrize(
    ("start", "end"),
    [("2025-11-01", "2026-01-01"), ("2026-01-21", "2026-02-01"), ("2027-01-01", "2027-02-01")],
    ids=["before the first event", "behind the last", "of an unfinished load only"],
)
def test_the_check_skips_every_other_task_of_the_run_with_its_reason(
    pipeline: DAG,
    s3: Any,
    shop: Path,
    ml_python: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    end: str,
) -> None:
    monkeypatch.setenv("PMS_ML_PYTHON", str(ml_python))
    get_settings.cache_clear()
    with open_file(shop) as warehouse:
        warehouse.execute(Statement(UNFINISHED))
    log = Mock()
    monkeypatch.setattr(CheckPrerequisitesOperator, "log", log)
    check = pipeline.get_task("check_prerequisites").prepare_for_execution()
    check.window_start, check.window_end, check.tenant, check.reuse_snapshot = start, end, None, None
    check.training, check.deploys = None, False
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        check.execute({"ti": TaskInstance()})
    # Skipped tasks after one that succeeded: Airflow calls such a run a success.
    assert set(skipped.value.tasks) == set(pipeline.task_dict) - {"check_prerequisites"}
    reason = str(log.warning.call_args)
    assert f"No events from {start} to {end}" in reason and "what is deployed stays" in reason


def test_an_interval_without_sessions_skips_the_export_with_its_reason(
    s3: Any, shop: Path, settings: Settings
) -> None:
    """Between days with events, where the check lets it through."""
    with open_file(shop) as warehouse:
        gap = "session_date between date '2026-01-08' and date '2026-01-10'"
        warehouse.execute(Statement(f"delete from shop.sessions where {gap}"))
    with pytest.raises(AirflowSkipException, match="2026-01-08.*what is deployed stays"):
        export("2026-01-08", "2026-01-11")
    assert "Contents" not in s3.list_objects_v2(Bucket=settings.bucket)
    assert START < "2026-01-08" < END


def test_a_skipped_export_leaves_nothing_to_do_for_the_rest_of_the_run(pipeline: DAG) -> None:
    export_task = pipeline.get_task("export.export_snapshot")
    rest = export_task.get_flat_relatives(upstream=False)
    assert {task.task_id for task in rest} >= {"train.train_model", "deploy.deploy_endpoint", "clean_up"}
    # Of what waits for one success, nothing comes from elsewhere.
    one = [task for task in rest if task.trigger_rule == TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS]
    assert all(task.upstream_task_ids <= {task.task_id for task in rest} for task in one)
    skipping = {
        TriggerRule.ALL_SUCCESS,
        TriggerRule.ALL_DONE_SETUP_SUCCESS,
        TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
    }
    others = [task for task in rest if task.trigger_rule not in skipping]
    assert [task.task_id for task in others] == ["gate.register_model"]
    with pytest.raises(AirflowSkipException, match="no verdict"):
        RegisterModelOperator(task_id="register_model", trained_model=None, verdict=None).execute({})

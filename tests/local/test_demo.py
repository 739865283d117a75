from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from include.local import demo, demo_report
from include.local.airflow_api import TaskState


def test_folder_without_a_browsing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(demo.DemoError, match="browsing") as caught:
        demo.prepare_data(tmp_path)
    assert caught.value.status == demo.EXIT_BAD_INPUT


def test_missing_folder_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(demo.DemoError, match="not a folder") as caught:
        demo.prepare_data(tmp_path / "nowhere")
    assert caught.value.status == demo.EXIT_BAD_INPUT


def test_seconds_are_summed_by_step_and_unstarted_tasks_count_nothing() -> None:
    tasks = [
        TaskState("check_prerequisites", "success", 9.0),
        TaskState("transform.sessions.build", "success", 2.0),
        TaskState("transform.products.build", "success", 1.5),
        TaskState("deploy.smoke_test", "upstream_failed", None),
    ]
    seconds = demo_report.seconds_per_step(tasks)
    assert seconds == {"transform": 3.5, "export": 0.0, "train": 0.0, "gate": 0.0, "deploy": 0.0}


def test_terminal_output_of_a_poisoned_sku_is_inert() -> None:
    assert "\x1b" not in demo_report._short("\x1b[31mred\u202e")


def test_folder_with_other_content_is_another_tenant(tmp_path: Path) -> None:
    """Noise put in the place of yesterday's file must not be trained together with it."""
    (tmp_path / "browsing.csv").write_text("a")
    first = demo.tenant_of(tmp_path)
    assert demo.tenant_of(tmp_path) == first
    (tmp_path / "browsing.csv").write_text("b")
    assert demo.tenant_of(tmp_path) != first


class FailedRun:
    """An Airflow whose run failed in one task for one reason."""

    def __init__(self, task_id: str, reason: str) -> None:
        self._task_id, self._reason = task_id, reason

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        return [TaskState(self._task_id, "failed" if self._reason else "skipped", 1.0)]

    def failure(self, dag_id: str, run_id: str, task_id: str) -> str:
        return self._reason


@pytest.mark.parametrize(
    ("task_id", "reason", "status"),
    [
        ("load_events", "AirflowFailException: the file is empty", demo.EXIT_BAD_INPUT),
        ("load_events", "WarehouseUnavailableError: locked", demo.EXIT_FAULT),
        ("export.export_snapshot", "AirflowFailException: too few sessions", demo.EXIT_BAD_INPUT),
        ("export.export_snapshot", "", demo.EXIT_BAD_INPUT),
        ("train.train_model", "AirflowFailException: AlgorithmError", demo.EXIT_FAULT),
    ],
)
def test_exit_status_tells_bad_input_from_a_fault(task_id: str, reason: str, status: int) -> None:
    error = demo.failure(FailedRun(task_id, reason), "dag", "run", "It failed.")  # type: ignore[arg-type]
    assert error.status == status
    assert reason in str(error)


class OneJob:
    """A SageMaker with one job."""

    def describe_training_job(self, **_: str) -> dict[str, datetime]:
        return {"CreationTime": datetime(2026, 1, 2, 3, tzinfo=UTC)}


@pytest.mark.parametrize(("second", "told"), [(1, "2026-01-02 03:00:00+00:00"), (0, None)])
def test_a_job_of_an_earlier_demo_is_told(second: int, told: str | None) -> None:
    began = datetime(2026, 1, 2, 3, 0, second, tzinfo=UTC)
    assert demo.trained_before(OneJob(), "job", began) == told

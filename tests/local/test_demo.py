from __future__ import annotations

from pathlib import Path

import pytest

from include.local import demo
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
    seconds = demo.seconds_per_step(tasks)
    assert seconds == {"transform": 3.5, "export": 0.0, "train": 0.0, "gate": 0.0, "deploy": 0.0}


def test_terminal_output_of_a_poisoned_sku_is_inert() -> None:
    assert "\x1b" not in demo._short("\x1b[31mred\u202e")

from __future__ import annotations

from pathlib import Path

import pytest

from include import transform
from include.contracts import SettingsError
from include.operators.run_dbt_cloud_job import RunDbtCloudJobOperator
from tests.transforms import transform_dag


def models(dag: object) -> list[str]:
    return [task.task_id for task in dag.tasks if task.task_id.endswith("_model_build")]  # type: ignore[attr-defined]


def test_export_neither_waits_for_the_documentation_nor_fails_with_it() -> None:
    dag = transform_dag()
    docs, export = dag.get_task("transform.generate_docs"), dag.get_task("export")
    assert export.upstream_task_ids and export.upstream_task_ids < set(models(dag))
    assert docs.is_teardown and not docs.on_failure_fail_dagrun
    # Every model is above it, so that it shows what the run built.
    assert set(models(dag)) <= {task.task_id for task in docs.get_flat_relatives(upstream=True)}
    # No documentation of a run that the check has stopped.
    assert dag.get_task("check").is_setup and "check" in docs.upstream_task_ids


def test_every_model_can_be_built_anew_by_a_param() -> None:
    dag = transform_dag()
    for name in models(dag):
        task = dag.get_task(name)
        assert "full_refresh" in task.template_fields and task.full_refresh == "{{ params.full_refresh }}"
        task.full_refresh = True
        assert task.add_cmd_flags() == ["--full-refresh"]


@pytest.mark.parametrize(("warehouse", "pool"), [("duckdb", "warehouse"), ("snowflake", "default_pool")])
def test_only_duckdb_makes_its_tasks_queue(warehouse: str, pool: str) -> None:
    tasks = transform_dag(warehouse=warehouse).task_dict
    assert {task.pool for name, task in tasks.items() if name.startswith("transform.")} == {pool}


def test_with_dbt_cloud_the_group_is_one_task_and_needs_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform, "MANIFEST", tmp_path / "manifest.json")
    dag = transform_dag(dbt_runner="cloud", dbt_cloud_job_id=7, dbt_cloud_minutes=5)
    [task] = [task for task in dag.tasks if task.task_id not in {"check", "export"}]
    assert isinstance(task, RunDbtCloudJobOperator)
    assert (task.job_id, task.patience, task.pool, task.deferrable) == (7, 300, "default_pool", True)
    assert (task.upstream_task_ids, task.downstream_task_ids) == ({"check"}, {"export"})


def test_missing_manifest_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform, "MANIFEST", tmp_path / "manifest.json")
    with pytest.raises(SettingsError, match="make setup"):
        transform_dag()

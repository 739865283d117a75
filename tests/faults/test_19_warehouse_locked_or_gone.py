"""The warehouse is locked by another process, or gone midway: said clearly, and tried again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from airflow.sdk.exceptions import AirflowFailException

from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.operators.load_events import LoadEventsOperator
from include.settings import get_settings
from include.warehouse.dialect import Statement
from include.warehouse.duckdb import DuckDBWarehouse
from tests.operators.exporting import END, START, export
from tests.operators.exporting import s3 as s3
from tests.operators.exporting import server as server
from tests.operators.exporting import shop as shop
from tests.shops import event, rows, write_source
from tests.snowflake.conftest import context
from tests.transforms import run_task, transform_dag

VISIBLE = "select count(*) from raw.shopping_events where etl_id in (select etl_id from raw.loads)"
HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Another process holds the DuckDB file; yields its id."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder.pid
        finally:
            holder.stdin.close()


def _check(folder: Path) -> Any:
    task = CheckPrerequisitesOperator(task_id="check", start_date=START, end_date=END, deploys=False)
    return task.execute(context("post_modern_stack", "check"))


def _load(folder: Path) -> Any:
    source = write_source(folder, [event("locked out")])
    task = LoadEventsOperator(task_id="load_events", source=str(source))
    return task.execute(context("load_shopping_events", "load_events"))


def _export(folder: Path) -> Any:
    return export()


@pytest.fixture(params=[_check, _load, _export])
def task(
    request: pytest.FixtureRequest, s3: Any, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Any]:
    """A try of a task that opens the warehouse itself."""
    monkeypatch.setenv("PMS_ML_PYTHON", sys.executable)
    get_settings.cache_clear()
    return lambda: request.param(tmp_path / "in")


def test_a_held_file_is_named_with_its_holder_and_the_next_try_succeeds(
    task: Callable[[], Any], shop: Path
) -> None:
    with held(shop) as pid, pytest.raises(Exception, match=f"{shop} is held .*PID {pid}") as failure:
        task()
    assert "the next try" in str(failure.value)
    assert not isinstance(failure.value, AirflowFailException)
    assert task()


@pytest.mark.parametrize("task_id", ["transform.stg_products_model_build", "transform.generate_docs"])
def test_a_held_file_is_named_by_dbt_and_worth_a_retry(shop: Path, task_id: str) -> None:
    with held(shop) as pid, pytest.raises(Exception, match=f'lock on file "{shop}".*PID {pid}') as failure:
        run_task(task_id)
    assert not isinstance(failure.value, AirflowFailException)
    assert transform_dag().get_task(task_id).retries == 2


def test_a_warehouse_that_goes_away_midway_is_worth_a_retry_that_finds_nothing_half_done(
    task: Callable[[], Any], shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = DuckDBWarehouse.execute
    events = rows(shop, VISIBLE)
    for survived in (0, 1, 3, 6):
        left = [None] * survived

        def lose(warehouse: DuckDBWarehouse, statement: Statement, left: list[None] = left) -> Any:
            if not left:
                raise duckdb.IOException("Could not read from file: Input/output error")
            left.pop()
            return execute(warehouse, statement)

        with monkeypatch.context() as patch:
            patch.setattr(DuckDBWarehouse, "execute", lose)
            try:
                task()
            except Exception as failure:
                assert "Input/output error" in str(failure) and not isinstance(failure, AirflowFailException)
            else:
                assert survived > 1, "it asked nothing more"
        assert rows(shop, VISIBLE) == events
    assert task()

"""A Snowflake for the tests of this folder, and a shop in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.context import OutletEventAccessors

from include.operators.load_events import LoadEventsOperator
from include.settings import get_settings
from include.transform import _profile
from tests.shops import DBT_PROJECT
from tests.snowflake.server import Server, new_key, pem, serve

MACROS = Path(__file__).with_name("macros")


@pytest.fixture(scope="session")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The running server; skips where its environment has not been built."""
    python = root / ".venv-fakesnow" / "bin" / "python"
    if not python.exists():
        pytest.skip("fakesnow's environment is not built: make test builds it")
    with serve(python, tmp_path_factory.mktemp("fakesnow")) as running:
        yield running


class Account:
    """A database of the server, reached as the pipeline reaches Snowflake: by the Airflow connection."""

    def __init__(self, server: Server, database: str, folder: Path) -> None:
        self.folder = folder
        self.project = Path(
            shutil.copytree(DBT_PROJECT, folder / "project", ignore=shutil.ignore_patterns("target", "logs"))
        )
        for macro in MACROS.iterdir():
            shutil.copy(macro, self.project / "macros")
        self.environment = {
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": server.connection(database, pem(new_key())),
            "PMS_WAREHOUSE": "snowflake",
            "REQUESTS_CA_BUNDLE": str(server.certificate),
        }

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Makes it the warehouse of this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            get_settings.cache_clear()
            try:
                yield
            finally:
                get_settings.cache_clear()

    def load(self, source: Path) -> dict[str, Any]:
        """Loads a folder by the operator, and returns its report."""
        task = LoadEventsOperator(task_id="load_events", source=str(source))
        with self.chosen():
            return task.execute(context("load_shopping_events", "load_events"))

    def dbt(self, *arguments: str, unit_tests: bool = False) -> Any:
        """Runs dbt in this process under the profile that Cosmos makes of the connection; as `run_dbt`."""
        from dbt.adapters.factory import reset_adapters
        from dbt.cli.main import dbtRunner

        with (
            self.chosen(),
            pytest.MonkeyPatch.context() as patch,
            _profile(get_settings()).ensure_profile() as (profile, secrets),
        ):
            for name, value in secrets.items():
                patch.setenv(name, value)
            if not unit_tests:
                patch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "unit_test")
            folders = ["--project-dir", str(self.project), "--profiles-dir", str(profile.parent)]
            outputs = ["--target-path", str(self.folder / "target"), "--log-path", str(self.folder / "logs")]
            try:
                return dbtRunner().invoke(["--quiet", *arguments, *folders, *outputs])
            finally:
                reset_adapters()


@pytest.fixture(scope="session")
def account(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Account]:
    """Makes an account with an empty database of its own."""
    return lambda database: Account(server, database, tmp_path_factory.mktemp(database.lower()))


def context(dag: str, task: str, run: str = "manual__1") -> Any:
    """What an operator of ours, and one of Cosmos, reads of a task's context."""
    instance = SimpleNamespace(dag_id=dag, task_id=task, run_id=run, try_number=1, map_index=-1)
    return {
        "run_id": run,
        "ti": instance,
        "task_instance": instance,
        "dag_run": SimpleNamespace(run_id=run, conf=None),
        "outlet_events": OutletEventAccessors(),
    }

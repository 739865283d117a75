"""Every DAG file: imports, cycles, tags, documentation, length, and nothing heavy at parse."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models.dagrun import DagRun
from airflow.sdk import TriggerRule
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError
from airflow.utils.state import State, TaskInstanceState

HEAVY = ("tensorflow", "keras", "pandas", "sagemaker", "reclist", "mlflow", "torch")
VERBS = ("transform", "export", "train", "gate", "deploy")


@pytest.fixture(scope="module")
def bag(root: Path) -> DagBag:
    return DagBag(root / "dags")


def dag_files() -> list[Path]:
    return sorted((Path(__file__).resolve().parents[2] / "dags").glob("*.py"))


def test_dags_import_without_errors(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == {path.stem for path in dag_files()}


@pytest.mark.parametrize("path", dag_files(), ids=lambda path: path.stem)
def test_dag_file_is_short_wiring_with_triage_notes(path: Path, bag: DagBag) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 150
    docstring = ast.get_docstring(ast.parse(source)) or ""
    for heading in ("**What.**", "**Needs.**", "**Cost.**", "**Triage.**"):
        assert heading in docstring
    dag = bag.dags[path.stem]
    assert dag.doc_md
    assert "post-modern-stack" in dag.tags
    assert not dag.catchup
    for name, param in dag.params.items():
        schema = dag.params.get_param(name).schema
        assert schema.get("title") and (schema.get("description") or param is not None), name


def test_pipeline_is_five_groups_in_a_row(bag: DagBag) -> None:
    dag = bag.dags["post_modern_stack"]
    assert set(dag.task_group.children) == {"check_prerequisites", *VERBS, "clean_up"}
    for before, after in zip(VERBS, VERBS[1:], strict=False):
        assert after in dag.task_group.children[before].downstream_group_ids


def test_export_follows_a_skipped_transform_and_nothing_else_does(bag: DagBag) -> None:
    """A run that uses a snapshot again has no transform; a failed one still stops everything."""
    dag = bag.dags["post_modern_stack"]
    rules = {
        task.task_id: task.trigger_rule.value
        for task in dag.tasks
        if not task.task_id.startswith("transform.")
    }
    assert rules.pop("export.export_snapshot") == "none_failed"
    assert rules.pop("gate.register_model") == "all_done"
    for teardown in ("delete_endpoint", "end_shadow_test"):
        assert rules.pop(f"deploy.{teardown}") == "all_done_setup_success"
    # After a shadow test that was skipped; where all before it was, it is skipped as well.
    assert rules.pop("deploy.deploy_endpoint") == "none_failed_min_one_success"
    assert set(rules.values()) == {"all_success"}
    check = dag.get_task("check_prerequisites")
    assert {task.task_id for task in check._transform_tasks()} == {
        task_id for task_id in dag.task_ids if task_id.startswith("transform.")
    }


def test_a_rejected_model_is_registered_and_not_deployed(bag: DagBag) -> None:
    """The registry's task runs after a rejection; the approval and all of deploy stand behind the gate."""
    dag = bag.dags["post_modern_stack"]
    assert dag.get_task("gate.register_model").upstream_task_ids == {"gate.gate_model", "train.train_model"}
    assert dag.get_task("gate.approve_model").upstream_task_ids == {"gate.gate_model", "gate.register_model"}
    assert "gate.approve_model" in dag.get_task("deploy.deploy_wanted").upstream_task_ids


class Instance(NamedTuple):
    """As much of a task instance as decides on a run."""

    task_id: str
    state: TaskInstanceState


def run_state(dag: Any, failed: str) -> str | None:
    """What Airflow makes of a run whose tasks all succeeded but for one, and those that this one stops."""
    stopped = {
        task.task_id
        for task in dag.get_task(failed).get_flat_relatives(upstream=False)
        if not task.is_teardown and task.trigger_rule == TriggerRule.ALL_SUCCESS
    }
    states = dict.fromkeys(dag.task_ids, TaskInstanceState.SUCCESS)
    states |= dict.fromkeys(stopped, TaskInstanceState.UPSTREAM_FAILED)
    states[failed] = TaskInstanceState.FAILED
    instances: Any = [Instance(task_id, state) for task_id, state in states.items()]
    run: Any = None
    deciding = DagRun._tis_for_dagrun_state(run, dag=dag, tis=instances)
    return "failed" if any(one.state in State.failed_states for one in deciding) else "success"


@pytest.mark.parametrize("dag_id", ["post_modern_stack", "roll_back_endpoint"])
@pytest.mark.parametrize("failed", ["deploy_endpoint", "smoke_test", "delete_endpoint", "end_shadow_test"])
def test_no_run_is_green_whose_deploy_failed_or_whose_endpoint_still_costs_money(
    bag: DagBag, dag_id: str, failed: str
) -> None:
    assert run_state(bag.dags[dag_id], f"deploy.{failed}") == "failed"


def test_endpoint_of_a_runs_own_is_deleted_whatever_became_of_it(bag: DagBag) -> None:
    """Airflow runs a teardown where one of its setups succeeded, though all else failed."""
    dag = bag.dags["post_modern_stack"]
    delete = dag.get_task("deploy.delete_endpoint")
    assert delete.trigger_rule.value == "all_done_setup_success"
    setups = {task.task_id for task in delete.upstream_list if task.is_setup}
    assert setups == {"deploy.create_endpoint_config", "deploy.deploy_endpoint"}


def test_a_shadow_test_is_ended_whatever_became_of_it_and_a_skipped_one_stops_nothing(bag: DagBag) -> None:
    dag = bag.dags["post_modern_stack"]
    end = dag.get_task("deploy.end_shadow_test")
    assert {task.task_id for task in end.upstream_list if task.is_setup} == {"deploy.create_endpoint_config"}
    # Not while the endpoint may be moving.
    assert "deploy.smoke_test" in end.upstream_task_ids
    deploy = dag.get_task("deploy.deploy_endpoint")
    assert {"deploy.shadow_test", "deploy.create_model"} <= deploy.upstream_task_ids
    # It needs machines as the deploy does, and leaves what a run of its own never touched.
    test = dag.get_task("deploy.shadow_test")
    assert (test.retries, test.retry_delay) == (deploy.retries, deploy.retry_delay)
    assert test.retry_exponential_backoff
    assert end.ephemeral == "{{ params.ephemeral }}"


def test_a_roll_back_takes_the_pipelines_own_deploy_and_may_go_to_an_older_model(bag: DagBag) -> None:
    back, forth = bag.dags["roll_back_endpoint"], bag.dags["post_modern_stack"]
    deploy = {task_id for task_id in forth.task_ids if task_id.startswith("deploy.")}
    assert set(back.task_ids) == {"choose_package", *deploy, "record_rollback"}
    for task_id in deploy:
        assert type(back.get_task(task_id)) is type(forth.get_task(task_id))
    assert back.get_task("deploy.deploy_endpoint").allow_older is True
    assert back.get_task("record_rollback").upstream_task_ids >= {"deploy.smoke_test", "choose_package"}
    assert back.schedule is None and back.max_active_runs == 1


def test_nothing_is_torn_down_that_nobody_agreed_to(bag: DagBag) -> None:
    dag = bag.dags["tear_down"]
    assert [task.task_id for task in dag.topological_sort()] == ["plan", "approve", "delete"]
    assert dag.get_task("delete").upstream_task_ids == {"plan", "approve"}
    assert {task.trigger_rule.value for task in dag.tasks} == {"all_success"}
    assert dag.schedule is None
    assert {name: dag.params[name] for name in ("data", "registry")} == {"data": False, "registry": False}


@pytest.mark.parametrize("dag_id", [path.stem for path in dag_files()])
def test_the_only_task_that_comes_first_refuses_a_misspelt_param(bag: DagBag, dag_id: str) -> None:
    [first] = bag.dags[dag_id].roots
    with pytest.raises(AirflowFailException, match="no such Param: tennant"):
        first.execute({"dag_run": SimpleNamespace(conf={"tennant": "shop"})})


@pytest.mark.parametrize("value", [0, -1, 169, None, "1"])
def test_the_wait_for_a_yes_is_bounded(bag: DagBag, value: object) -> None:
    with pytest.raises(ParamValidationError):
        bag.dags["tear_down"].params.get_param("hours").resolve(value)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("version", None, True),
        ("version", 3, True),
        ("version", 0, False),
        ("version", "3; DROP", False),
        ("reason", "it sells what is out of stock", True),
        ("reason", "", False),
        ("reason", None, False),
        ("reason", "x" * 301, False),
        ("reject_current", "no", False),
    ],
)
def test_a_roll_back_wants_a_reason(bag: DagBag, name: str, value: object, accepted: bool) -> None:
    param = bag.dags["roll_back_endpoint"].params.get_param(name)
    if accepted:
        assert param.resolve(value) == value
    else:
        with pytest.raises(ParamValidationError):
            param.resolve(value)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(None, True), ("snap-0123456789abcdef", True), ("latest", False), ("snap-0123456789ABCDEF", False)],
)
def test_snapshot_to_reuse_is_named_by_its_id(bag: DagBag, value: str | None, accepted: bool) -> None:
    param = bag.dags["post_modern_stack"].params.get_param("reuse_snapshot")
    if accepted:
        assert param.resolve(value) == value
    else:
        with pytest.raises(ParamValidationError):
            param.resolve(value)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("tune_trials", 0, True),
        ("tune_trials", 50, True),
        ("tune_trials", -1, False),
        ("tune_trials", 51, False),
        ("tune_trials", 2.5, False),
        ("tune_parallel", 1, True),
        ("tune_parallel", 10, True),
        ("tune_parallel", 0, False),
        ("tune_parallel", 11, False),
        ("approval_hours", 0.5, True),
        ("approval_hours", 0, False),
        ("approval_hours", 721, False),
        ("approval_hours", None, False),
        ("require_approval", True, True),
        ("require_approval", "yes", False),
    ],
)
def test_a_search_and_a_wait_are_bounded(bag: DagBag, name: str, value: float, accepted: bool) -> None:
    param = bag.dags["post_modern_stack"].params.get_param(name)
    if accepted:
        assert param.resolve(value) == value
    else:
        with pytest.raises(ParamValidationError):
            param.resolve(value)


def test_pipeline_runs_daily_without_catch_up(bag: DagBag) -> None:
    dag = bag.dags["post_modern_stack"]
    assert dag.schedule == "@daily"
    assert dag.max_active_runs == 1


def test_a_setting_lets_loads_trigger_the_pipeline(root: Path) -> None:
    program = (
        "import sys\n"
        "import airflow\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        "from airflow.serialization.serialized_objects import DagSerialization\n"
        "bag = DagBag(sys.argv[1])\n"
        "assert not bag.import_errors, bag.import_errors\n"
        "dag = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags['post_modern_stack']))\n"
        "keys = {key.name for key, _ in dag.timetable.asset_condition.iter_assets()}\n"
        "assert keys == {'raw_shopping_events'}, keys\n"
        "load = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags['load_shopping_events']))\n"
        "assert [outlet.name for outlet in load.get_task('load_events').outlets] == ['landed_tables']\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(root / "dags")],
        env={**os.environ, "PYTHONPATH": str(root), "PMS_SCHEDULE": "on_load"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_dbt_model_is_a_task(bag: DagBag, root: Path) -> None:
    models = {path.stem for path in (root / "include" / "dbt" / "models").rglob("*.sql")}
    tasks = {
        task_id for task_id in bag.dags["post_modern_stack"].task_ids if task_id.startswith("transform.")
    }
    assert models
    for model in models:
        assert any(
            task.startswith(f"transform.{model}.")
            or task == f"transform.{model}"
            or task.startswith(f"transform.{model}_")
            for task in tasks
        ), model


PARSE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag

reached = []
def watch(event, arguments):
    if event in {"subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system"} or (
        event in {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}
    ):
        reached.append(f"{event} {arguments}")
sys.addaudithook(watch)

seconds, errors = [], {}
for _ in range(2):
    started = time.process_time()
    bag = DagBag(sys.argv[1])
    seconds.append(time.process_time() - started)
    errors |= bag.import_errors
print(json.dumps({"reached": reached, "seconds": seconds, "errors": errors, "modules": list(sys.modules)}))
"""


@pytest.fixture(scope="module")
def parsed(root: Path) -> dict[str, Any]:
    """What two parses of the DAG folder did, in an Airflow that runs nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(root / "dags")],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == {}
    return found


def test_parsing_imports_nothing_heavy_and_runs_no_dbt(parsed: dict[str, Any]) -> None:
    assert {"include.transform", "cosmos"} <= set(parsed["modules"])
    assert set(parsed["modules"]) & {*HEAVY, "dbt.cli.main", "duckdb", "snowflake.connector"} == set()


def test_parsing_starts_no_process_and_opens_no_connection(parsed: dict[str, Any]) -> None:
    assert parsed["reached"] == []


def test_second_parse_of_a_process_takes_well_under_a_second(parsed: dict[str, Any]) -> None:
    # Measured: 0.05 s of CPU. The rest is room for a slow machine.
    assert parsed["seconds"][1] < 0.5


def test_plugin_loads_its_pages_only_when_they_are_asked_for(root: Path) -> None:
    program = (
        "import runpy, sys\n"
        "runpy.run_path(sys.argv[1])\n"
        "assert not {'fastapi', 'include.pages.app'} & set(sys.modules)\n"
    )
    plugin = root / "plugins" / "post_modern_stack_plugin.py"
    done = subprocess.run(
        [sys.executable, "-c", program, str(plugin)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_file_under_plugins_but_the_one_that_registers(root: Path) -> None:
    assert [path.name for path in (root / "plugins").rglob("*.py")] == ["post_modern_stack_plugin.py"]


def test_snowflake_is_chosen_by_a_setting_alone(root: Path) -> None:
    program = (
        "import sys\n"
        "import airflow\n"
        "from include.dbt_profile import KeyPairProfileMapping as Key\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        "bag = DagBag(sys.argv[1])\n"
        "assert not bag.import_errors, bag.import_errors\n"
        "tasks = [t for t in bag.dags['post_modern_stack'].tasks if t.task_id.startswith('transform.')]\n"
        "assert tasks\n"
        "assert all(isinstance(t.profile_config.profile_mapping, Key) for t in tasks)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(root / "dags")],
        env={**os.environ, "PYTHONPATH": str(root), "PMS_WAREHOUSE": "snowflake"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_dbt_model_lies_before_the_gate_which_draws_its_tests(bag: DagBag) -> None:
    gate = bag.dags["post_modern_stack"].get_task("gate.gate_model")
    before = {task.task_id for task in gate.get_flat_relatives(upstream=True)}
    models = {name for name in bag.dags["post_modern_stack"].task_ids if name.endswith("_model_build")}
    assert models and models <= before

"""Params that carry SQL, templates, shell, foreign addresses or giant machines: refused before a start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.operators.choose_package import ChoosePackageOperator
from include.operators.guard import refuse_unknown_params
from include.operators.load_events import LoadEventsOperator
from include.operators.tear_down import PlanTearDownOperator
from include.run_params import run_params
from include.settings import Settings

INJECTIONS = (
    "2026-01-01'; drop table raw.loads; --",
    "{{ conn.aws_default.password }}",
    "$(curl 169.254.169.254)",
    "s3://somebody-elses/shop/",
    "../../etc/passwd",
    '", "vars": {"tenant": "other"}, "x": "',
    "\u202e<script>",
    "x\0y",
    "x" * 10_000,
)
FREE_TEXT = {"override_reason"}
TEXT = {
    "start_date": "2026-01-01",
    "end_date": "2026-02-01",
    "tenant": "demo-shop",
    "reuse_snapshot": "snap-0123456789abcdef",
    "architecture": "gru",
    "training_instance_type": "ml.m5.large",
}


def checked(name: str, value: object) -> Any:
    """The value as a run would get it, through Airflow's own validation."""
    params = ParamsDict(run_params(Settings()))
    params[name] = value
    return params.validate()[name]


@pytest.mark.parametrize("name", sorted(set(run_params(Settings())) - FREE_TEXT))
def test_no_field_takes_text_that_was_made_to_break_out(name: str) -> None:
    for injection in INJECTIONS:
        with pytest.raises(AirflowException, match="Invalid input for param"):
            checked(name, injection)


@pytest.mark.parametrize("name", TEXT)
def test_nothing_rides_on_a_value_that_is_allowed(name: str) -> None:
    assert checked(name, TEXT[name]) == TEXT[name]
    for tail in ("\n", " ", "\n--", "'", "/", "\0"):
        with pytest.raises(AirflowException, match="Invalid input for param"):
            checked(name, TEXT[name] + tail)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training_instance_type", "ml.p4d.24xlarge"),
        ("training_instance_type", "ml.g5.48xlarge"),
        ("training_instance_type", "ml.trn1.32xlarge"),
        ("training_instances", 1000),
        ("training_minutes", 100_000),
        ("tune_trials", 1_000_000),
        ("tune_parallel", 1000),
        ("epochs", 10**9),
        ("max_sessions", -1),
        ("max_sessions", True),
        ("max_cost", 0),
        ("max_cost", -1),
        ("shadow_minutes", 10**6),
        ("approval_hours", 10**6),
        ("override_reason", "x" * 501),
        ("deploy", 1),
    ],
)
def test_no_run_is_larger_than_the_form_allows(name: str, value: object) -> None:
    with pytest.raises(AirflowException, match="Invalid input for param"):
        checked(name, value)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (CheckPrerequisitesOperator, {"start_date": "2026-01-01", "end_date": "2026-01-02"}),
        (LoadEventsOperator, {"source": "nowhere"}),
        (ChoosePackageOperator, {}),
        (PlanTearDownOperator, {}),
    ],
)
def test_a_misspelt_param_starts_nothing(operator: type[Any], arguments: dict[str, Any]) -> None:
    with DAG("shop", schedule=None, params={"max_cost": 1.0, "epochs": 8}):
        task = operator(task_id="first", **arguments)
    given = SimpleNamespace(conf={"max_costs": 5, "epochs": 2, "xyz": 1})
    with pytest.raises(AirflowFailException) as refused:
        task.execute({"dag_run": given})
    assert "no such Param: max_costs (meant: max_cost?), xyz." in str(refused.value)
    assert "It has: epochs, max_cost." in str(refused.value)


@pytest.mark.parametrize("conf", [None, {}, {"epochs": 2}, {"openlineage": {"parentRunId": "1"}}])
def test_what_airflow_itself_gives_a_run_is_no_misspelling(conf: dict[str, Any] | None) -> None:
    with DAG("shop", schedule=None, params={"epochs": 8}):
        task = LoadEventsOperator(task_id="first", source="nowhere")
    given: Any = {"dag_run": SimpleNamespace(conf=conf)}
    refuse_unknown_params(task, given)

from __future__ import annotations

import re
from typing import Any

import pytest

from include.sagemaker.naming import (
    attempt_name,
    endpoint_config_name,
    ephemeral_endpoint_name,
    model_name,
    training_job_name,
)
from include.settings import Settings

JOB: dict[str, Any] = {
    "snapshot_id": "snap-1",
    "code_sha": "c" * 64,
    "hyperparameters": {"epochs": 3, "architecture": "gru"},
    "image": "training:2.21",
    "instance_type": "ml.g5.xlarge",
}
MODEL: dict[str, Any] = {
    "job_name": "pms-1",
    "image": "serving:2.20",
    "model_uri": "s3://b/m.tar.gz",
    "environment": {"A": "1"},
    "role_arn": "arn:role",
    "network": {"Subnets": ["subnet-1"]},
}
CONFIG: dict[str, Any] = {"content": {"KmsKeyId": "key"}}
EPHEMERAL: dict[str, Any] = {"endpoint": "shop", "job_name": "pms-1", "run_id": "manual__1"}
NAMES = [(training_job_name, JOB), (model_name, MODEL), (endpoint_config_name, CONFIG)]
CHANGES = {
    "snapshot_id": "snap-2",
    "code_sha": "d" * 64,
    "hyperparameters": {"epochs": 4, "architecture": "gru"},
    "environment": {"A": "2"},
    "network": {"Subnets": ["subnet-2"]},
    "content": {"KmsKeyId": "other"},
}


@pytest.mark.parametrize(("name", "inputs"), NAMES, ids=lambda value: getattr(value, "__name__", ""))
def test_names_are_stable_short_and_legal(name: Any, inputs: dict[str, Any]) -> None:
    assert name(**inputs) == name(**inputs)
    assert re.fullmatch(r"pms-[0-9a-f]{12}", name(**inputs))


@pytest.mark.parametrize(
    ("name", "inputs", "changed"),
    [(name, inputs, key) for name, inputs in NAMES for key in inputs],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_every_input_changes_the_name(name: Any, inputs: dict[str, Any], changed: str) -> None:
    other = CHANGES.get(changed, f"{inputs[changed]}-other")
    assert name(**{**inputs, changed: other}) != name(**inputs)


@pytest.mark.parametrize("changed", EPHEMERAL)
def test_every_run_tests_every_model_on_an_endpoint_of_its_own(changed: str) -> None:
    name = ephemeral_endpoint_name(**EPHEMERAL)
    assert re.fullmatch(r"shop-[0-9a-f]{12}", name)
    assert name == ephemeral_endpoint_name(**EPHEMERAL)
    assert name != ephemeral_endpoint_name(**{**EPHEMERAL, changed: "other"})


def test_name_of_an_ephemeral_endpoint_fits_sagemaker_and_the_role_that_goes_by_its_beginning() -> None:
    longest = "s" * 50
    name = ephemeral_endpoint_name(Settings(endpoint_name=longest).endpoint_name, "pms-1", "manual__1")
    assert name.startswith(f"{longest}-")
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name)


def test_known_name_never_changes() -> None:
    # A new value here means that every retry across an upgrade trains a second model.
    assert training_job_name(**JOB) == "pms-d7480f3c5893"


def test_several_instances_learn_something_else() -> None:
    assert training_job_name(**JOB, instances=1) == training_job_name(**JOB)
    assert training_job_name(**JOB, instances=2) != training_job_name(**JOB)


@pytest.mark.parametrize(
    "hyperparameters",
    [{"architecture": "gru", "epochs": 3}, {"epochs": "3", "architecture": "gru"}],
    ids=["another order", "numbers as text"],
)
def test_same_hyperparameters_are_the_same_job(hyperparameters: dict[str, object]) -> None:
    assert training_job_name(**{**JOB, "hyperparameters": hyperparameters}) == training_job_name(**JOB)


def test_attempts_are_numbered_from_the_second() -> None:
    assert [attempt_name("pms-1", attempt) for attempt in (1, 2, 3)] == ["pms-1", "pms-1-2", "pms-1-3"]

"""Credentials that have expired, that nobody has, or that may not: no retry, no job, no secret told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import botocore.session
import pytest
from airflow.sdk.exceptions import AirflowFailException
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sts.models import sts_backends

from include.operators import train_model
from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.operators.train_model import TrainModelOperator
from tests.local.guarded import AIRFLOW, Guarded, guarding
from tests.local.test_aws_roles import SNAPSHOT
from tests.operators.conftest import LOADER

SECRET = "canarySecretAccessKey"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarding(tmp_path_factory.mktemp("guarded")) as emulator:
        yield emulator


def expired(guarded: Guarded) -> dict[str, str]:
    keys = guarded.assume(AIRFLOW)
    sessions = sts_backends[DEFAULT_ACCOUNT_ID]["aws"]
    session = sessions.get_assumed_role_from_access_key(keys["aws_access_key_id"])
    session.expiration = datetime.utcnow() - timedelta(seconds=1)
    return keys


def unknown(guarded: Guarded) -> dict[str, str]:
    return {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": SECRET}


def denied(guarded: Guarded) -> dict[str, str]:
    name = f"nobody-{uuid4()}"
    trust = {"Version": "2012-10-17", "Statement": []}
    guarded.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    return guarded.assume(name)


def train() -> Any:
    operator = TrainModelOperator(
        task_id="train",
        snapshot=SNAPSHOT.to_xcom(),
        hyperparameters={},
        instance_type="ml.m5.large",
        max_runtime_seconds=60,
    )
    return operator.execute({})  # type: ignore[typeddict-item]


def check() -> Any:
    dates = {"start_date": "2026-01-01", "end_date": "2026-02-01"}
    operator = CheckPrerequisitesOperator(task_id="check", **dates, reuse_snapshot=SNAPSHOT.snapshot_id)
    return operator.execute({})  # type: ignore[typeddict-item]


@pytest.mark.parametrize("start", [train, check])
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (expired, "Expired|expired|400"),
        (unknown, "security token included in the request is invalid|InvalidAccessKeyId|403"),
        (denied, "not authorized to perform|403"),
    ],
)
def test_it_fails_at_once_and_tells_no_secret(
    guarded: Guarded,
    start: Callable[[], Any],
    keys: Callable[[Guarded], dict[str, str]],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "train.py").write_text("")
    monkeypatch.setattr(train_model, "SOURCE", tmp_path)
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)
    given = keys(guarded)
    extra = {"endpoint_url": guarded.url, "region_name": "us-east-1"}
    if "aws_session_token" in given:
        extra["aws_session_token"] = given["aws_session_token"]
    connection = {"conn_type": "aws", "login": given["aws_access_key_id"], "extra": extra}
    connection["password"] = given["aws_secret_access_key"]
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    caplog.set_level(logging.DEBUG, logger="airflow")
    with pytest.raises(AirflowFailException, match=said) as caught:
        start()
    told = f"{caught.value}{caplog.text}{''.join(capsys.readouterr())}"
    for secret in (given["aws_secret_access_key"], given.get("aws_session_token", SECRET)):
        assert secret not in told
    assert guarded.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []

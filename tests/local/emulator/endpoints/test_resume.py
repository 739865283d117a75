"""Endpoints of an emulator that starts again: while it does, and where one of them cannot come back."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from include.local.emulator.endpoints.operations import Endpoints
from include.local.emulator.endpoints.state import Endpoint
from include.local.emulator.resources.models import Models
from include.local.emulator.server import Emulator
from include.local.emulator.serving.fleets import Launcher
from include.local.emulator.wire.faults import Faults
from tests.local.cloud import BUCKET, Cloud, clients_of


@contextmanager
def running(state: Path, model_server: Path) -> Iterator[Cloud]:
    command = [sys.executable, str(model_server)]
    with Emulator(state, sys.executable, server_command=command, stop_grace_seconds=1) as emulator:
        yield Cloud(emulator.url, state, clients_of(emulator.url))


@pytest.fixture
def names(tmp_path: Path, fake_model_server: Path) -> list[str]:
    """Two endpoints of an emulator that has ended."""
    with running(tmp_path, fake_model_server) as cloud:
        cloud.s3.create_bucket(Bucket=BUCKET)
        return [cloud.endpoint(behaviour) for behaviour in ("one", "two")]


def test_requests_wait_while_the_emulator_starts(
    tmp_path: Path, fake_model_server: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = Endpoints.resume
    with ThreadPoolExecutor(2) as pool:
        answers: list[Any] = []

        def slow(self: Endpoints) -> None:
            cloud = Cloud(self._url, tmp_path, clients_of(self._url))
            answers.append(pool.submit(cloud.invoke, names[0]))
            answers.append(pool.submit(cloud.sagemaker.delete_endpoint, EndpointName=names[1]))
            threading.Event().wait(1)
            assert not any(answer.done() for answer in answers)
            resume(self)

        monkeypatch.setattr(Endpoints, "resume", slow)
        with running(tmp_path, fake_model_server):
            invoked, deleted = (answer.result(30) for answer in answers)
    assert invoked["model"] == "one"
    assert deleted["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_an_endpoint_that_cannot_come_back_leaves_the_others_alone(
    tmp_path: Path, fake_model_server: Path, names: list[str]
) -> None:
    path = tmp_path / "sagemaker" / "endpoint" / "us-east-1" / f"{names[0]}.json"
    spoilt = {"AutoRollbackConfiguration": {"Alarms": [{}]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "last_deployment": spoilt}))
    with running(tmp_path, fake_model_server) as cloud:
        assert cloud.invoke(names[1])["model"] == "two"
        failed = cloud.sagemaker.describe_endpoint(EndpointName=names[0])
        assert failed["EndpointStatus"] == "Failed"
        assert failed["FailureReason"].startswith("InternalServerError: KeyError")
        cloud.sagemaker.delete_endpoint(EndpointName=names[0])


def test_what_the_end_cuts_short_is_not_written(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1"
    endpoints = Endpoints(url, tmp_path, Models(url, None), [], 1, 1, tmp_path / "state", Faults())
    endpoints.store.add(endpoint := Endpoint("e", "us-east-1", {}))
    endpoints._run(
        endpoint, lambda each: endpoints._workers.closing.wait() and each.settle("Failed", "cut short")
    )
    endpoints.close()
    assert "cut short" not in next((tmp_path / "state").rglob("e.json")).read_text()


def test_artefacts_that_are_gone_can_be_removed_again(tmp_path: Path) -> None:
    launcher = Launcher("", tmp_path, Models("", None), [], 1, 1, threading.Event())
    launcher.remove("us-east-1", "gone", before=3)

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from include.local.emulator.server import Emulator
from tests.local.cloud import BUCKET, MODEL_SERVER, Cloud, clients_of


@pytest.fixture(scope="session")
def fake_model_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("server") / "server.py"
    path.write_text(MODEL_SERVER, encoding="utf-8")
    return path


@pytest.fixture(scope="module")  # ended with the module: moto allows one emulator a process
def cloud(tmp_path_factory: pytest.TempPathFactory, fake_model_server: Path) -> Iterator[Cloud]:
    state_dir = tmp_path_factory.mktemp("state")
    emulator = Emulator(
        state_dir,
        sys.executable,
        server_command=[sys.executable, str(fake_model_server)],
        startup_seconds=6,
        stop_grace_seconds=1,
        faults=True,
    )
    with emulator:
        cloud = Cloud(emulator.url, state_dir, clients_of(emulator.url))
        cloud.s3.create_bucket(Bucket=BUCKET)
        yield cloud


@pytest.fixture
def faults(cloud: Cloud) -> Iterator[Callable[..., None]]:
    """Sets fault rules, which end with the test."""

    def add(*rules: dict[str, Any]) -> None:
        cloud.set_faults("POST", list(rules))

    yield add
    cloud.set_faults("DELETE")

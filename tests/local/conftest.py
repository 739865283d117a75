from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local.cloud import MODEL_SERVER, Cloud, started


@pytest.fixture(scope="session")
def fake_model_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("server") / "server.py"
    path.write_text(MODEL_SERVER, encoding="utf-8")
    return path


@pytest.fixture(scope="module")  # ended with the module: moto allows one emulator a process
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with started(tmp_path_factory.mktemp("state")) as cloud:
        yield cloud


@pytest.fixture
def faults(cloud: Cloud) -> Iterator[Callable[..., None]]:
    """Sets fault rules, which end with the test."""

    def add(*rules: dict[str, Any]) -> None:
        cloud.set_faults("POST", list(rules))

    yield add
    cloud.set_faults("DELETE")

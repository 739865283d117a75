"""What the faults' tests share: settings, an emulator that trains in the ML environment, and a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.poison import Poisoned, whole_pipe
from tests.faults.trainings import training as training
from tests.local.cloud import Cloud, started
from tests.local.conftest import faults as faults
from tests.local.serving import serving
from tests.ml.jobs import write_planted
from tests.operators.conftest import (
    alarms as alarms,
)
from tests.operators.conftest import (
    approval as approval,
)
from tests.operators.conftest import (
    aws as aws,
)
from tests.operators.conftest import (
    claims as claims,
)
from tests.operators.conftest import (
    naps as naps,
)
from tests.operators.conftest import (
    sagemaker as sagemaker,
)
from tests.operators.conftest import (
    settings as settings,
)
from tests.operators.conftest import (
    trained as trained,
)
from tests.operators.conftest import (
    wanted as wanted,
)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot whose every next item is certain."""
    return write_planted(tmp_path_factory.mktemp("planted") / "snapshot")


@pytest.fixture(scope="module")  # ended with the module: moto allows one emulator a process
def cloud(ml_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """An emulator whose jobs really train, and whose endpoints run a small fake model server."""
    with started(tmp_path_factory.mktemp("state"), ml_python) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def poisoned(ml_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    """A shop whose products have poisoned names, taken through load, dbt, export and training."""
    return whole_pipe(tmp_path_factory.mktemp("poisoned"), ml_python)


@pytest.fixture(scope="session")
def shop_server(ml_python: Path, poisoned: Poisoned) -> Iterator[int]:
    """The port of the model server with that shop's model."""
    with serving(ml_python, poisoned.job / "model") as port:
        yield port

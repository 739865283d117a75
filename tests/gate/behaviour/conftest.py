"""Runs in the ML environment. The room is flat, so its folder goes on the path, as the script does it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "include" / "gate" / "behaviour"))

import numpy as np  # after the path
import pyarrow as pa
import pyarrow.parquet as pq

from artefact import Artefact
from include.gate.suite import measure
from tests.gate.behaviour import artefacts
from tests.gate.evaluations import SKUS, Row, build, write

Checks = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the unpacked package of a model by its name, made once."""
    root = tmp_path_factory.mktemp("models")

    def make(name: str) -> Path:
        if not (root / name).exists():
            artefacts.save(name, root / name)
        return root / name

    return make


@pytest.fixture(scope="session")
def answered(models: Callable[[str], Path]) -> tuple[list[Row], Row]:
    """Test queries with the lists of the model named "good", as its training job would leave them."""
    rows, counts = build(queries=300)
    answers = Artefact(models("good")).answer([row["session"] for row in rows])
    for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        row |= {"predictions": answer.skus, "scores": answer.scores}
        row |= {"hour": place % 24, "first_action": "add" if place % 3 else "detail"}
    return rows, counts


@pytest.fixture
def checks(tmp_path: Path) -> Callable[..., Checks]:
    """Writes an evaluation, runs every check on it and returns them by name."""

    def run(rows: list[Row], counts: Row, items: dict[str, pa.Array] | None = None, **how: Any) -> Checks:
        folder = write(tmp_path / "evaluation", rows, counts)
        if items is not None:
            table = pq.read_table(folder / "items.parquet")
            for name, column in items.items():
                table = table.append_column(name, column)
            pq.write_table(table, folder / "items.parquet")
        return {check["name"]: check for check in measure(folder, **how)["checks"]}

    return run


@pytest.fixture(scope="session")
def ring() -> pa.Array:
    """Vectors of products on a circle: neighbours by number are near, those opposite are far."""
    angle = 2 * np.pi * np.arange(len(SKUS)) / len(SKUS)
    return pa.array(np.stack([np.cos(angle), np.sin(angle)], axis=1).tolist(), pa.list_(pa.float32()))

"""No disk or memory left while a snapshot is exported or a model trained: no manifest, no model, one line."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from include.operators.export_snapshot import ExportSnapshotOperator
from include.settings import Settings
from include.warehouse.base import WarehouseUnavailableError
from tests.local.cloud import BUCKET, Cloud
from tests.ml.jobs import ROOM
from tests.operators.emulated import connect
from tests.shops import transformed_shop

KB, MB = 1024, 1024**2


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """As on a full disk: no file of this process may grow beyond that, and no write kills it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _export() -> dict[str, Any]:
    operator = ExportSnapshotOperator(task_id="export", start_date="2026-01-01", end_date="2026-01-21")
    return operator.execute({})  # type: ignore[arg-type,typeddict-item]


@pytest.mark.parametrize("short_of", ["memory", "disk"])
def test_an_export_leaves_no_manifest_and_a_later_try_ends_it(
    cloud: Cloud, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_of: str
) -> None:
    settings = connect(cloud, monkeypatch, prefix=f"short-of-{short_of}")
    extra: dict[str, Any] = {"temp_directory": str(tmp_path / "spilled"), "threads": "1"}
    connection = {"conn_type": "duckdb", "host": str(transformed_shop(tmp_path))}
    variable = f"AIRFLOW_CONN_{settings.warehouse_conn_id.upper()}"
    # Of two megabytes DuckDB spills to disk; of less it cannot work at all.
    limits = extra | {"memory_limit": "1MB" if short_of == "memory" else "2MB"}
    monkeypatch.setenv(variable, json.dumps(connection | {"extra": limits}))
    with (
        longest_file(8 * KB if short_of == "disk" else 100 * MB),
        pytest.raises(WarehouseUnavailableError, match=f"^DuckDB is out of {short_of}: ") as caught,
    ):
        _export()
    assert "\n" not in str(caught.value)
    assert _keys(cloud, settings.prefix) == []

    monkeypatch.setenv(variable, json.dumps(connection))
    snapshot = _export()
    assert f"{str(snapshot['uri']).removeprefix(f's3://{BUCKET}/')}manifest.json" in _keys(
        cloud, settings.prefix
    )


def _keys(cloud: Cloud, prefix: str) -> list[str]:
    found = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/snapshots/")
    return [entry["Key"] for entry in found.get("Contents", [])]


# Learns once, and exports and evaluates for each shortage. What is too much is asked for in earnest.
TRAIN = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import tensorflow as tf
import train

learned = []

class LearnsOnce(train.Learner):
    def learn(self):
        learned[:] = learned or [super().learn()]
        return learned[0]

train.Learner = LearnsOnce
NO_LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)
export, score = train.save, train.score_test_set

def on_a_full_disk(server, path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, NO_LIMIT[1]))
    try:
        export(server, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, NO_LIMIT)

SHORTAGES = {
    "disk": ("save", on_a_full_disk),
    "memory of numpy": ("score_test_set", lambda *_: np.zeros(1 << 50)),
    "memory of tensorflow": ("score_test_set", lambda *_: tf.zeros([1 << 45])),
}
for name, (where, shortage) in SHORTAGES.items():
    train.save, train.score_test_set = export, score
    setattr(train, where, shortage)
    out = os.path.join(sys.argv[3], name)
    os.environ |= {
        "SM_CHANNEL_SNAPSHOT": sys.argv[2], "SM_MODEL_DIR": out + "/model",
        "SM_OUTPUT_DATA_DIR": out + "/data", "SM_OUTPUT_DIR": out + "/output",
    }
    assert train.main(["--epochs", "1", "--embedding-dim", "8", "--refit", "off"]) == 1, name
"""
REASONS = {
    "disk": "out of disk: give the job a larger volume. ",
    "memory of numpy": "out of memory: take an instance type with more of it, ",
    "memory of tensorflow": "out of memory: take an instance type with more of it, ",
}


def test_training_leaves_no_model_and_says_what_helps(ml_python: Path, planted: Path, tmp_path: Path) -> None:
    command = [ml_python, "-c", TRAIN, ROOM, planted, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, reason in REASONS.items():
        told = (tmp_path / name / "output" / "failure").read_text()
        assert told.startswith(reason)
        assert "\n" not in told and "Traceback" not in told
        left = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert [path.name for path in left] == ["failure"]

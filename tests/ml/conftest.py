"""Tiny snapshots with a planted answer; the ML room is flat, so its folder goes on the path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.ml.jobs import ODD_SKUS, ROOM, chains, run_train, start_train, write_planted, write_snapshot

sys.path.insert(0, str(ROOM))
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # after the path
import pyarrow as pa

from sessions import Sessions, Vocabulary


@pytest.fixture(scope="session")
def make_snapshot() -> Callable[..., Path]:
    return write_snapshot


@pytest.fixture(scope="session")
def make_chains() -> Callable[..., list[list[str]]]:
    return chains


@pytest.fixture(scope="session")
def make_sessions() -> Callable[[list[list[int]]], Sessions]:
    def make(rows: list[list[int]]) -> Sessions:
        ids = np.array([value for row in rows for value in row], np.int32)
        offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
        return Sessions(pa.array([str(number) for number in range(len(rows))]), offsets, ids, ids)

    return make


@pytest.fixture(scope="session")
def make_vocabulary() -> Callable[[Sessions, int], Vocabulary]:
    def make(sessions: Sessions, products: int) -> Vocabulary:
        skus = np.array([f"p{number}" for number in range(1, products + 1)], object)
        return Vocabulary(skus, np.bincount(sessions.ids, minlength=products + 1)[1:].astype(np.int64))

    return make


@pytest.fixture(scope="session")
def odd_skus() -> list[str]:
    return ODD_SKUS


@pytest.fixture(scope="session")
def room() -> Path:
    return ROOM


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot whose every next item is certain; the test set also holds a product unknown to training."""
    return write_planted(tmp_path_factory.mktemp("planted") / "snapshot")


@pytest.fixture(scope="session")
def train_py() -> Callable[..., subprocess.CompletedProcess[str]]:
    return partial(run_train, sys.executable)


@pytest.fixture(scope="session")
def started_train_py() -> Callable[..., subprocess.Popen[str]]:
    return partial(start_train, sys.executable)


@pytest.fixture(scope="session")
def trained(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and standard output of a job on the planted snapshot."""
    out = tmp_path_factory.mktemp("trained")
    arguments = (
        "--epochs",
        "8",
        "--embedding-dim",
        "32",
        "--batch-size",
        "16",
        "--model_dir",
        "s3://unused/",
    )
    done = run_train(sys.executable, planted, out, *arguments)
    assert done.returncode == 0, done.stderr
    return out, done.stdout

"""Vocabulary and weights of different models, whose sizes agree: refused at load, before any answer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from include.local import model_server
from tests.ml.jobs import chains, run_several, write_snapshot

Split = list[list[str]]


def _another_catalogue(sessions: Split) -> Split:
    return [[f"other-{sku}" for sku in session] for session in sessions]


@pytest.fixture(scope="module")
def exports(ml_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders: two catalogues of one size, and one of them learned from another seed."""
    root = tmp_path_factory.mktemp("exports")
    splits = [chains(60, 1), chains(12, 2), chains(12, 3)]
    one = write_snapshot(root / "snapshot", *splits)
    other = write_snapshot(root / "other snapshot", *map(_another_catalogue, splits))
    options = ["--epochs", "1", "--embedding-dim", "8", "--refit", "off"]
    jobs = {"one": (one, options), "other": (other, options), "retrained": (one, [*options, "--seed", "7"])}
    assert run_several(ml_python, *((s, root / name, o) for name, (s, o) in jobs.items())) == [0] * len(jobs)
    return {name: root / name / "model" for name in jobs}


# Each folder as Python loads it (our model server, the evaluation, the gate), and as TensorFlow Serving does:
# variables are restored in a session, then the graph's own initialiser runs.
LOAD = """
import sys
import tensorflow as tf

def restored(folder):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], folder)

for load in (tf.saved_model.load, restored):
    for folder in sys.argv[1:]:
        try:
            load(folder)
            print("loaded")
        except Exception as error:
            print(str(error).replace(chr(10), " "))
"""
WORDS = "vocabulary and weights are of different models"


def _swapped(model: Path, weights: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    shutil.rmtree(folder / "1" / "variables")
    shutil.copytree(weights / "1" / "variables", folder / "1" / "variables")
    return folder


def test_files_of_two_models_are_refused_at_load(
    ml_python: Path, exports: dict[str, Path], tmp_path: Path
) -> None:
    pairs = [("one", "other"), ("other", "one"), ("one", "retrained")]
    mixed = [_swapped(exports[model], exports[of], tmp_path / f"{model} {of}") for model, of in pairs]
    folders = [*exports.values(), *mixed]
    command = [ml_python, "-c", LOAD, *(folder / "1" for folder in folders)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    told = done.stdout.splitlines()
    for outcomes in (told[: len(folders)], told[len(folders) :]):
        assert outcomes[: len(exports)] == ["loaded"] * len(exports)
        assert all(WORDS in outcome for outcome in outcomes[len(exports) :])


def test_an_endpoint_never_serves_them(ml_python: Path, exports: dict[str, Path], tmp_path: Path) -> None:
    folder = _swapped(exports["one"], exports["other"], tmp_path / "mixed")
    command = [ml_python, model_server.__file__, "--model-dir", str(folder), "--port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert WORDS in done.stderr

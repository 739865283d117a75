"""SageMaker script mode entry point: snapshot in, SavedModel and evaluation out; the same from a shell.

Folders come from `SM_CHANNEL_SNAPSHOT`, `SM_MODEL_DIR`, `SM_OUTPUT_DATA_DIR` and `SM_OUTPUT_DIR` (each with
the container's default); checkpoints go to `PMS_CHECKPOINT_DIR`, or to `/opt/ml/checkpoints` where SageMaker
has made it. A failure exits with status 1, its reason in `$SM_OUTPUT_DIR/failure`, and leaves no model:
training that diverges or a snapshot that is not fit for use fails before anything is exported. SIGTERM exits
with status 143 and leaves a checkpoint; the same command then ends as if nothing had happened.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # the variables above are read at import
import numpy as np
import pyarrow as pa
import scipy
import tensorflow as tf

import accelerate
import checkpoints
import cluster as clusters
import fit
import queries as protocol
import sessions as snapshots
import tracking
from export import Exported, Server, save
from learning import Learned, Learner, blend_report, build_network
from results import Scored, score_test_set, smoke_cases, write_evaluation, write_json
from shortages import shortage
from validate import Choice

_TEST_QUERIES = 50_000
_CHECKPOINTS = Path("/opt/ml/checkpoints")
_TERMINATED = 143  # what a shell reports of a process that SIGTERM ended


class UsageError(Exception):
    """The command line is wrong."""


_EXPECTED = (snapshots.SnapshotError, fit.DivergedError, tracking.TrackingError, UsageError)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


@dataclass(frozen=True)
class Folders:
    """Where SageMaker puts things in and takes things out."""

    snapshot: Path
    model: Path
    output_data: Path
    output: Path
    checkpoints: Path | None = None

    @classmethod
    def from_environment(cls) -> Folders:
        """Reads the `SM_*` variables; the container's own paths are the defaults."""
        kept = os.environ.get("PMS_CHECKPOINT_DIR") or (_CHECKPOINTS if _CHECKPOINTS.is_dir() else None)
        return cls(
            Path(os.environ.get("SM_CHANNEL_SNAPSHOT", "/opt/ml/input/data/snapshot")),
            Path(os.environ.get("SM_MODEL_DIR", "/opt/ml/model")),
            Path(os.environ.get("SM_OUTPUT_DATA_DIR", "/opt/ml/output/data")),
            Path(os.environ.get("SM_OUTPUT_DIR", "/opt/ml/output")),
            Path(kept) if kept else None,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, evaluates and exports; returns the exit status."""
    folders = Folders.from_environment()
    try:
        run(parse(argv), folders)
    except fit.StoppedError as stopped:
        print(f"stopped: {stopped}", file=sys.stderr, flush=True)
        return _TERMINATED
    except Exception as error:
        reason = str(error) if isinstance(error, _EXPECTED) else shortage(error) or traceback.format_exc()
        print(f"failed: {reason}", file=sys.stderr, flush=True)
        # First: half a model is none, and a full disk has then room for the reason.
        _discard(folders)
        _leave_reason(folders, reason)
        return 1
    return 0


def _discard(folders: Folders) -> None:
    for half in (folders.model / "1", folders.model / "code", folders.output_data / "evaluation"):
        shutil.rmtree(half, ignore_errors=True)
    (folders.model / "model.json").unlink(missing_ok=True)


def _leave_reason(folders: Folders, reason: str) -> None:
    # The container's contract: SageMaker shows what is in this file as FailureReason.
    try:
        folders.output.mkdir(parents=True, exist_ok=True)
        (folders.output / "failure").write_text(reason, encoding="utf-8")
    except OSError as error:
        print(f"the reason is in this log alone: {error}", file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the hyper-parameters.

    Raises:
        UsageError: An argument is unknown or out of bounds.
    """
    parser = _Parser(description="Trains a next-item model on a snapshot.")
    parser.add_argument("--epochs", type=_whole(1, 1000), default=6)
    parser.add_argument("--batch-size", type=_whole(1, 65_536), default=256)
    parser.add_argument("--embedding-dim", type=_whole(2, 2048), default=64)
    parser.add_argument("--learning-rate", type=_number(0.0), default=0.015)
    parser.add_argument("--dropout", type=_number(0.0, 0.95), default=0.25)
    parser.add_argument("--max-length", type=_whole(1, protocol.WINDOW), default=50)
    parser.add_argument("--seed", type=_whole(0, 2**31 - 1), default=42)
    parser.add_argument("--architecture", choices=("gru", "attention"), default="gru")
    parser.add_argument("--shortcuts", type=_whole(0, 10), default=3)
    parser.add_argument("--label-smoothing", type=_number(0.0, 0.9), default=0.1)
    parser.add_argument("--negatives", type=_whole(1, 65_536), default=2048)
    parser.add_argument("--full-softmax-products", type=_whole(0, 10_000_000), default=8_000)
    parser.add_argument(
        "--catalog", choices=("on", "off"), default="on", help="category and price of products, if known"
    )
    parser.add_argument(
        "--refit", choices=("on", "off"), default="on", help="learn from validation sessions, too"
    )
    parser.add_argument("--embedding-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--top-k", type=_whole(20, 50), default=50)
    parser.add_argument("--max-seconds", type=_number(0.0), default=0.0, help="0: no limit")
    parser.add_argument("--precision", choices=accelerate.PRECISIONS, default="auto")
    parser.add_argument("--xla", choices=("off", "on"), default="off")
    parser.add_argument(
        "--checkpoint-seconds", type=_number(0.0), default=60.0, help="between two in an epoch"
    )
    parser.add_argument("--tracking", choices=tracking.SERVICES, default="none")
    # The TensorFlow container adds it; SM_MODEL_DIR is what counts.
    parser.add_argument("--model_dir", "--model-dir", dest="model_dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    del arguments.model_dir
    return arguments


def run(arguments: argparse.Namespace, folders: Folders) -> None:
    """Runs one training job.

    Raises:
        snapshots.SnapshotError: The snapshot is not fit for use.
        fit.DivergedError: Training failed; nothing was exported.
    """
    cluster = clusters.join()  # before TensorFlow does anything else
    keras.utils.set_random_seed(arguments.seed)
    accelerate.prepare(arguments.xla == "on")
    chosen = arguments.tracking if cluster.is_chief else "none"
    tracker = tracking.start(chosen, os.environ.get("TRAINING_JOB_NAME", ""), _note)
    done = False
    try:
        _run(arguments, folders, cluster, tracker)
        done = True
    finally:
        tracker.end(done)


def _run(
    arguments: argparse.Namespace, folders: Folders, cluster: clusters.Cluster, tracker: tracking.Tracker
) -> None:
    started = time.monotonic()
    corpus = snapshots.load(folders.snapshot)
    products = len(corpus.vocabulary)
    _say("read", train=len(corpus.train), validation=len(corpus.validation), test=len(corpus.test))
    _say("vocabulary", products=products, interactions=len(corpus.train.ids))
    if cluster.shares.total > 1:
        _say("cluster", workers=cluster.workers, replicas=cluster.shares.total, chief=cluster.is_chief)
    tracker.parameters({**vars(arguments), "snapshot_id": corpus.manifest.get("snapshot_id")})

    learned = Learner(
        arguments,
        corpus,
        cluster,
        folders.checkpoints,
        versions(),
        _reporter(tracker),
        _announce_choice,
        _note,
    ).learn()
    if learned is None:
        _note("the chief goes on alone")
        return
    _say("learned", epochs=learned.epochs, seconds=learned.seconds)
    training = {
        "sessions": len(learned.sessions),
        "interactions": len(learned.sessions.ids),
        "products": products,
        "epochs": learned.epochs,
        "seconds": round(max(learned.seconds, time.monotonic() - started), 3),
    }
    exported = export_model(arguments, folders, corpus, learned)
    scored = score_test_set(exported, corpus, protocol.build(corpus.test, _TEST_QUERIES, arguments.seed))
    report = {
        **scored.summary(products),
        "history": learned.history,
        "blend": blend_report(learned.choice),
        "seed": arguments.seed,
        "versions": versions(),
        "hyperparameters": vars(arguments),
        "training": training,
    }
    smoke = smoke_cases(exported, scored)
    write_evaluation(folders.output_data / "evaluation", corpus, scored, report, smoke)
    tracker.metrics({f"test_{name}": value for name, value in report["model"].items()})
    _announce(report, scored, started)


def _reporter(tracker: tracking.Tracker) -> Callable[[str, int, checkpoints.Epoch], None]:
    def report(phase: str, epochs: int, row: checkpoints.Epoch) -> None:
        values = {name: value for name, value in row.items() if name != "epoch" and value is not None}
        _say(f"{phase}={row['epoch']}/{epochs}", **values)
        if phase == "epoch":
            tracker.metrics(values, int(row["epoch"] or 0))

    return report


def _announce_choice(choice: Choice) -> None:
    # The last word on validation, of the blend and before the refit: a tuning job compares its trials by it.
    _say("blend", **choice.shares, **choice.reached)


def export_model(
    arguments: argparse.Namespace,
    folders: Folders,
    corpus: snapshots.Corpus,
    learned: Learned,
) -> Exported:
    """Writes the model folder and returns the export read back from it."""
    version, recommender = folders.model / "1", learned.recommender
    if arguments.embedding_dtype != "float32":
        stored = build_network(arguments, recommender.products, arguments.embedding_dtype)
        recommender.next_item.copy_to(stored)
        recommender.next_item = stored
    save(Server(recommender, corpus.vocabulary, arguments.max_length, arguments.top_k), version)
    code = folders.model / "code"
    code.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("inference.py"), code / "inference.py")
    write_json(
        folders.model / "model.json",
        {
            "snapshot_id": corpus.manifest.get("snapshot_id"),
            "vocabulary": {"size": len(corpus.vocabulary), "sha256": corpus.vocabulary.sha256()},
            "hyperparameters": vars(arguments),
            "blend": blend_report(learned.choice),
            "versions": versions(),
        },
    )
    _say("exported", path=version)
    return Exported(version)


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "scipy": scipy.__version__,
    }


def _announce(report: dict[str, Any], scored: Scored, started: float) -> None:
    for name, values in {**report["baselines"], "model": report["model"]}.items():
        _say(name, **values)
    _say("done", queries=len(scored.queries), seconds=time.monotonic() - started)


def _say(label: str, **values: object) -> None:
    shown = [
        f"{key}={f'{value:.4f}' if isinstance(value, float) else value}" for key, value in values.items()
    ]
    print(" ".join([label, *shown]), flush=True)


def _note(text: str) -> None:
    print(text, flush=True)


def _whole(low: int, high: int) -> Any:
    def parse_whole(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}")
        return value

    return parse_whole


def _number(low: float, high: float = sys.float_info.max) -> Any:
    def parse_number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:  # NaN fails here too
            raise argparse.ArgumentTypeError(f"must be from {low:g} to {high:g}")
        return value

    return parse_number


if __name__ == "__main__":
    sys.exit(main())

"""Latency of the served model over HTTP beside two other ways, each behind the emulator's model server.

Makes a shop of 57,483 products with SKUs of 64 hexadecimal digits, trains the network on it by `train.py` for
half a minute, its embedding exported as float32 and as bfloat16, and starts the model server on each artefact
as the emulator does. The peers, in `bench/serving_peers`, are served by the same server from their own
`code/inference.py`. One process generates the load (`bench.load`), on the same machine. Sides take turns.

The last row asks an endpoint of the emulator by InvokeEndpoint, as `boto3` does but for its signing.

`make bench-serving`, or `python -m bench.serving --build FOLDER` to keep what was trained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from include.local import model_server
from include.local.emulator.server import Emulator
from include.local.emulator.serving.model_server import ModelServer
from include.local.places import ML_PYTHON, ROOT

PRODUCTS = 57_483
SESSIONS = {"train": 40_000, "validation": 100, "test": 2_000}
RATES = {
    "float32": (200, 1000),
    "bfloat16": (200, 1000),
    "predict": (5, 200),
    "vmis": (200, 1000),
    "endpoint": (50, 200),
}
NAMES = {
    "float32": "this model",
    "bfloat16": "this model, `--embedding-dtype bfloat16`",
    "predict": "LSTM, `model.predict` and a sort",
    "vmis": "VMIS-kNN in Python",
    "endpoint": "this model, through the emulator's InvokeEndpoint",
}
# Artefacts of a side of their own; the endpoint's is the first one.
SIDES = tuple(side for side in RATES if side != "endpoint")
_K = 20
_PEERS = Path(__file__).with_name("serving_peers")


def invent(seed: int) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    """Returns SKUs and the sessions of each split as places in them; every product is in training."""
    rng = np.random.default_rng(seed)
    skus = np.array([hashlib.sha256(str(number).encode()).hexdigest() for number in range(PRODUCTS)])
    covering = np.array_split(rng.permutation(PRODUCTS), PRODUCTS // 6)
    splits = {}
    for name, count in SESSIONS.items():
        lengths = np.minimum(50, 2 + rng.geometric(1 / 5, count))
        # A walk: Zipf-like where it begins, near what was seen from then on.
        starts = (PRODUCTS * rng.random(count) ** 3).astype(int)
        splits[name] = [
            np.abs(start + np.cumsum(rng.integers(-20, 21, length))) % PRODUCTS
            for start, length in zip(starts, lengths, strict=True)
        ]
    splits["train"] = covering + splits["train"]
    return skus, splits


def write_snapshot(folder: Path, skus: np.ndarray, splits: dict[str, list[np.ndarray]]) -> None:
    """Writes the sessions as the export step does: a file for each split, and the manifest last."""
    files, number = [], 0
    for name, sessions in splits.items():
        flat = pa.array(skus[np.concatenate(sessions)].tolist(), pa.string())
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in sessions])])
        numbers = np.arange(number, number + len(sessions))
        number += len(sessions)
        table = pa.table(
            {
                "session_id": pa.array([f"s{one:07d}" for one in numbers]),
                "started_at": pa.array(1_600_000_000_000 + 1000 * numbers, pa.timestamp("ms", "UTC")),
                "skus": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat),
            }
        )
        path = folder / name / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append({"path": f"{name}/part-0.parquet", "sha256": digest})
    manifest = {"schema_version": 1, "snapshot_id": "bench-serving", "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def train(snapshot: Path, folder: Path, dtype: str) -> Path:
    """Runs `train.py` as SageMaker does; returns the model folder."""
    environment = os.environ | {
        "SM_CHANNEL_SNAPSHOT": str(snapshot),
        "SM_MODEL_DIR": str(folder / "model"),
        "SM_OUTPUT_DATA_DIR": str(folder / "data"),
        "SM_OUTPUT_DIR": str(folder / "output"),
    }
    options = [
        "--max-seconds",
        "30",
        "--batch-size",
        "256",
        "--embedding-dtype",
        dtype,
    ]
    subprocess.run([ML_PYTHON, ROOT / "include/ml/train.py", *options], env=environment, check=True)
    return folder / "model"


def add_peer(name: str, folder: Path, ours: Path, skus: np.ndarray, sessions: list[np.ndarray]) -> Path:
    """Makes an artefact that answers by a peer; the SavedModel in it, which the server wants, is ours."""
    shutil.copytree(ours, folder / "model")
    shutil.copyfile(_PEERS / f"{name}.py", folder / "model" / "code" / "inference.py")
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in sessions])])
    np.savez(folder / "model" / "peer.npz", skus=skus, items=np.concatenate(sessions), offsets=offsets)
    return folder / "model"


def prepare(build: Path) -> None:
    """Makes what is missing under `build`: a model folder for each side, and the request bodies."""
    skus, splits = invent(seed=1)
    if not (build / "snapshot" / "manifest.json").exists():
        shutil.rmtree(build / "snapshot", ignore_errors=True)
        write_snapshot(build / "snapshot", skus, splits)
    for side in SIDES:
        if (build / side / "done").exists():
            continue
        shutil.rmtree(build / side, ignore_errors=True)
        (build / side).mkdir(parents=True)
        if side in ("float32", "bfloat16"):
            train(build / "snapshot", build / side, side)
        else:
            add_peer(side, build / side, build / "float32" / "model", skus, splits["train"])
        (build / side / "done").touch()
    rng = np.random.default_rng(2)
    with (build / "bodies.txt").open("w", encoding="utf-8") as lines:
        for session in splits["test"]:
            seen = skus[session[: rng.integers(1, len(session))]].tolist()
            lines.write(json.dumps({"instances": [{"session": seen, "k": _K}]}) + "\n")


class Target(NamedTuple):
    """Where requests go.

    Attributes:
        port: Of loopback.
        path: Of the URL.
        cold: Seconds from the start until it is ready.
    """

    port: int
    path: str
    cold: float


def serving(build: Path, side: str) -> AbstractContextManager[Target]:
    """Serves a side's artefact."""
    if side == "endpoint":
        return endpoint(build)
    return model_served(build / side / "model", build / side / "server.log")


@contextmanager
def endpoint(build: Path) -> Iterator[Target]:
    """Starts an emulator with an endpoint of the first artefact, made by the calls that AWS takes."""
    told = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="pms-bench-") as state,
        Emulator(Path(state), ML_PYTHON) as emulator,
    ):
        s3, sagemaker = (
            boto3.client(kind, endpoint_url=emulator.url, **told) for kind in ("s3", "sagemaker")
        )
        archive = Path(state) / "model.tar.gz"
        pack(build / "float32" / "model", archive)
        s3.create_bucket(Bucket="bench")
        s3.upload_file(str(archive), "bench", archive.name)
        image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.20-cpu-py312"
        sagemaker.create_model(
            ModelName="bench",
            ExecutionRoleArn="arn:aws:iam::123456789012:role/bench",
            PrimaryContainer={"Image": image, "ModelDataUrl": f"s3://bench/{archive.name}"},
        )
        variant = {"VariantName": "AllTraffic", "ModelName": "bench", "InitialInstanceCount": 1}
        sagemaker.create_endpoint_config(
            EndpointConfigName="bench", ProductionVariants=[variant | {"InstanceType": "ml.m5.large"}]
        )
        sagemaker.create_endpoint(EndpointName="bench", EndpointConfigName="bench")
        sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName="bench", WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
        yield Target(emulator.port, "/endpoints/bench/invocations", time.monotonic() - started)


@contextmanager
def model_served(model_dir: Path, log: Path) -> Iterator[Target]:
    """Starts the model server as the emulator does."""
    started = time.monotonic()
    server = ModelServer([str(ML_PYTHON), model_server.__file__], model_dir, {}, log)
    try:
        server.wait_healthy(180, threading.Event())
        yield Target(server.port, "/invocations", time.monotonic() - started)
    finally:
        server.end(10)


def load(target: Target, bodies: Path, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Runs the load generator in a process of its own."""
    command = [sys.executable, "-m", "bench.load", "--port", str(target.port), "--path", target.path]
    command += ["--bodies", str(bodies)]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(
    build: Path, sides: list[str], seconds: float, runs: int
) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """Drives each side at its rates, `runs` times over; returns the rows by side and rate."""
    rows: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for run in range(runs):
        for side in sides:
            rates = RATES[side]
            with serving(build, side) as target:
                # Nobody's first requests are counted.
                load(target, build / "bodies.txt", min(rates), 2, seed=99)
                for rate in rates:
                    row = load(target, build / "bodies.txt", rate, seconds, seed=run) | {"cold": target.cold}
                    rows.setdefault((side, rate), []).append(row)
                    print(f"  {side} at {rate}/s: {json.dumps(row)}", flush=True)
    return rows


def pack(model_dir: Path, path: Path) -> float:
    """Writes `model.tar.gz`, as SageMaker would keep it; returns its size in MB."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(model_dir, arcname=".")
    return path.stat().st_size / 1e6


def report(build: Path, rows: dict[tuple[str, float], list[dict[str, Any]]]) -> None:
    """Prints the table: medians over the runs."""
    print("| | requests/s | answered/s | p50 ms | p90 ms | p99 ms | refused, unanswered | reply, bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for (side, rate), found in rows.items():
        p50, p90, p99, answered = (
            statistics.median(row[name] for row in found)
            for name in ("p50", "p90", "p99", "answered_per_second")
        )
        lost = sum(row["refused"] for row in found), sum(row["unanswered"] for row in found)
        largest = max(row["bytes_max"] for row in found)
        print(
            f"| {NAMES[side]} | {rate} | {answered:.0f} | {p50:.1f} | {p90:.1f} | {p99:.1f} "
            f"| {lost[0]}, {lost[1]} | {largest} |"
        )
    for side in sorted({"float32", "bfloat16"} & {side for side, _ in rows}):
        cold = statistics.median(row["cold"] for row in rows[side, RATES[side][0]])
        size = pack(build / side / "model", build / side / "model.tar.gz")
        print(f"{side}: model.tar.gz {size:.1f} MB, cold start {cold:.1f} s")


def main() -> int:
    """Prepares, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--build", type=Path, help="folder to keep what is made in, and to find it in again")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load, for each side, rate and run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=RATES, default=list(RATES), help="measure these alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pms-bench-") as folder:
        build = (options.build or Path(folder)).absolute()
        prepare(build)
        report(build, measure(build, options.sides, options.seconds, options.runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tiny snapshots with a planted answer, and training jobs on them, from either environment."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOM = Path(__file__).resolve().parents[2] / "include" / "ml"
Split = Sequence[Sequence[str | None]]

# Quotes, braces, emoji, right-to-left, combining marks, 512 bytes: anything UTF-8 may name a product.
ODD_SKUS = ["\"{'}\\", "🙂🙂", "\u202eabc", "e\u0301", "a b\tc\n", "x" * 512, "[UNK]", "0"]


def write_snapshot(
    folder: Path,
    train: Split,
    validation: Split,
    test: Split,
    as_json: bool = False,
    catalog: dict[str, str | None] | None = None,
    prices: dict[str, float] | None = None,
    context: bool = False,
    **manifest: Any,
) -> Path:
    """Writes parquet files and their manifest; sessions start a minute apart; `catalog` names categories.

    With `context`, the interactions of a session are an hour apart, and the first action of every other
    session is "add".
    """
    files = []
    counts = {}
    number = 0
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        (folder / name).mkdir(parents=True)
        first, number = number, number + len(split)
        skus = pa.array(
            [json.dumps(row, indent=1) for row in split] if as_json else [list(row) for row in split],
            pa.string() if as_json else pa.list_(pa.string()),
        )
        columns = {
            "session_id": pa.array([f"s{row:05d}" for row in range(first, number)], pa.string()),
            "started_at": pa.array(
                [1_600_000_000_000 + 60_000 * row for row in range(first, number)], pa.timestamp("ms", "UTC")
            ),
            "skus": skus,
        }
        if context:
            columns |= _context(split, first, as_json)
        files.append(_write(folder, name, pa.table(columns)))
        counts[name] = len(split)
    if catalog is not None:
        (folder / "catalog").mkdir()
        columns = {
            "product_sku": pa.array(list(catalog), pa.string()),
            "category": pa.array(list(catalog.values()), pa.string()),
        }
        if prices is not None:
            columns["price_bucket"] = pa.array([prices.get(sku) for sku in catalog], pa.float64())
        files.append(_write(folder, "catalog", pa.table(columns)))
    body = {"schema_version": 1, "snapshot_id": "snap-test", "tenant": "t", "counts": counts, "files": files}
    (folder / "manifest.json").write_text(json.dumps(body | manifest))
    return folder


def _context(split: Split, first: int, as_json: bool) -> dict[str, pa.Array]:
    actions = [
        ["add" if row % 2 else "detail", *["detail"] * len(skus)][: len(skus)]
        for row, skus in enumerate(split)
    ]
    times = [
        [1_600_000_000_000 + 60_000 * row + 3_600_000 * step for step in range(len(skus))]
        for row, skus in enumerate(split, first)
    ]
    if as_json:
        return {
            "actions": pa.array([json.dumps(row) for row in actions], pa.string()),
            "event_times": pa.array([json.dumps(row) for row in times], pa.string()),
        }
    return {
        "actions": pa.array(actions, pa.list_(pa.string())),
        "event_times": pa.array(times, pa.list_(pa.int64())),
    }


def _write(folder: Path, name: str, table: pa.Table) -> dict[str, Any]:
    path = folder / name / "part-0.parquet"
    pq.write_table(table, path)
    content = path.read_bytes()
    return {
        "path": f"{name}/part-0.parquet",
        "rows": table.num_rows,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def chains(sessions: int, seed: int, length: int = 3, chain_count: int = 12) -> list[list[str]]:
    """Returns sessions that walk one of a few chains: A is always followed by B, B by C."""
    rng = random.Random(seed)
    drawn = [rng.randrange(chain_count) for _ in range(sessions)]
    return [[_name(chain, step) for step in range(length)] for chain in drawn]


def _name(chain: int, step: int) -> str:
    odd = ODD_SKUS[chain] if chain < len(ODD_SKUS) and step == 1 else ""
    return odd or f"{'ABC'[step]}{chain}"


def write_planted(folder: Path) -> Path:
    """Writes a snapshot whose every next item is certain; its test set also holds an unknown product."""
    test = [*chains(25, 3), ["A0", "never seen", "C0"], ["never seen", "A1"]]
    return write_snapshot(folder, chains(240, 1), chains(24, 2), test, context=True)


def start_train(
    python: Path | str, snapshot: Path, out: Path, *arguments: str, **variables: str
) -> subprocess.Popen[str]:
    """Starts train.py as SageMaker does: its own process, folders by SM_*, from another working directory."""
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "SM_CHANNEL_SNAPSHOT": str(snapshot),
        "SM_MODEL_DIR": str(out / "model"),
        "SM_OUTPUT_DATA_DIR": str(out / "data"),
        "SM_OUTPUT_DIR": str(out / "output"),
        **variables,
    }
    command = [str(python), str(ROOM / "train.py"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=out, env=environment, stdout=pipe, stderr=pipe, text=True)


def run_train(
    python: Path | str, snapshot: Path, out: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs train.py to its end."""
    with start_train(python, snapshot, out, *arguments, **variables) as process:
        try:
            stdout, stderr = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


_SEVERAL = """if True:
    import json, os, sys
    sys.path.insert(0, sys.argv[1])
    import train
    for snapshot, out, arguments in json.loads(sys.argv[2]):
        os.environ |= {
            "SM_CHANNEL_SNAPSHOT": snapshot, "SM_MODEL_DIR": out + "/model",
            "SM_OUTPUT_DATA_DIR": out + "/data", "SM_OUTPUT_DIR": out + "/output",
        }
        print("status", train.main(arguments), flush=True)
"""


def run_several(python: Path | str, *jobs: tuple[Path, Path, Sequence[str]]) -> list[int]:
    """Runs train.py's `main` for each (snapshot, folder, arguments), in one process; returns the statuses.

    TensorFlow's start is most of what a small job takes.
    """
    listed = json.dumps([[str(snapshot), str(out), [*arguments]] for snapshot, out, arguments in jobs])
    command = [str(python), "-c", _SEVERAL, str(ROOM), listed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("status ")]

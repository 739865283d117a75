"""Our model: `include/ml/train.py`, run on the snapshot as SageMaker runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.next_item.method import Answers, Job, one_by_one
from bench.next_item.shop import Ints, Shop

_ROOM = Path(__file__).resolve().parents[3] / "include" / "ml"


def run(job: Job) -> Answers:
    """Trains, reads the predictions that the job wrote, and asks the export one by one."""
    folders = {
        "SM_CHANNEL_SNAPSHOT": job.snapshot,
        "SM_MODEL_DIR": job.work / "model",
        "SM_OUTPUT_DATA_DIR": job.work / "data",
        "SM_OUTPUT_DIR": job.work / "output",
    }
    command = [sys.executable, str(_ROOM / "train.py"), "--seed", str(job.seed), *job.settings["arguments"]]
    cpu = _train(command, {name: str(path.resolve()) for name, path in folders.items()})
    evaluation = job.work / "data" / "evaluation"
    report: dict[str, Any] = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    lists = _predictions(job.shop, evaluation / "predictions.parquet")
    latencies = _latencies(job.shop, job.work / "model" / "1")
    notes = {name: report[name] for name in ("hyperparameters", "versions") if name in report}
    notes["trained_on"] = "train and validation part, once the validation part has chosen"
    return Answers(lists, report["training"]["seconds"], cpu, latencies, notes)


def _train(command: list[str], folders: dict[str, str]) -> float | None:
    """Runs the job; returns its CPU seconds up to the export, None where they are not known."""
    with subprocess.Popen(command, env=os.environ | folders, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        fitted = None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("learned"):
                fitted = _cpu_seconds(process.pid)  # tracing and writing the export are no training
    if process.returncode:
        raise SystemExit(f"train.py ended with {process.returncode}; its reason is above")
    return fitted


def _cpu_seconds(process: int) -> float | None:
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:  # not Linux, or the process is gone
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _predictions(shop: Shop, path: Path) -> Ints:
    """Returns the job's lists in the order of our queries.

    Raises:
        SystemExit: The job did not answer exactly our queries.
    """
    columns = pq.read_table(path, columns=["session_id", "position", "target", "predictions"]).to_pydict()
    owner = {name: row for row, name in enumerate(shop.session_ids)}
    code = {sku: row for row, sku in enumerate(shop.skus)}
    row_of = {int(flat): row for row, flat in enumerate(shop.asked)}
    lists = np.full((len(shop.asked), 20), -1, np.int64)
    answered = np.zeros(len(shop.asked), bool)
    for name, position, target, found in zip(*columns.values(), strict=True):
        row = row_of[int(shop.test.offsets[owner[name]]) + position]
        if shop.skus[shop.test.items[shop.asked[row]]] != target:
            raise SystemExit(f"train.py asked session {name!r} at step {position} for another product")
        best = [code[sku] for sku in found[:20]]
        lists[row, : len(best)] = best
        answered[row] = True
    if not answered.all():
        raise SystemExit(f"train.py answered {answered.sum()} of {len(answered)} queries")
    return lists


def _latencies(shop: Shop, export: Path) -> list[float]:
    sys.path.insert(0, str(_ROOM))
    from export import Exported

    exported = Exported(export)
    skus = np.array(shop.skus, dtype=object)
    owners = shop.shown.owners

    def answer(row: int) -> object:
        start = max(int(shop.shown.offsets[owners[row]]), row + 1 - 50)
        return exported.answer(skus[shop.shown.items[start : row + 1]][None], 20)

    return one_by_one(answer, shop)

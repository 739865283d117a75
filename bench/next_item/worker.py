"""One run of one method in a process of its own, so that its seconds and its memory are its own."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from pathlib import Path

import numpy as np

from bench.next_item import shop
from bench.next_item.method import Answers, Job


def main() -> None:
    """Runs the method and writes `lists.npy` and, last, `answers.json` into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--seed", type=int, required=True)
    for folder in ("shop", "snapshot", "peers", "work"):
        parser.add_argument(f"--{folder}", type=Path, required=True)
    given = parser.parse_args()
    job = Job(shop.load(given.shop), given.settings, given.seed, given.snapshot, given.peers, given.work)
    load_at_start = os.getloadavg()[0]
    began = time.monotonic()
    answers: Answers = importlib.import_module(f"bench.next_item.methods.{given.module}").run(job)
    queries = len(job.shop.asked)
    if len(answers.lists) != queries:
        raise SystemExit(f"{given.module} answered {len(answers.lists)} of {queries} queries")
    np.save(given.work / "lists.npy", answers.lists.astype(np.int32))
    content = {
        "fit_seconds": answers.fit_seconds,
        "fit_cpu_seconds": answers.fit_cpu_seconds,
        "run_seconds": time.monotonic() - began,
        "latency_ms": _percentiles(answers.latencies),
        "load_average_at_start": load_at_start,
        "notes": answers.notes,
    }
    (given.work / "answers.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _percentiles(latencies: list[float]) -> dict[str, float] | None:
    if not latencies:
        return None
    return {f"p{share}": float(np.percentile(latencies, share)) for share in (50, 90, 99)}


if __name__ == "__main__":
    main()

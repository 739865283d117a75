"""Runs methods on a split, each in a process of its own, and keeps what each gave."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.measure import ROOT, measured
from bench.next_item.catalogue import Method

# Two threads each, and idle ones sleep: spinning, they would steal from each other on two cores.
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "OMP_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
    "OPENBLAS_NUM_THREADS": "2",
    "TF_NUM_INTRAOP_THREADS": "2",
    "TF_NUM_INTEROP_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONUNBUFFERED": "1",
}


def kept_run(method: Method, seed: int, snapshot: Path, peers: Path, work: Path) -> dict[str, Any] | None:
    """Returns the record of an earlier run that is still true, if there is one."""
    path = work / "runs" / f"{method.name}-{seed}" / "record.json"
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record if record["stamp"] == _stamp(method, seed, snapshot, peers) else None


def run_once(
    method: Method, seed: int, snapshot: Path, shop: Path, peers: Path, work: Path
) -> dict[str, Any]:
    """Runs a method and returns its record.

    Returns:
        `answers` and `cost`, or `absent` with the reason why there are none.
    """
    if reason := _absence(method, peers):
        return {"absent": reason}
    folder = work / "runs" / f"{method.name}-{seed}"
    stamp = _stamp(method, seed, snapshot, peers)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    command = [str(ROOT / method.environment / "bin" / "python"), "-m", "bench.next_item.worker"]
    command += [method.module, "--settings", json.dumps(method.settings), "--seed", str(seed)]
    for name, path in (("shop", shop), ("snapshot", snapshot), ("peers", peers), ("work", folder)):
        command += [f"--{name}", str(path.resolve())]
    try:
        cost = measured(command, _ENVIRONMENT, log)
    except RuntimeError:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"absent": f"failed: {lines[-1][:300] if lines else 'no output'} (all of it in {log})"}
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    content = {
        "stamp": stamp,
        "seed": seed,
        "lists": str((folder / "lists.npy").relative_to(work)),
        "answers": answers,
        "cost": asdict(cost),
    }
    (folder / "record.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return content


def commit_of(checkout: Path) -> str:
    """Returns the commit of a checkout, "" where it is no git work tree of its own."""
    if not (checkout / ".git").exists():
        return ""
    shown = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()


def _absence(method: Method, peers: Path) -> str:
    environment = ROOT / method.environment
    if not (environment / "bin" / "python").exists():
        return f"no {method.environment}: run `make bench-model`, which builds it"
    if method.checkout and not (peers / method.checkout).is_dir():
        return f"no checkout of {method.source} at {peers / method.checkout}"
    if method.program and shutil.which(method.program) is None:
        return f"no {method.program} on PATH"
    pattern = f"lib/python3*/site-packages/{method.distribution}"
    if method.distribution and not any(environment.glob(pattern)):
        return f"no {method.distribution} in {method.environment}"
    return ""


def _stamp(method: Method, seed: int, snapshot: Path, peers: Path) -> str:
    """Returns a digest of what a result depends on: data, settings and the code that runs."""
    sources = [ROOT / "bench" / "next_item" / "methods" / f"{method.module}.py"]
    if method.module in ("ours", "item_to_item"):
        sources += sorted((ROOT / "include" / "ml").glob("*.py"))
    digest = hashlib.sha256((snapshot / "manifest.json").read_bytes())
    digest.update(json.dumps([method.module, method.settings, seed]).encode())
    digest.update(commit_of(peers / method.checkout).encode() if method.checkout else b"")
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """Returns what the timings depend on."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text(encoding="utf-8").splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    return {"cpu": names[0] if names else "unknown", "cores": os.cpu_count(), "load_average": os.getloadavg()}

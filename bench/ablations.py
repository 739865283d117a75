"""What each choice of the model is worth: one hyper-parameter changed at a time, on validation sessions.

`python -m bench.ablations SNAPSHOT [--seeds 3]` trains without the refit, so that validation sessions stay
unseen and the test sessions unasked. It prints a Markdown table of the mixture's validation metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-ml" / "bin" / "python"

CHANGES = {
    "the default": "",
    "no shortcuts": "--shortcuts 0",
    "no label smoothing": "--label-smoothing 0",
    "label smoothing 0.2": "--label-smoothing 0.2",
    "no catalogue": "--catalog off",
    "full softmax at any size": "--full-softmax-products 10000000",
    "sampled softmax at any size": "--full-softmax-products 0",
    "512 negatives": "--full-softmax-products 0 --negatives 512",
    "attention (SASRec) for the GRU": "--architecture attention --learning-rate 0.005",
    "128 units": "--embedding-dim 128",
    "256 units": "--embedding-dim 256 --learning-rate 0.01",
    "dropout 0.2": "--dropout 0.2",
    "dropout 0.5": "--dropout 0.5",
    "batches of 64": "--batch-size 64 --learning-rate 0.005",
    "half the learning rate": "--learning-rate 0.0075",
}


def validated(snapshot: Path, arguments: str, seed: int) -> dict[str, float]:
    """Trains once and returns the validation metrics of the mixture and of the network alone, and seconds.

    Raises:
        RuntimeError: Training failed.
    """
    with tempfile.TemporaryDirectory() as out:
        folders = {
            "SM_CHANNEL_SNAPSHOT": str(snapshot),
            "SM_MODEL_DIR": f"{out}/model",
            "SM_OUTPUT_DATA_DIR": f"{out}/data",
            "SM_OUTPUT_DIR": out,
        }
        script = str(ROOT / "include" / "ml" / "train.py")
        command = [str(PYTHON), script, "--refit", "off", "--seed", str(seed), *arguments.split()]
        done = subprocess.run(command, env={**os.environ, **folders}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{arguments or 'the default'} failed: {done.stderr[-2000:]}")
        report = json.loads((Path(out) / "data" / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    best = max(report["history"], key=lambda row: row["val_mrr@20"])
    return {
        "hit rate": report["blend"]["val_hit_rate@20"],
        "mrr": report["blend"]["val_mrr@20"],
        "network hit rate": best["val_hit_rate@20"],
        "network mrr": best["val_mrr@20"],
        "seconds": sum(row["seconds"] for row in report["history"]),
    }


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    print("| changed | HR@20 | MRR@20 | network alone HR / MRR | training s |\n|---|---|---|---|---|")
    for name, arguments in CHANGES.items():
        runs = [validated(given.snapshot, arguments, 42 + number) for number in range(given.seeds)]
        mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        print(
            f"| {name} | {mean['hit rate']:.4f} | {mean['mrr']:.4f} | {mean['network hit rate']:.4f} / "
            f"{mean['network mrr']:.4f} | {mean['seconds']:.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The behavioural test suite of a trained recommender, written with RecList.

Runs in the ML environment as a script and imports nothing of the project but its own room, `behaviour/`:

    python -I suite.py --evaluation DIR --out report.json [--model DIR] [--champion DIR] [--package-bytes N]

It measures and never judges: thresholds are in `rules.yaml`, the decision in `verdict.py`. RecList runs the
checks; the report is our own, because RecList's has no intervals, sample sizes or slices, writes NaN as
invalid JSON, and is not written at all once one check raises.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# `-I` keeps the script's own folder off the path, as it should anybody else's.
sys.path.insert(0, str(Path(__file__).resolve().parent / "behaviour"))

from accuracy import AccuracyChecks
from artefact import Artefact
from breadth import BreadthChecks
from champion import ChampionChecks
from evaluation import Evaluation
from packaged import PackagedChecks
from report import describe, plain
from slices import SliceChecks

SCHEMA_VERSION = 1
EXAMPLES = 8


class SessionSuite(AccuracyChecks, BreadthChecks, SliceChecks, PackagedChecks):
    """Checks of a session-based next-item recommender."""


class ComparedSuite(SessionSuite, ChampionChecks):
    """The same, and how it compares with the live one."""


def examples(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns a few test queries with the answer, spread evenly over the test set, for the card."""
    targets = evaluation.column("target")
    total = len(targets)
    rows = sorted({int(place) for place in np.linspace(0, total - 1, min(EXAMPLES, total))})
    return [
        {
            "session": [str(sku) for sku in evaluation.sessions[row]],
            "target": str(targets.iloc[row]),
            "predictions": [str(sku) for sku in evaluation.lists[row][:5]],
            "rank": int(evaluation.model_ranks[row]),
        }
        for row in rows
    ]


def measure(
    folder: Path,
    model: Path | None = None,
    champion: Path | None = None,
    package_bytes: int | None = None,
) -> dict[str, Any]:
    """Runs every check.

    Args:
        folder: Evaluation: holds `metrics.json`, `predictions.parquet` and `items.parquet`.
        model: The unpacked model; without it, the checks of the artefact crash.
        champion: The unpacked live model; without it, the checks against it are not in the report.
        package_bytes: Size of the packed model.

    Returns:
        The report, JSON-ready: every check is in it, a crashed one with its `error`.
    """
    evaluation = Evaluation(folder)
    notes: list[str] = []
    candidate, live = (None if path is None else Artefact(path) for path in (model, champion))
    kind = SessionSuite if live is None else ComparedSuite
    with tempfile.TemporaryDirectory(prefix="reclist-") as store:
        suite = kind(evaluation, Path(store), candidate, live, package_bytes)
        try:
            suite(verbose=False)
        # The checks cannot raise; RecList's own table and files can, and must not cost us the measurements.
        except Exception as error:
            notes.append(f"RecList's own report failed: {describe(error)}")
    shown: list[dict[str, Any]] = []
    try:
        shown = examples(evaluation)
    # Examples only decorate the card.
    except Exception as error:
        notes.append(f"No examples: {describe(error)}")
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": SessionSuite.__name__,
        "reclist": version("reclist"),
        "checks": [plain(asdict(result)) for result in suite.results],
        "examples": shown,
        "notes": notes,
    }


def main(arguments: list[str] | None = None) -> int:
    """Writes the report; returns 0 even where checks crashed, for that is the verdict's to judge."""
    parser = argparse.ArgumentParser(description="Measures a trained recommender.")
    parser.add_argument("--evaluation", type=Path, required=True, help="Folder that the training job left.")
    parser.add_argument("--out", type=Path, required=True, help="Report to write.")
    parser.add_argument("--model", type=Path, help="Unpacked model.tar.gz of the job.")
    parser.add_argument("--champion", type=Path, help="Unpacked model.tar.gz of the live model, if any.")
    parser.add_argument("--package-bytes", type=int, help="Size of the job's model.tar.gz.")
    options = parser.parse_args(arguments)
    # For TensorFlow, which is imported once a model is asked. Endpoints have CPUs, too.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    report = measure(options.evaluation, options.model, options.champion, options.package_bytes)
    # Strict JSON: a NaN that slipped through must fail here, loudly, and not in a reader.
    text = json.dumps(report, indent=1, allow_nan=False)
    partial = options.out.with_name(f"{options.out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

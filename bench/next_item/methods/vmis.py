"""VMIS-kNN by its authors: the Java variant in the checkout of bolcom/serenade-experiments-sigmod."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from bench.next_item.method import Answers, Job, empty_answers
from bench.next_item.shop import Log

_JAVA = Path(__file__).with_name("java")
_SOURCES = (
    "models/VMISkNN.java",
    "models/SessionSimilarity.java",
    "models/Recommendation.java",
    "dataio/sessionloader/Row.java",
    "evaluation/PositionLatencyTuple.java",
)


def run(job: Job) -> Answers:
    """Compiles their classes with a small driver and walks every session step by step."""
    shop, settings = job.shop, job.settings
    theirs = job.peers / "serenade" / "vmis_java" / "src" / "main" / "java" / "reco" / "serenade"
    ours = [_JAVA / "Replay.java", _JAVA / "reco" / "serenade" / "evaluation" / "StopWatch.java"]
    classes = job.work / "classes"
    subprocess.run(["javac", "-d", classes, *ours, *(theirs / name for name in _SOURCES)], check=True)
    train, test, answers = (job.work / name for name in ("train.tsv", "test.tsv", "answers.txt"))
    _write(shop.train, train)
    _write(shop.shown, test)
    numbers = [str(settings["k"]), str(settings["m"])]
    subprocess.run(["java", "-Xmx8g", "-cp", classes, "Replay", train, test, answers, *numbers], check=True)
    fitted, *lines = answers.read_text(encoding="utf-8").splitlines()
    lists, latencies = empty_answers(len(shop.shown.items)), []
    for row, line in enumerate(lines):
        latency, *items = line.split()
        latencies.append(float(latency))
        lists[row, : len(items)] = np.array(items, np.int64)
    return Answers(shop.per_query(lists), float(fitted), None, latencies, {"java": _version()})


def _write(log: Log, path: Path) -> None:
    table = np.stack([log.owners, log.items, log.times.astype(np.int64)], axis=1)
    np.savetxt(path, table, fmt="%d", delimiter="\t")


def _version() -> str:
    shown = subprocess.run(["java", "-version"], check=True, capture_output=True, text=True)
    return shown.stderr.splitlines()[0]

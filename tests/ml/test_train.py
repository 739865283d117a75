from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf  # noqa: TID253  # runs in the ML environment only

import train
from include.sagemaker.training import FINAL_METRIC, METRIC_DEFINITIONS

DATA = Path(
    os.environ.get(
        "PMS_TEST_DATA",
        Path(__file__).resolve().parents[3] / "shared" / "data" / "rees46_electronics_2021_01",
    )
)
NAMES = {f"{metric}@{cutoff}" for metric in ("hit_rate", "mrr", "ndcg") for cutoff in (10, 20)} | {
    "coverage@20"
}


def _strict(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path.name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_job_leaves_what_sagemaker_packs(trained: tuple[Path, str]) -> None:
    out, _ = trained
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {
        "model/1/saved_model.pb",
        "model/1/variables/variables.index",
        "model/code/inference.py",
        "model/model.json",
        "data/evaluation/metrics.json",
        "data/evaluation/predictions.parquet",
        "data/evaluation/items.parquet",
        "data/evaluation/smoke.json",
    } <= found
    assert "output/failure" not in found
    described = _strict(out / "model/model.json")
    assert described["snapshot_id"] == "snap-test"
    assert described["vocabulary"]["size"] == 36
    assert re.fullmatch("[0-9a-f]{64}", described["vocabulary"]["sha256"])
    assert "model_dir" not in described["hyperparameters"]


def test_progress_is_one_line_an_epoch(trained: tuple[Path, str]) -> None:
    lines = [line for line in trained[1].splitlines() if line.startswith("epoch=")]
    assert lines
    for number, line in enumerate(lines, 1):
        assert re.match(rf"epoch={number}/8 loss=\d+\.\d{{4}} val_mrr@20=\d\.\d{{4}} ", line)


def test_last_word_on_validation_is_of_what_is_exported(trained: tuple[Path, str]) -> None:
    [line] = [line for line in trained[1].splitlines() if line.startswith("blend ")]
    shares = r"network=(\d\.\d{4}) companions=(\d\.\d{4}) followers=(\d\.\d{4}) own=(\d\.\d{4})"
    found = re.fullmatch(rf"blend {shares} val_mrr@20=(\d\.\d{{4}}) val_hit_rate@20=(\d\.\d{{4}})", line)
    assert found
    assert sum(float(share) for share in found.groups()[:4]) == pytest.approx(1.0, abs=3e-4)
    report = _strict(trained[0] / "data/evaluation/metrics.json")
    assert float(found[5]) == pytest.approx(report["blend"]["val_mrr@20"], abs=5e-5)
    # Where the network alone is nearly perfect the mixture is hardly worse.
    assert float(found[5]) >= max(row["val_mrr@20"] for row in report["history"]) - 0.02


def test_sagemaker_finds_every_metric_in_every_line(trained: tuple[Path, str]) -> None:
    report = _strict(trained[0] / "data/evaluation/metrics.json")
    found: dict[str, list[float]] = {}
    for line in trained[1].splitlines():
        for definition in METRIC_DEFINITIONS:
            if match := re.search(definition["Regex"], line):
                found.setdefault(definition["Name"], []).append(float(match[1]))
    columns = {
        "epoch": "epoch",
        "train:loss": "loss",
        "validation:mrr@20": "val_mrr@20",
        "validation:hit_rate@20": "val_hit_rate@20",
        "train:interactions_per_second": "interactions_per_second",
    }
    assert set(found) == {definition["Name"] for definition in METRIC_DEFINITIONS}
    assert len(found.pop(FINAL_METRIC)) == 1
    assert set(found) == set(columns)
    for name, column in columns.items():
        # Nothing but the learning curve is found: a line of another kind would add a value.
        assert found[name] == pytest.approx([row[column] for row in report["history"]], abs=5e-5), name


def test_half_precision_trains_and_is_served_in_full(
    tmp_path: Path, planted: Path, train_py: Callable[..., Any]
) -> None:
    arguments = ("--epochs", "8", "--embedding-dim", "32", "--batch-size", "16")
    done = train_py(planted, tmp_path, *arguments, "--refit", "off", "--precision", "mixed_bfloat16")
    assert done.returncode == 0, done.stderr
    assert _strict(tmp_path / "data/evaluation/metrics.json")["model"]["mrr@20"] > 0.9
    server = tf.saved_model.load(str(tmp_path / "model/1"))
    kinds = {
        tensor.dtype
        for function in server.signatures["serving_default"].graph._functions.values()
        for tensor in (output for op in function.graph.get_operations() for output in op.outputs)
    }
    assert tf.float32 in kinds
    assert tf.bfloat16 not in kinds


def test_xla_can_be_asked_for(tmp_path: Path, planted: Path, train_py: Callable[..., Any]) -> None:
    arguments = (
        "--epochs",
        "1",
        "--embedding-dim",
        "8",
        "--batch-size",
        "64",
        "--refit",
        "off",
        "--xla",
        "on",
    )
    done = train_py(planted, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr


def test_planted_answers_are_learned(trained: tuple[Path, str]) -> None:
    report = _strict(trained[0] / "data/evaluation/metrics.json")
    assert set(report["model"]) == NAMES
    assert set(report["baselines"]) == {"popularity", "covisitation", "markov", "session_knn"}
    assert all(set(values) == NAMES for values in report["baselines"].values())
    # 50 chain steps, and 4 of the sessions with a product unknown to training: 1 unknown target.
    assert report["queries"] == report["queries_available"] == 53
    assert report["sessions"] == 27
    assert report["unknown_target_share"] == pytest.approx(1 / 53)
    assert report["model"]["mrr@20"] > 0.9
    assert report["model"]["mrr@20"] > report["baselines"]["popularity"]["mrr@20"] + 0.3
    # The network itself learned it, before any prior was blended in.
    assert max(row["val_mrr@20"] for row in report["history"]) > 0.9
    assert report["history"][-1]["loss"] < report["history"][0]["loss"]
    assert report["training"]["products"] == 36


def test_predictions_agree_with_metrics(trained: tuple[Path, str]) -> None:
    folder = trained[0] / "data/evaluation"
    report = _strict(folder / "metrics.json")
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    items = pq.read_table(folder / "items.parquet").to_pylist()
    counts = {item["product_sku"]: item["train_count"] for item in items}
    assert len(rows) == report["queries"]
    assert sum(counts.values()) == report["training"]["interactions"]
    reciprocal = []
    for row in rows:
        lists = row["predictions"]
        assert len(lists) == len(set(lists)) == len(row["scores"]) == 20
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert set(lists) <= set(counts)
        assert len(row["session"]) == row["position"]
        known = [sku for sku in row["session"] if sku in counts]
        assert not known or known[-1] not in lists
        assert row["target_count"] == counts.get(row["target"], 0)
        assert all(0 <= row[f"rank_{name}"] <= 20 for name in report["baselines"])
        reciprocal.append(1 / (lists.index(row["target"]) + 1) if row["target"] in lists else 0)
    assert sum(reciprocal) / len(rows) == pytest.approx(report["model"]["mrr@20"])
    markov = [1 / row["rank_markov"] if row["rank_markov"] else 0 for row in rows]
    assert sum(markov) / len(rows) == pytest.approx(report["baselines"]["markov"]["mrr@20"])


def test_evaluation_tells_what_the_gate_cuts_by(trained: tuple[Path, str]) -> None:
    folder = trained[0] / "data/evaluation"
    for row in pq.read_table(folder / "predictions.parquet").to_pylist():
        started = 1_600_000_000 + 60 * int(row["session_id"][1:])
        assert row["hour"] == (started + 3600 * (row["position"] - 1)) // 3600 % 24
        assert row["first_action"] == ("add" if int(row["session_id"][1:]) % 2 else "detail")
    items = {item["product_sku"]: item for item in pq.read_table(folder / "items.parquet").to_pylist()}
    vectors = {sku: np.array(item["vector"]) for sku, item in items.items()}
    assert {len(vector) for vector in vectors.values()} == {32}
    # A11, B11 and C11 are viewed together; C10 is not.
    assert vectors["A11"] @ vectors["C11"] > vectors["A11"] @ vectors["C10"] + 0.5
    assert {item["category"] for item in items.values()} == {None}
    assert {item["price_bucket"] for item in items.values()} == {None}


BAD_ARGUMENTS = {
    "unknown": ["--colour", "red"],
    "no epochs": ["--epochs", "0"],
    "not a number": ["--learning-rate", "fast"],
    "NaN": ["--learning-rate", "nan"],
    "dropout of everything": ["--dropout", "1"],
    "architecture": ["--architecture", "lstm"],
    "top-k below what is evaluated": ["--top-k", "10"],
    "longer than the window": ["--max-length", "51"],
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_argument_writes_the_failure_file(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_OUTPUT_DIR", str(tmp_path))
    assert train.main(BAD_ARGUMENTS[case]) == 1
    assert "--" in (tmp_path / "failure").read_text()


def _measured(folder: Path) -> dict[str, Any]:
    report = _strict(folder / "data/evaluation/metrics.json")
    timed = {"seconds", "interactions_per_second"}
    history = [{key: row[key] for key in row if key not in timed} for row in report["history"]]
    return {"model": report["model"], "blend": report["blend"], "history": history}


def test_same_seed_same_result_on_noise_without_validation(
    tmp_path: Path, make_snapshot: Callable[..., Path], train_py: Callable[..., Any]
) -> None:
    """Nothing can be learned here; the job still ends, twice the same, with finite metrics."""
    rng = random.Random(5)
    noise = [[f"p{rng.randrange(40)}" for _ in range(rng.randrange(2, 7))] for _ in range(120)]
    snapshot = make_snapshot(tmp_path / "s", noise[:100], [], noise[100:], as_json=True)
    results = []
    for name in ("first", "second"):
        arguments = ("--epochs", "2", "--embedding-dim", "16", "--architecture", "attention")
        done = train_py(snapshot, tmp_path / name, *arguments)
        assert done.returncode == 0, done.stderr
        results.append(_measured(tmp_path / name))
    assert results[0] == results[1]
    assert results[0]["history"][0]["val_mrr@20"] is None
    assert results[0]["model"]["mrr@20"] < 0.4


CHAIN = [["a", "b", "c"], ["d", "e", "f"]]
SHOPS: dict[str, tuple[dict[str, Any], tuple[str, ...], int]] = {
    "two products, no shortcuts": (
        {"train": [["a", "b"]] * 6, "validation": [["b", "a"]], "test": [["a", "b"]]},
        ("--shortcuts", "0"),
        2,
    ),
    "one session and no validation": ({"train": [["a", "b"]], "test": [["b", "a"], ["x", "y"]]}, (), 2),
    "one product only in validation": (
        {"train": CHAIN * 4, "validation": [["a", "a", "a"]] * 3, "test": CHAIN},
        (),
        6,
    ),
    "new products only in validation, a catalogue of others": (
        {"train": CHAIN * 4, "validation": [["x", "y"]] * 3, "test": [["x", "y"]], "catalog": {"z": None}},
        (),
        8,
    ),
    "more products than a full softmax takes, half a catalogue": (
        {
            "train": CHAIN * 4,
            "validation": CHAIN,
            "test": CHAIN,
            "catalog": {"a": "first", "b": "first", "d": None},
            "prices": {"a": 1.0, "d": 3.0},
        },
        ("--full-softmax-products", "5", "--negatives", "3"),
        6,
    ),
    "a catalogue that is not looked at": (
        {"train": CHAIN * 4, "validation": CHAIN, "test": CHAIN, "catalog": {"a": "first", "b": "second"}},
        ("--catalog", "off"),
        6,
    ),
}


@pytest.mark.parametrize("case", SHOPS)
def test_shops_of_any_shape_are_trained_and_served(
    case: str, tmp_path: Path, make_snapshot: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, arguments, products = SHOPS[case]
    snapshot = make_snapshot(tmp_path / "s", **({"validation": []} | content))
    for name, place in (
        *(("SM_CHANNEL_SNAPSHOT", snapshot), ("SM_MODEL_DIR", tmp_path / "model")),
        *(("SM_OUTPUT_DATA_DIR", tmp_path / "data"), ("SM_OUTPUT_DIR", tmp_path / "output")),
    ):
        monkeypatch.setenv(name, str(place))
    status = train.main(["--epochs", "1", "--embedding-dim", "4", "--batch-size", "4", *arguments])
    failure = tmp_path / "output/failure"
    assert status == 0, failure.read_text()
    assert not failure.exists()
    report = _strict(tmp_path / "data/evaluation/metrics.json")
    assert report["training"]["products"] == products
    assert set(report["model"]) == NAMES
    # Of so few products every known one that was asked for is among the twenty.
    assert report["model"]["hit_rate@20"] == pytest.approx(1.0 - report["unknown_target_share"])
    for row in pq.read_table(tmp_path / "data/evaluation/predictions.parquet").to_pylist():
        listed = [sku for sku in row["predictions"] if sku]
        assert len(set(listed)) == len(listed) >= products - 1
        assert row["session"][-1] not in listed


@pytest.mark.skipif(not (DATA / "browsing.csv.gz").is_file(), reason=f"no real sessions under {DATA}")
def test_real_sessions_beat_popularity_and_covisitation(
    tmp_path: Path, make_snapshot: Callable[..., Path], train_py: Callable[..., Any]
) -> None:
    """A short job (half of the default epochs) on real sessions, split by time."""
    import pandas as pd

    events = pd.read_csv(DATA / "browsing.csv.gz", dtype=str, keep_default_na=False)
    events = events[events["product_action"].isin(["detail", "add", "purchase"])]
    events["at"] = events["server_timestamp_epoch_ms"].astype("int64")
    by_session = events.sort_values(["session_id_hash", "at"], kind="stable").groupby("session_id_hash")
    frame = by_session.agg(skus=("product_sku_hash", list), start=("at", "min"), end=("at", "max"))
    frame = frame.sort_values("start", kind="stable")
    first, second = frame["start"].quantile(0.8), frame["start"].quantile(0.9)
    parts = [
        frame[frame["end"] < first],
        frame[(frame["start"] >= first) & (frame["end"] < second)],
        frame[frame["start"] >= second],
    ]
    snapshot = make_snapshot(tmp_path / "s", *(part["skus"].tolist() for part in parts))
    done = train_py(snapshot, tmp_path / "out", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    report = _strict(tmp_path / "out/data/evaluation/metrics.json")
    for metric, margin in (("hit_rate@20", 0.04), ("mrr@20", 0.02)):
        rivals = [report["baselines"][name][metric] for name in ("popularity", "covisitation")]
        assert report["model"][metric] > max(rivals) + margin

from __future__ import annotations

import copy
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.contracts import Verdict
from include.gate.rules import load_rules
from include.gate.verdict import decide
from tests.gate.evaluations import SKUS, K, Row, build, reported, write
from tests.gate.measuring import SUITE, TRAINED


@pytest.fixture(scope="module")
def good() -> tuple[list[Row], Row]:
    return build()


class Measure:
    """Runs the suite as the gate does: a script in the ML environment."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder

    def run(self) -> str:
        out = self.folder / "report.json"
        command = [self.python, "-I", SUITE, "--evaluation", self.folder / "evaluation", "--out", out]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=120)
        return out.read_text()

    def __call__(self, rows: list[Row], counts: Row, metrics: Row | None = None) -> dict[str, Any]:
        write(self.folder / "evaluation", rows, counts, metrics)
        report = json.loads(self.run())
        return {check["name"]: check for check in report["checks"]}

    def verdict(self, rows: list[Row], counts: Row, metrics: Row | None = None) -> Verdict:
        write(self.folder / "evaluation", rows, counts, metrics)
        return decide(self.run(), load_rules(), TRAINED, "s3://b/report.json")


@pytest.fixture
def measure(ml_python: Path, tmp_path: Path) -> Measure:
    return Measure(ml_python, tmp_path)


# These evaluations come without the artefact, whose rules fail for that: test_both_ways.py has both.
PACKAGED = ("stability_", "served_answers_", "single_answer_", "package_")
OF_THE_ARTEFACT = {rule.name for rule in load_rules().rules if rule.check.startswith(PACKAGED)}


def failures(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.failures} - OF_THE_ARTEFACT


def test_a_model_that_learned_the_planted_successors_is_approved(
    measure: Measure, good: tuple[list[Row], Row]
) -> None:
    verdict = measure.verdict(*good)
    assert not failures(verdict), [check.reason for check in verdict.failures]
    assert verdict.metrics["hit_rate@20"] > 1.5 * verdict.baselines["popularity"]["hit_rate@20"]
    assert all(check.reason for check in verdict.checks)


def test_metrics_are_those_computed_row_by_row(measure: Measure, good: tuple[list[Row], Row]) -> None:
    checks = measure(*good)
    for name, value in reported(good[0]).items():
        low, high = checks[name]["interval"]
        assert checks[name]["value"] == pytest.approx(value)
        assert low < value < high
        assert checks[name]["sample_size"] == len(good[0])
    popularity = sum(row["rank_popularity"] > 0 for row in good[0]) / len(good[0])
    assert checks["hit_rate@20"]["baselines"]["popularity"] == pytest.approx(popularity)


def test_metrics_agree_with_reclists_own(measure: Measure, good: tuple[list[Row], Row]) -> None:
    checks = measure(*good)
    oracle = """if True:
        import sys, json, pandas as pd
        from reclist.metrics.standard_metrics import hit_rate_at_k, mrr_at_k
        d = pd.read_parquet(sys.argv[1]); p = pd.DataFrame(d["predictions"].tolist())
        print(json.dumps([float(f(p, d[["target"]], 10)) for f in (hit_rate_at_k, mrr_at_k)]))"""
    file = measure.folder / "evaluation" / "predictions.parquet"
    done = subprocess.run(
        [measure.python, "-c", oracle, file], check=True, capture_output=True, text=True, cwd=measure.folder
    )
    own = [checks[name]["value"] for name in ("hit_rate@10", "mrr@10")]
    assert own == pytest.approx(json.loads(done.stdout))


def test_the_same_evaluation_gives_the_same_report(measure: Measure, good: tuple[list[Row], Row]) -> None:
    write(measure.folder / "evaluation", *good)
    assert measure.run() == measure.run()


def test_reclist_leaves_nothing_in_the_working_folder(measure: Measure, good: tuple[list[Row], Row]) -> None:
    measure(*good)
    assert sorted(path.name for path in measure.folder.iterdir()) == ["evaluation", "report.json"]


@pytest.mark.parametrize("skew", [0.0, 0.8, 1.2], ids=["uniform", "zipf", "steep_zipf"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_model_of_pure_noise_is_rejected(measure: Measure, seed: int, skew: float) -> None:
    verdict = measure.verdict(*build(seed=seed, learnable=False, skew=skew))
    assert not verdict.approved
    assert failures(verdict) & {"hit_rate_surely_beats_popularity", "mrr_surely_beats_popularity"}


def _shuffle(rows: list[Row]) -> None:
    lists = [row["predictions"] for row in rows]
    for place, row in enumerate(rows):
        # Another query's list, without what this customer is looking at.
        borrowed = lists[(place + 217) % len(rows)]
        row["predictions"] = [sku for sku in dict.fromkeys([*borrowed, *SKUS]) if sku != row["session"][-1]][
            :K
        ]


def _constant(rows: list[Row]) -> None:
    for row in rows:
        row["predictions"] = [sku for sku in SKUS[: K + 1] if sku != row["session"][-1]][:K]


def _set(column: str, value: Callable[[Row], Any]) -> Callable[[list[Row]], None]:
    def change(rows: list[Row]) -> None:
        for row in rows:
            row[column] = value(row)

    return change


def _drop(column: str) -> Callable[[list[Row]], None]:
    def change(rows: list[Row]) -> None:
        for row in rows:
            del row[column]

    return change


DEFECTS: dict[str, tuple[Callable[[list[Row]], None], set[str]]] = {
    "shuffled_predictions": (_shuffle, {"hit_rate_beats_popularity", "hit_rate_beats_covisitation"}),
    "constant_recommender": (_constant, {"popularity_bias_ceiling", "works_beyond_the_best_sellers[tail]"}),
    "repeated_product": (
        _set("predictions", lambda r: [*r["predictions"][:19], r["predictions"][0]]),
        {"sound_lists"},
    ),
    "empty_sku": (_set("predictions", lambda r: [*r["predictions"][:19], ""]), {"sound_lists"}),
    "unknown_sku": (_set("predictions", lambda r: [*r["predictions"][:19], "<UNK>"]), {"sound_lists"}),
    "viewed_item": (
        _set("predictions", lambda r: [*r["predictions"][:19], r["session"][-1]]),
        {"sound_lists"},
    ),
    "short_list": (_set("predictions", lambda r: r["predictions"][:12]), {"sound_lists"}),
    "nan_scores": (_set("scores", lambda r: [math.nan] * K), {"sound_lists"}),
    "rising_scores": (_set("scores", lambda r: [float(n) for n in range(K)]), {"sound_lists"}),
    "no_scores": (_drop("scores"), {"sound_lists"}),
    "no_popularity_ranks": (
        _drop("rank_popularity"),
        {"hit_rate_beats_popularity", "hit_rate_surely_beats_popularity", "mrr_surely_beats_popularity"},
    ),
    "impossible_rank": (
        _set("rank_covisitation", lambda r: -3),
        {"hit_rate_floor", "hit_rate_beats_covisitation"},
    ),
    "missing_target": (
        _set("target", lambda r: None if r["position"] == 1 else r["target"]),
        {"hit_rate_floor"},
    ),
    "too_few_queries": (lambda rows: rows.__delitem__(slice(60, None)), {"enough_queries", "hit_rate_floor"}),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_fails_its_rules(measure: Measure, good: tuple[list[Row], Row], name: str) -> None:
    spoil, expected = DEFECTS[name]
    rows, counts = copy.deepcopy(good[0]), good[1]
    spoil(rows)
    verdict = measure.verdict(rows, counts, None if name != "missing_target" else reported(good[0]))
    assert not verdict.approved
    assert expected <= failures(verdict)


def test_metrics_other_than_the_predictions_give_fail(measure: Measure, good: tuple[list[Row], Row]) -> None:
    metrics = reported(good[0])
    metrics["hit_rate@20"] += 0.05
    assert failures(measure.verdict(*good, metrics)) == {"metrics_agree"}


@pytest.mark.parametrize("file", ["predictions.parquet", "items.parquet", "metrics.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_file_closes_the_gate_and_is_named(
    measure: Measure, good: tuple[list[Row], Row], file: str, damage: str
) -> None:
    path = write(measure.folder / "evaluation", *good) / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    verdict = decide(measure.run(), load_rules(), TRAINED, "s3://b/report.json")
    assert not verdict.approved
    if damage == "missing":
        assert any(file in check.reason for check in verdict.failures)


def test_a_catalogue_smaller_than_the_list_is_no_defect(measure: Measure) -> None:
    few = SKUS[:8]
    rows, _ = build(queries=300)
    for place, row in enumerate(rows):
        viewed, target = few[place % 8], few[(place + 1) % 8]
        row |= {"session": [viewed], "target": target, "scores": [float(-n) for n in range(7)]}
        row["predictions"] = list(dict.fromkeys([target, *few]))
        row["predictions"].remove(viewed)
    checks = measure(rows, dict.fromkeys(few, 100))
    assert checks["faulty_lists"]["value"] == 0
    assert checks["coverage@20"]["value"] == 1
    # All products are equally popular: there is no popularity to be biased towards.
    assert checks["popularity_bias@20"]["value"] == 0


def test_slices_add_up_to_all_queries(measure: Measure, good: tuple[list[Row], Row]) -> None:
    rows, counts = copy.deepcopy(good[0]), dict(good[1])
    counts[SKUS[-1]] = 3
    rows[0]["target"], rows[0]["target_count"] = "never-seen", 0
    rows[1]["target"], rows[1]["target_count"] = SKUS[-1], 3
    checks = measure(rows, counts)
    for name in ("hit_rate@20_by_session_length", "hit_rate@20_by_popularity"):
        slices = checks[name]["slices"].values()
        assert sum(part["sample_size"] for part in slices) == len(rows)
        for part in slices:
            low, high = part["interval"]
            assert low <= part["value"] <= high
        total = sum(part["value"] * part["sample_size"] for part in slices)
        assert total / len(rows) == pytest.approx(checks["hit_rate@20"]["value"])
    assert set(checks["hit_rate@20_by_popularity"]["slices"]) == {"unknown", "cold", "tail", "head"}
    assert checks["hit_rate@20_by_popularity"]["slices"]["unknown"]["value"] == 0


def test_a_baseline_without_hits_leaves_the_lift_finite(
    measure: Measure, good: tuple[list[Row], Row]
) -> None:
    rows = copy.deepcopy(good[0])
    _set("rank_popularity", lambda row: 0)(rows)
    lift = measure(rows, good[1])["hit_rate@20_over_popularity"]
    assert math.isfinite(lift["value"]) and lift["interval"][0] > 1


def test_repeating_the_session_over_noise_is_not_taken_for_learning(measure: Measure) -> None:
    """Customers who go back to viewed products let a model that only repeats them beat every baseline."""
    rows, counts = build(learnable=False)
    for row in rows[::3]:
        if len(set(row["session"])) > 1:
            row["target"] = next(sku for sku in row["session"] if sku != row["session"][-1])
            row["target_count"] = counts[row["target"]]
            row["rank_popularity"] = 0
    for row in rows:
        seen = [sku for sku in dict.fromkeys(row["session"]) if sku != row["session"][-1]]
        row["predictions"] = [*seen, *(s for s in row["predictions"] if s not in seen)][:20]
    checks = measure(rows, counts)
    assert checks["hit_rate@20_over_popularity"]["interval"][0] > 1.05
    assert checks["new_product_hit_rate@20_over_popularity"]["interval"][0] < 1.05

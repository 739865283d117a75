from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.next_item.command import main


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions that walk one of nine chains: A is always followed by B, B by C."""
    path = tmp_path_factory.mktemp("events") / "events.csv"
    rows = [
        f"s{number},{letter}{number * 7 % 9},{1_600_000_000_000 + number * 600_000 + step}"
        for number in range(300)
        for step, letter in enumerate("ABC")
    ]
    path.write_text("\n".join(["session,item,time_ms", *rows]))
    return path


def test_methods_are_run_scored_and_not_run_again(
    events: Path, tmp_path: Path, ml_python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot, work = tmp_path / "snapshot", tmp_path / "work"
    assert main(["split", str(events), str(snapshot)]) == 0
    arguments = ["run", str(snapshot), "--work", str(work), "--peers", str(tmp_path / "nowhere")]
    assert main([*arguments, "--models", "popularity,markov,vsknn"]) == 0
    results = json.loads((work / "results.json").read_text())
    rows = results["methods"]
    assert rows["markov"]["metrics"]["every"] == {"hit_rate": 1.0, "mrr": 1.0, "ndcg": 1.0}
    assert rows["popularity"]["metrics"]["every"]["mrr"] < 0.5
    cost = rows["markov"]["runs"][0]["cost"]
    assert cost["cpu"] > 0 and 0.01 < cost["memory"] < 4
    assert results["counts"]["queries"] == 2 * results["counts"]["test_sessions"]
    # What is missing is said, in the row's place.
    assert "vsknn" in rows and "metrics" not in rows["vsknn"]
    text = (work / "results.md").read_text()
    assert "| item-to-item Markov | 1.0000 | 1.0000 |" in text and "Not run: V-SKNN" in text

    capsys.readouterr()
    assert main([*arguments, "--models", "markov,covisitation"]) == 0
    assert "==> covisitation" in (said := capsys.readouterr().out) and "==> markov" not in said
    assert json.loads((work / "results.json").read_text())["methods"].keys() >= {"popularity", "markov"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "{folder}", "--models", "oracle"], "no snapshot folder"),
        (["split", "{folder}/none.csv", "{folder}/out"], "Cannot read"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.format(folder=tmp_path) for part in arguments]) == 2
    assert complaint in capsys.readouterr().err

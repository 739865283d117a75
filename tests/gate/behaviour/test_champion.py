from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gate.evaluations import Row

Models = Callable[[str], Path]
Run = Callable[..., dict[str, dict[str, Any]]]
AGAINST = {"champion_knows", "hit_rate@20_minus_champion", "mrr@20_minus_champion"}
BESIDE = ("hit_rate@1", "hit_rate@20", "ndcg@10", "mrr@20_over_popularity", "coverage@20", "novelty@20")


def test_nothing_live_is_not_reported(checks: Run, answered: tuple[list[Row], Row]) -> None:
    found = checks(*answered)
    assert not AGAINST & set(found)
    assert all(check["champion"] is None for check in found.values())


@pytest.mark.parametrize("name", ["good", "of before"])
def test_an_equal_champion_differs_by_nothing(
    checks: Run, models: Models, answered: tuple[list[Row], Row], name: str
) -> None:
    found = checks(*answered, model=models("good"), champion=models(name))
    for check in ("hit_rate@20_minus_champion", "mrr@20_minus_champion"):
        assert (found[check]["value"], *found[check]["interval"]) == (0.0, 0.0, 0.0)
    for check in BESIDE:
        assert found[check]["champion"] == pytest.approx(found[check]["value"])
    assert found["champion_knows"]["value"] == 1.0
    assert found["stability_drop_event"]["champion"] == found["stability_drop_event"]["value"]
    for part in found["hit_rate@20_by_session_length"]["slices"].values():
        assert part["champion"] == part["value"]
        assert (part["difference"], *part["difference_interval"]) == (0.0, 0.0, 0.0)


def test_a_worse_champion_is_beaten_surely_and_in_pairs(
    checks: Run, models: Models, answered: tuple[list[Row], Row]
) -> None:
    found = checks(*answered, champion=models("forgetful"))
    for name in ("hit_rate@20", "mrr@20"):
        lead = found[f"{name}_minus_champion"]
        assert lead["value"] == pytest.approx(found[name]["value"] - found[name]["champion"])
        assert 0 < lead["interval"][0] < lead["value"] < lead["interval"][1]
        # Paired: narrower than if the two had been measured on different queries.
        low, high = found[name]["interval"]
        assert lead["sample_size"] == len(answered[0]) and lead["interval"][1] - lead["interval"][0] < 1.5 * (
            high - low
        )
    parts = found["hit_rate@20_by_session_length"]["slices"].values()
    for part in parts:
        assert part["difference"] == pytest.approx(part["value"] - part["champion"])
        assert part["difference_interval"][0] <= part["difference"] <= part["difference_interval"][1]
    weighted = sum(part["difference"] * part["sample_size"] for part in parts) / len(answered[0])
    assert weighted == pytest.approx(found["hit_rate@20_minus_champion"]["value"])


def test_a_champion_of_another_catalogue_knows_nothing(
    checks: Run, models: Models, answered: tuple[list[Row], Row]
) -> None:
    found = checks(*answered, champion=models("other shop"))
    assert found["champion_knows"]["value"] == 0.0
    assert found["hit_rate@20"]["champion"] == 0.0
    assert found["novelty@20"]["champion"] > found["novelty@20"]["value"]


@pytest.mark.parametrize("name", ["breaks when asked", "empty folder"])
def test_a_broken_champion_spoils_only_what_compares_with_it(
    checks: Run, models: Models, answered: tuple[list[Row], Row], name: str, tmp_path: Path
) -> None:
    alone = checks(*answered)
    folder = tmp_path if name == "empty folder" else models(name)
    found = checks(*answered, champion=folder)
    assert {check for check in found if found[check]["error"] != alone.get(check, {}).get("error")} == AGAINST
    for check in AGAINST:
        assert ("saved_model" if name == "empty folder" else "worn out") in found[check]["error"]
    for check, was in alone.items():
        assert found[check] == was

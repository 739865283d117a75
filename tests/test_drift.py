from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from include.drift import Drift, align, compare, psi, unusual_days


def profile(**changes: Any) -> dict[str, Any]:
    """A calm fortnight of a shop with many products, of which two are listed."""
    days = [(date(2026, 1, 1) + timedelta(n)).isoformat() for n in range(14)]
    return {
        "version": 1,
        "lengths": {"2+": 500, "3+": 300, "5+": 200},
        "actions": {"detail": 900, "purchase": 100},
        "sessions_per_day": dict.fromkeys(days, 100),
        "sessions_per_hour": [10] * 24,
        "top_products": [["a", 300, 0.3], ["b", 100, 0.1]],
        "top_categories": [["x", 600, 0.6], ["y", 400, 0.4]],
        **changes,
    }


def drift(**changes: Any) -> Drift:
    return compare("snap-2", profile(**changes), "snap-1", profile())


def test_the_same_data_have_not_moved() -> None:
    found = drift()
    assert {name: measure.level for name, measure in found.measures.items()} == dict.fromkeys(
        ("lengths", "actions", "sessions_per_hour", "sessions_per_day", "top_products", "top_categories"),
        "stable",
    )
    assert found.warnings() == [] == list(found.unusual_days)


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}, 0.0),
        ({"a": 0.6, "b": 0.4}, {"a": 0.5, "b": 0.5}, 0.1 * 0.18232 + 0.1 * 0.22314),
        ({"a": 1.0}, {"b": 1.0}, 2 * 0.9999 * 9.21034),
    ],
    ids=["the same", "by hand", "nothing in common"],
)
def test_psi(now: dict[str, float], before: dict[str, float], expected: float) -> None:
    assert psi(now, before) == pytest.approx(expected, abs=1e-4)
    assert psi(before, now) == pytest.approx(psi(now, before))


@pytest.mark.parametrize(
    ("measure", "changes", "level"),
    [
        ("actions", {"actions": {"detail": 850, "purchase": 150}}, "stable"),
        ("actions", {"actions": {"detail": 800, "purchase": 200}}, "stable"),
        ("actions", {"actions": {"detail": 770, "purchase": 230}}, "moderate"),
        ("actions", {"actions": {"detail": 650, "purchase": 350}}, "large"),
        ("actions", {"actions": {"detail": 500, "purchase": 100, "new_action": 400}}, "large"),
        ("lengths", {"lengths": {"2+": 50, "3+": 300, "5+": 650}}, "large"),
        ("sessions_per_hour", {"sessions_per_hour": [0] * 12 + [20] * 12}, "large"),
        ("top_categories", {"top_categories": [["z", 900, 0.9], ["y", 100, 0.1]]}, "large"),
        ("sessions_per_day", {"sessions_per_day": {"2026-02-01": 120}}, "stable"),
        ("sessions_per_day", {"sessions_per_day": {"2026-02-01": 160}}, "moderate"),
        ("sessions_per_day", {"sessions_per_day": {"2026-02-01": 45}}, "large"),
        ("sessions_per_day", {"sessions_per_day": {"2026-02-01": 1000}}, "large"),
    ],
)
def test_bands(measure: str, changes: dict[str, Any], level: str) -> None:
    found = drift(**changes)
    assert found.measures[measure].level == level
    assert [w for w in found.warnings() if w.startswith(measure)] == (
        [] if level == "stable" else found.warnings()
    )


@pytest.mark.parametrize(
    ("now", "level"),
    [
        ([["a", 300, 0.3], ["c", 101, 0.101]], "stable"),  # c was just beyond the end of the list
        ([["c", 300, 0.3], ["d", 300, 0.3]], "large"),
        ([["a", 10, 0.01], ["b", 9, 0.009]], "large"),
    ],
    ids=["changed places at the end of the list", "another assortment", "nobody wants the old favourites"],
)
def test_top_products_are_lists_with_an_end(now: list[list[Any]], level: str) -> None:
    assert drift(top_products=now).measures["top_products"].level == level


def test_a_complete_list_knows_that_the_others_are_absent() -> None:
    now, before = align([["a", 1, 1.0]], [["b", 1, 1.0]])
    assert now == {"a": 1.0, "b": 0.0, "(other)": 0.0}
    assert before == {"a": 0.0, "b": 1.0, "(other)": 0.0}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"2026-01-05": 1000}, ["2026-01-05 has 1000 sessions, 10.0 times the median day"]),
        ({"2026-01-05": None}, ["2026-01-05 has no session"]),
        ({"2026-01-01": None, "2026-01-14": None}, []),
        ({"2026-01-05": 400}, []),
    ],
    ids=["a day with ten times the volume", "an empty day inside", "empty at the ends", "a sale"],
)
def test_unusual_days(changed: dict[str, int | None], said: list[str]) -> None:
    days = {**profile()["sessions_per_day"], **changed}
    kept = {day: sessions for day, sessions in days.items() if sessions is not None}
    assert unusual_days(profile(sessions_per_day=kept)) == said
    assert list(drift(sessions_per_day=kept).unusual_days) == said


@pytest.mark.parametrize("previous", [{}, {"version": 0, "top_products": [["a", 3]]}, {"version": 1}])
def test_profiles_that_cannot_be_compared_have_no_measures(previous: dict[str, Any]) -> None:
    assert compare("snap-2", profile(), "snap-1", previous).measures == {}
    assert compare("snap-2", {"version": 1}, "snap-1", profile()).unusual_days == ()


def test_the_same_drift_has_the_same_bytes() -> None:
    assert drift().to_bytes() == drift().to_bytes()
    assert Drift.model_validate_json(drift().to_bytes()) == drift()

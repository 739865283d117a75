from __future__ import annotations

import math
from typing import Any

import pytest

from include.cards.card import Curve, Slice, SliceGroup
from include.cards.data import Data
from include.cards.plots import MOST_BARS, bars_of, line_of, place, strip_of, top_of, top_of_slices
from tests.cards.cards import check


def share(text: str | None) -> float:
    assert text is not None and text.endswith("%")
    return float(text[:-1])


@pytest.mark.parametrize(
    ("values", "top"),
    [([0.451], 0.5), ([0.2, 0.72], 0.8), ([0.5], 0.5), ([37.0, 1.0], 40.0), ([0.91], 1.0)]
    + [([], 1.0), ([None, math.nan], 1.0), ([0.0], 1.0), ([-3.0], 1.0)],
)
def test_an_axis_ends_with_a_round_number(values: list[float | None], top: float) -> None:
    assert top_of(values) == pytest.approx(top)


def test_all_slices_share_the_axis_of_the_highest() -> None:
    slices = (Slice(name="a", value=0.2, champion=0.55), Slice(name="b", value=0.1, interval=(0.0, 0.3)))
    assert top_of_slices([SliceGroup(metric="m", title="t", value=0.2, slices=slices)]) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.25, "50.00%"), (0.7, "100.00%"), (-1, "0.00%"), (math.nan, None), (None, None)]
)
def test_a_mark_stays_on_its_axis(value: object, expected: str | None) -> None:
    assert place(value, 0.5) == expected


def test_a_strip_tells_which_side_of_its_bound_a_value_lies() -> None:
    above, below = strip_of(check("x", value=0.4, bound=0.1)), strip_of(check("x", value=0.1, bound=0.4))
    assert above is not None and below is not None
    assert share(above.value) > share(above.bound) and share(below.value) < share(below.bound)
    assert share(above.low) < share(above.value) < share(above.high) <= 100


STRIPS: dict[str, dict[str, Any]] = {
    "negative difference": {"value": -0.02, "bound": -0.01, "interval": (-0.03, -0.01)},
    "value of nothing": {"value": 0.0, "bound": 0.02, "interval": None},
    "huge": {"value": 1e12, "bound": 100.0, "interval": None},
    "no finite interval": {"value": 0.4, "interval": (0.1, math.inf)},
}


@pytest.mark.parametrize("name", STRIPS)
def test_a_strip_stays_within_its_width(name: str) -> None:
    strip = strip_of(check("x", **STRIPS[name]))
    assert strip is not None
    for mark in (strip.bound, strip.value, strip.low, strip.high):
        assert mark is None or 0 <= share(mark) <= 100


@pytest.mark.parametrize(
    "changes",
    [
        {"value": None},
        {"bound": None},
        {"value": math.nan},
        {"value": 0.0, "bound": 0.0, "interval": None},
        {"status": "skipped"},
    ],
    ids=str,
)
def test_there_is_no_strip_without_something_to_compare(changes: dict[str, Any]) -> None:
    assert strip_of(check("x", **changes)) is None


def test_a_curve_rises_from_its_lowest_to_its_highest_value_and_marks_the_best() -> None:
    line = line_of(Curve(title="MRR", points=((1, 0.1), (2, 0.3), (4, 0.2)), best=2))
    (x1, y1), (x2, y2), (x3, y3) = [tuple(map(float, pair.split(","))) for pair in line.points.split()]
    assert (x1, x3) == (0, 100) and x2 == pytest.approx(33.33), "epochs that are missing leave a gap"
    assert 0 <= y2 < y3 < y1 <= 100, "drawing units grow downwards"
    assert line.dot == (f"{x2:.2f}%", f"{y2:.2f}%")
    assert (line.low, line.high, line.last_epoch, line.dot_value) == (0.1, 0.3, 4, 0.3)


def test_a_flat_curve_lies_in_the_middle() -> None:
    line = line_of(Curve(title="Loss", points=((1, 1.0), (2, 1.0))))
    assert line.points == "0.00,50.00 100.00,50.00" and not line.dot_is_best


def test_days_are_bars_in_the_colour_of_their_split() -> None:
    days = (("2026-01-01", 50), ("2026-01-02", 100), ("2026-01-03", 0), ("2026-01-04", 80))
    data = Data(days=days, validation_start="2026-01-03T01:00:00Z", test_start="2026-01-04T00:00:00Z")
    bars = bars_of(data)
    assert [bar.split for bar in bars] == ["train", "train", "validation", "test"]
    assert [share(bar.height) for bar in bars] == [50, 100, 0, 80]
    assert all(share(bar.y) + share(bar.height) == 100 for bar in bars)
    assert bars[0].label == "2026-01-01: 50 sessions"


@pytest.mark.parametrize("days", [1, MOST_BARS, MOST_BARS + 1, 3650])
def test_many_days_are_put_together(days: int) -> None:
    bars = bars_of(Data(days=tuple((f"day {number:05d}", 7) for number in range(days))))
    assert 0 < len(bars) <= MOST_BARS
    assert share(bars[-1].x) + share(bars[-1].width) <= 100
    assert bars[0].label.endswith("7 sessions a day") == (days > MOST_BARS)


def test_no_days_are_no_bars() -> None:
    assert bars_of(Data()) == ()
    assert [share(bar.height) for bar in bars_of(Data(days=(("2026-01-01", 0),)))] == [0]

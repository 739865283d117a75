from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from include.pages.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Point, chart


def drawn(values: list[float]) -> Chart | None:
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    return chart(
        "mrr@20", [Point(place, moment, value, "ready", "") for place, value in enumerate(values, 1)]
    )


@pytest.mark.parametrize(
    "values", [[0.1, 0.2], [0.3, 0.3, 0.3], [0.0, 0.0], [1e-9, 2e-9], [-1.0, 1.0], [0.2] * 50, [0, 1e12]]
)
def test_every_dot_lies_inside_the_axes_and_higher_is_better(values: list[float]) -> None:
    found = drawn(values)
    assert found is not None
    assert len(found.dots) == len(values)
    for dot in found.dots:
        assert LEFT <= dot.x <= WIDTH - RIGHT
        assert TOP <= dot.y <= HEIGHT - BOTTOM
    by_value = sorted(found.dots, key=lambda dot: dot.point.value)
    assert by_value[0].y >= by_value[-1].y


def test_noise_is_not_blown_up() -> None:
    found = drawn([0.4000, 0.4001])
    assert found is not None
    assert abs(found.dots[0].y - found.dots[1].y) < 2


@pytest.mark.parametrize("values", [[], [0.1], [0.1, math.nan], [math.inf, 0.1]])
def test_less_than_two_values_are_no_line(values: list[float]) -> None:
    assert drawn(values) is None

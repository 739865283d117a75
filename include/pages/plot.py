"""Lays a metric of many models out over time, for a drawing in SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 480, 190
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 28
LINES = 3
# A difference below this share of the value is noise; the axis does not blow it up.
LEAST_SPAN = 0.1


@dataclass(frozen=True)
class Point:
    """One model's value."""

    version: int
    moment: datetime
    value: float
    state: str
    words: str


@dataclass(frozen=True)
class Dot:
    """A point in drawing units."""

    x: float
    y: float
    point: Point


@dataclass(frozen=True)
class Chart:
    """A line with dots, in drawing units.

    Attributes:
        grid: Height of each line and its value.
    """

    title: str
    dots: tuple[Dot, ...]
    grid: tuple[tuple[float, float], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    bottom: int = BOTTOM

    @property
    def path(self) -> str:
        """The line through all dots."""
        return " ".join(f"{dot.x},{dot.y}" for dot in self.dots)


def chart(title: str, points: Sequence[Point]) -> Chart | None:
    """Lays out a metric, one place for each model.

    Places and not the calendar: models come in bursts, and each is to be seen.

    Args:
        title: Name of the metric.
        points: Oldest first; those without a finite value are left out.

    Returns:
        The chart, None where fewer than two points are left.
    """
    kept = [point for point in points if math.isfinite(point.value)]
    if len(kept) < 2:
        return None
    low, high = _span([point.value for point in kept])
    across = (WIDTH - LEFT - RIGHT) / (len(kept) - 1)
    up = (HEIGHT - TOP - BOTTOM) / (high - low)

    def height(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) * up, 1)

    dots = tuple(
        Dot(round(LEFT + place * across, 1), height(point.value), point) for place, point in enumerate(kept)
    )
    values = [low + (high - low) * line / (LINES - 1) for line in range(LINES)]
    return Chart(title, dots, tuple((height(value), value) for value in values))


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of the axis: the values with some air, and never less than a tenth of them."""
    low, high = min(values), max(values)
    least = LEAST_SPAN * max(abs(low), abs(high)) or 1.0
    air = max(0.1 * (high - low), (least - (high - low)) / 2)
    return low - air, high + air

"""Where the marks of a plot lie, in percent of its width and height.

Percentages, and not drawing units, so that a plot fills any window while dots stay round and lines thin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from include.cards.card import Card, Curve, SliceGroup
from include.cards.data import Data
from include.cards.text import finite
from include.contracts import Check

MOST_BARS = 120
_PAD = 0.06  # share of a plot's height that stays free above and below a curve


def place(value: object, top: float) -> str | None:
    """Returns where a value lies on an axis from 0 to `top`; None where it is no finite number."""
    found = finite(value)
    return None if found is None or top <= 0 else _percent(min(1.0, max(0.0, found / top)))


def top_of(values: Iterable[float | None]) -> float:
    """Returns a round number that no value exceeds: one, two or five times a power of ten."""
    highest = max((value for value in values if value is not None and math.isfinite(value)), default=0.0)
    if highest <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(highest))
    return next(
        (step * unit for step in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0) if highest <= step * unit), 10 * unit
    )


def top_of_slices(groups: Sequence[SliceGroup]) -> float:
    """Returns the end of the one axis that all slices of a card share, so that they can be compared."""
    found: list[float | None] = []
    for group in groups:
        for part in group.slices:
            found += [part.value, part.champion, part.interval[1] if part.interval else None]
    return top_of(found)


def top_of_methods(card: Card, metric: str) -> float:
    """Returns the end of the axis on which the model, the live one and the baselines are compared."""
    others = [values.get(metric) for values in card.verdict.baselines.values()]
    measured = card.find(metric)
    high = measured.interval[1] if measured and measured.interval else None
    return top_of([card.verdict.metrics.get(metric), high, *others])


@dataclass(frozen=True)
class Strip:
    """A check on an axis of its own: its bound, its value, and its interval where it has one."""

    bound: str
    value: str
    low: str | None
    high: str | None


def strip_of(check: Check) -> Strip | None:
    """Lays out how far a check is from its bound; None where there is nothing to compare."""
    value, bound = finite(check.value), finite(check.bound)
    if value is None or bound is None or check.status == "skipped":
        return None
    ends = [end for end in (check.interval or ()) if math.isfinite(end)]
    low, high = min([value, bound, 0.0, *ends]), max([value, bound, *ends])
    if high <= low:
        return None
    reach = (high - low) * 1.1

    def at(number: float) -> str:
        return _percent((number - low) / reach)

    both = len(ends) == 2
    return Strip(at(bound), at(value), at(ends[0]) if both else None, at(ends[1]) if both else None)


@dataclass(frozen=True)
class Line:
    """A curve: `points` on a square of 100 by 100, and its first, best and last value."""

    title: str
    points: str
    low: float
    high: float
    last_epoch: int
    dot: tuple[str, str]
    dot_epoch: int
    dot_value: float
    dot_is_best: bool


def line_of(curve: Curve) -> Line:
    """Lays out a curve from its lowest to its highest value; a flat one lies in the middle."""
    epochs = [epoch for epoch, _ in curve.points]
    values = [value for _, value in curve.points]
    low, high = min(values), max(values)
    first, last = epochs[0], epochs[-1]

    def at(epoch: int, value: float) -> tuple[float, float]:
        across = (epoch - first) / (last - first) if last > first else 0.5
        up = (value - low) / (high - low) if high > low else 0.5
        return 100 * across, 100 * (1 - _PAD - up * (1 - 2 * _PAD))

    marked = curve.best if curve.best in epochs else last
    value = dict(curve.points)[marked]
    x, y = at(marked, value)
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in (at(*point) for point in curve.points))
    return Line(
        curve.title,
        points,
        low,
        high,
        last,
        (f"{x:.2f}%", f"{y:.2f}%"),
        marked,
        value,
        curve.best is not None,
    )


@dataclass(frozen=True)
class Bar:
    """Sessions of a day, or of some days that follow each other, and the split that they are in."""

    x: str
    y: str
    width: str
    height: str
    split: str
    label: str


def bars_of(data: Data) -> tuple[Bar, ...]:
    """Lays out sessions by day; days are put together where there are too many to see."""
    if not data.days:
        return ()
    together = math.ceil(len(data.days) / MOST_BARS)
    chunks = [data.days[start : start + together] for start in range(0, len(data.days), together)]
    means = [sum(count for _, count in chunk) / len(chunk) for chunk in chunks]
    highest = max(means) or 1.0
    wide = 1 / len(chunks)
    return tuple(
        Bar(
            x=_percent(number * wide + wide * 0.1),
            y=_percent(1 - mean / highest),
            width=_percent(wide * 0.8),
            height=_percent(mean / highest),
            split=_split_of(chunk[0][0], data),
            label=f"{chunk[0][0]}: {mean:,.0f} sessions{' a day' if together > 1 else ''}",
        )
        for number, (chunk, mean) in enumerate(zip(chunks, means, strict=True))
    )


def _split_of(day: str, data: Data) -> str:
    """ISO days and moments sort like what they mean; a boundary's own day counts to the later part."""
    if data.test_start and day >= data.test_start[:10]:
        return "test"
    return "validation" if data.validation_start and day >= data.validation_start[:10] else "train"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"

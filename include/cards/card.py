"""Draws a model's card: one HTML page that explains a verdict and needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from include.cards.data import Data
from include.contracts import Verdict

TEMPLATES = Path(__file__).with_name("templates")
LONGEST_TEXT = 60  # a SKU may be 10 kB long; a page is for people
CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 520, 180, 34
MOST_EPOCHS = 1000


@dataclass(frozen=True)
class Bar:
    """A measured share of one slice of the test queries, 0 to 1."""

    group: str
    name: str
    value: float | None
    sample_size: int


@dataclass(frozen=True)
class Example:
    """A test query: what the customer had seen, chose next, and was offered; `rank` 0 = missed."""

    session: Sequence[str]
    target: str
    predictions: Sequence[str]
    rank: int


@dataclass(frozen=True)
class Card:
    """What the page shows.

    Attributes:
        verdict: The gate's decision.
        training: The job's own `metrics.json`; whatever it lacks is left out of the page.
        bars: Hit rate by slice.
        examples: A few test queries.
        data: What the model learnt from.
    """

    verdict: Verdict
    training: Mapping[str, object] = field(default_factory=dict)
    bars: Sequence[Bar] = ()
    examples: Sequence[Example] = ()
    data: Data = field(default_factory=Data)


@dataclass(frozen=True)
class Chart:
    """A line in drawing units, with the labels of its axes."""

    title: str
    points: str
    dots: tuple[tuple[float, float], ...]
    low: str
    high: str
    last_epoch: int
    width: int = CHART_WIDTH
    height: int = CHART_HEIGHT
    margin: int = CHART_MARGIN


def shorten(text: object, longest: int = LONGEST_TEXT) -> str:
    """Returns the text in at most `longest` characters."""
    whole = str(text)
    return whole if len(whole) <= longest else f"{whole[: longest - 1]}…"


def number(value: object) -> str:
    """Returns a number for people: counts with separators, fractions with four digits, else a dash."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) >= 2 or isinstance(value, int):
        return f"{int(value):,}"
    return f"{value:.4g}" if 0 < abs(value) < 0.001 else f"{value:,.4f}"


def percent(value: object) -> str:
    """Returns a share as a percentage, a dash where it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def learning_curve(history: object, key: str, title: str) -> Chart | None:
    """Lays out one quantity of the training history as a line.

    Args:
        history: List of epochs, each with `epoch` and quantities; epochs without a finite value are left out.
        key: The quantity.
        title: Shown above the line.

    Returns:
        The chart, None where fewer than two epochs have a value.
    """
    rows = history if isinstance(history, list) else []
    pairs = [
        (float(place), float(value))
        for place, row in enumerate(rows[:MOST_EPOCHS], start=1)
        if isinstance(value := _mapping(row).get(key), int | float) and math.isfinite(value)
    ]
    if len(pairs) < 2:
        return None
    low, high = min(value for _, value in pairs), max(value for _, value in pairs)
    first, last = pairs[0][0], pairs[-1][0]
    across = (CHART_WIDTH - 2 * CHART_MARGIN) / (last - first)
    # A flat line is drawn in the middle.
    up = (CHART_HEIGHT - 2 * CHART_MARGIN) / (high - low) if high > low else 0.0
    base = CHART_HEIGHT - CHART_MARGIN if high > low else CHART_HEIGHT / 2
    dots = tuple(
        (round(CHART_MARGIN + (epoch - first) * across, 1), round(base - (value - low) * up, 1))
        for epoch, value in pairs
    )
    points = " ".join(f"{x},{y}" for x, y in dots)
    return Chart(title, points, dots, number(low), number(high), int(last))


def _comparison(verdict: Verdict) -> list[tuple[str, list[str]]]:
    """Returns the table of metrics: one row per method, the model first."""
    names = list(verdict.metrics)
    rows = [("this model", [number(verdict.metrics[name]) for name in names])]
    for method, values in verdict.baselines.items():
        rows.append((method.replace("_", " "), [number(values.get(name)) for name in names]))
    return rows


def _outcome(verdict: Verdict) -> str:
    if verdict.override_reason:
        return "overridden"
    return "approved" if verdict.approved else "rejected"


def _facts(training: Mapping[str, object]) -> list[tuple[str, str]]:
    data = _mapping(training.get("training"))
    shares = _mapping(_mapping(training.get("blend")).get("shares"))
    facts = [
        ("Sessions learned from", number(data.get("sessions"))),
        ("Interactions learned from", number(data.get("interactions"))),
        ("Products", number(data.get("products"))),
        ("Epochs", number(data.get("epochs"))),
        ("Training seconds", number(data.get("seconds"))),
        *((f"Mean share of {shorten(name)} in the blend", percent(share)) for name, share in shares.items()),
        ("Test sessions", number(training.get("sessions"))),
        ("Test queries", number(training.get("queries"))),
        ("Next items unknown to training", percent(training.get("unknown_target_share"))),
    ]
    return [fact for fact in facts if fact[1] != "–"]


def _settings(training: Mapping[str, object]) -> list[tuple[str, str]]:
    chosen = dict(_mapping(training.get("hyperparameters")))
    if "seed" in training:
        chosen.setdefault("seed", training["seed"])
    versions = {f"{name} version": value for name, value in _mapping(training.get("versions")).items()}
    return [(shorten(name), shorten(value)) for name, value in {**chosen, **versions}.items()]


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(short=shorten, number=number, percent=percent)
    return environment.get_template("card.html.j2")


def draw(card: Card) -> str:
    """Draws the page.

    Args:
        card: Its content; every text in it is escaped, for SKUs come from outside.

    Returns:
        A self-contained HTML document without scripts or outside resources.
    """
    history = card.training.get("history")
    charts = [
        learning_curve(history, "loss", "Training loss"),
        learning_curve(history, "val_mrr@20", "MRR@20 of the network alone on the validation sessions"),
    ]
    return _template().render(
        verdict=card.verdict,
        outcome=_outcome(card.verdict),
        metric_names=list(card.verdict.metrics),
        comparison=_comparison(card.verdict),
        charts=[chart for chart in charts if chart is not None],
        facts=_facts(card.training),
        settings=_settings(card.training),
        bars=card.bars,
        examples=card.examples,
        data=card.data,
    )

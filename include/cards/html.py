"""Shows a card as one HTML page that needs nothing but itself: no script, no network, plots as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from include.cards.card import Card, Cost, Fact, Interval, Product
from include.cards.plots import bars_of, line_of, place, strip_of, top_of_methods, top_of_slices
from include.cards.text import (
    DASH,
    duration,
    finite,
    method,
    money,
    number,
    percent,
    shorten,
    shown,
    words,
)
from include.contracts import ShadowReport, ShadowVariant

TEMPLATES = Path(__file__).with_name("templates")
MOST_ALARMS = 30
COMPARED = ("hit_rate@20", "mrr@20")
TILES = ("hit_rate@20", "mrr@20", "coverage@20", "single_answer_ms")
BANDS = ("stable", "moderate", "large")
_LONGEST_CHIP, _CUT_CHIP = 20, 10


@dataclass(frozen=True)
class Row:
    """A method in a comparison; `kind` is `model`, `live` or `base`."""

    kind: str
    name: str
    value: float | None = None
    interval: Interval = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One metric of every method, on an axis from 0 to `top`."""

    metric: str
    top: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Tile:
    """A large figure, with what to hold it against."""

    name: str
    value: str
    beside: tuple[tuple[str, str], ...]


def render_html(card: Card) -> str:
    """Draws the page.

    Args:
        card: Its content; every text in it is escaped, for SKUs and reports come from outside.

    Returns:
        A self-contained HTML document, light or dark as its reader's system, wide or narrow.
    """
    checks = card.verdict.checks
    alarms = [check for status in ("failed", "warned") for check in checks if check.status == status]
    statuses = ("failed", "warned", "passed", "skipped")
    counts = [(status, sum(check.status == status for check in checks)) for status in statuses]
    return _template().render(
        card=card,
        verdict=card.verdict,
        tally=[(status, count) for status, count in counts if count],
        alarms=alarms[:MOST_ALARMS],
        more_alarms=max(0, len(alarms) - MOST_ALARMS),
        passed=[check for check in checks if check.status == "passed"][:200],
        skipped=[check for check in checks if check.status == "skipped"][:200],
        tiles=tiles_of(card),
        comparisons=comparisons_of(card),
        metric_names=list(card.verdict.metrics),
        table=_table(card),
        top=top_of_slices(card.slices),
        any_champion=any(part.champion is not None for group in card.slices for part in group.slices),
        lines=[line_of(curve) for curve in card.curves],
        bars=bars_of(card.data),
        costs=costs_of(card.cost) if card.cost else [],
        shadow=shadow_of(card.shadow) if card.shadow else [],
    )


def tiles_of(card: Card) -> list[Tile]:
    """Returns the figures below the verdict: those of the headline metrics that were measured."""
    tiles = []
    for name in TILES:
        measured = card.find(name)
        value = card.verdict.metrics.get(name, measured.value if measured else None)
        if finite(value) is None:
            continue
        others = {method: values[name] for method, values in card.verdict.baselines.items() if name in values}
        live = others.pop("champion", measured.champion if measured else None)
        beside = []
        if live is not None:
            beside.append(("live", f"live model {shown(live, name)}"))
        if others:
            best = max(others, key=lambda method: others[method])
            beside.append(
                ("soft", f"best baseline {shown(others[best], name)} ({shorten(method(best), 20)})")
            )
        if name == "single_answer_ms" and measured and measured.interval:
            beside.append(("soft", f"90 % within {shown(measured.interval[1], name)} ms"))
        tiles.append(Tile(words(name), shown(value, name), tuple(beside)))
    return tiles


def comparisons_of(card: Card) -> list[Comparison]:
    """Returns a plot for each of two metrics: the model, the live one, then the baselines from the best."""
    plots = []
    for metric in COMPARED:
        if metric not in card.verdict.metrics:
            continue
        measured = card.find(metric)
        interval = measured.interval if measured else None
        rows = [Row("model", "this model", card.verdict.metrics[metric], interval)]
        others = [
            Row("live" if name == "champion" else "base", method(name), values[metric])
            for name, values in card.verdict.baselines.items()
            if metric in values
        ]
        rows += sorted(others, key=lambda row: (row.kind != "live", -(row.value or 0.0)))
        plots.append(Comparison(metric, top_of_methods(card, metric), tuple(rows)))
    return plots


def costs_of(cost: Cost) -> list[tuple[str, str]]:
    """Returns what the run and its endpoint cost, as names and texts."""
    training = f"{duration(cost.training_seconds)} of {cost.training_instance}"
    endpoint = f"Endpoint, while it stands: {cost.endpoint_instance}"
    price, month = cost.endpoint_usd_per_hour, cost.endpoint_usd_per_month
    standing = (
        DASH if price is None or month is None else f"${price:,.3g} an hour, about ${month:,.0f} a month"
    )
    paid = "no price known" if cost.training_usd is None else money(cost.training_usd)
    saved = "" if cost.training_saving is None else f", {cost.training_saving:.0%} saved by spare capacity"
    return [
        (f"Training: {training}", paid + saved),
        (endpoint, "no price known" if standing == DASH else standing),
    ]


def shadow_of(test: ShadowReport) -> list[tuple[str, str, str]]:
    """Returns what each model did in the shadow test: a name, this model's value, the live one's."""
    mine, live = test.challenger, test.live
    return [
        ("Requests", number(mine.requests), number(live.requests)),
        ("Failed", _failed(mine), _failed(live)),
        ("Average answer, ms", shown(mine.latency_ms, "_ms"), shown(live.latency_ms, "_ms")),
        ("Slowest answer, ms", shown(mine.slowest_ms, "_ms"), shown(live.slowest_ms, "_ms")),
    ]


def _failed(variant: ShadowVariant) -> str:
    return f"{number(variant.errors)} ({percent(variant.error_share)})"


def _table(card: Card) -> list[Row]:
    names = list(card.verdict.metrics)
    rows = [
        Row("model", "this model", values=tuple(shown(card.verdict.metrics[name], name) for name in names))
    ]
    for name, values in card.verdict.baselines.items():
        kind = "live" if name == "champion" else "base"
        rows.append(
            Row(kind, method(name), values=tuple(shown(values.get(metric), metric) for metric in names))
        )
    return rows


def _sku(text: str) -> str:
    """A hash says nothing by its length; a name that people gave is shown whole."""
    return shorten(text, _CUT_CHIP if len(text) > _LONGEST_CHIP else _LONGEST_CHIP)


def _segment(path: str) -> str:
    """The end of a path of categories, which tells the most."""
    *_, last = path.rstrip("/").split("/")
    return _sku(last or path)


def _described(product: Product) -> str:
    parts = [] if product.category is None else [_segment(product.category)]
    if product.price_bucket is not None:
        parts.append(f"price {product.price_bucket:g}")
    return ", ".join(parts)


def _pairs(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    return [(fact.name, fact.text) for fact in facts]


def _moment(text: str) -> str:
    """An ISO moment as people read it."""
    return f"{shorten(text)[:16].replace('T', ' ')} UTC"


def page_environment(templates: Path) -> Environment:
    """Returns what draws HTML from a folder of templates; texts are escaped, a missing one is an error."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, short=shorten)
    return environment


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = page_environment(TEMPLATES)
    environment.filters.update(
        band=lambda band: band if band in BANDS else "skipped",
        described=_described,
        moment=_moment,
        pairs=_pairs,
        place=place,
        segment=_segment,
        shown=shown,
        sku=_sku,
        strip=strip_of,
        words=words,
    )
    return environment.get_template("card.html.j2")

"""Makes a card of what a run left: verdict, suite's report, job's metrics, data and what goes on around it.

Everything but the verdict comes from files that may be damaged, or from a shop that is not to be trusted:
what is not of the expected shape is left out, texts are cut and long lists too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from include.cards.card import (
    Asked,
    Card,
    Cost,
    Curve,
    Example,
    Fact,
    Interval,
    Metric,
    Product,
    Rollback,
    Slice,
    SliceGroup,
    Stage,
)
from include.cards.data import Data
from include.cards.headline import headline_of, outcome_of
from include.cards.text import DASH, duration, finite, mapping, number, percent, shorten, words
from include.contracts import Verdict

MOST_EPOCHS = 1000
MOST_METRICS, MOST_BASELINES, MOST_GROUPS, MOST_SLICES = 60, 8, 12, 24
MOST_EXAMPLES, MOST_SEEN, MOST_OFFERED = 8, 6, 5
MOST_PARAMS, MOST_SETTINGS = 40, 60
LONGEST_SKU = 128
_BY = "_by_"
_TITLES = {
    "session_length": "Products seen so far",
    "popularity": "Popularity of the next product",
    "popularity_decile": "Popularity decile of the next product",
    "category": "Category of the next product",
    "price": "Price of the next product",
    "first_action": "First action of the session",
    "hour": "Hour of the day (UTC)",
}


@dataclass(frozen=True)
class Surroundings:
    """What is known around a verdict; whatever could not be had is empty or None.

    Attributes:
        params: The run's Params by name, and which of them the trigger set.
        products: Category and price bucket of the example sessions' products, by SKU.
    """

    run_id: str | None = None
    judged_at: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    chosen: frozenset[str] = frozenset()
    products: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    data: Data = Data()
    lineage: tuple[Stage, ...] = ()
    cost: Cost | None = None
    rollback: Rollback | None = None


def compose(
    verdict: Verdict,
    report_text: str | None,
    training: Mapping[str, object] | None = None,
    around: Surroundings | None = None,
) -> Card:
    """Returns the card of a verdict.

    Args:
        verdict: The gate's decision.
        report_text: The suite's report; the card says so where it cannot be read.
        training: The job's own `metrics.json`; whatever it lacks is left out.
        around: What the run knows besides.
    """
    report, fault = read_report(report_text)
    known, made = around or Surroundings(), training or {}
    checks = _dicts(report.get("checks"))[:MOST_METRICS]
    metrics = tuple(_metric(check) for check in checks)
    return Card(
        outcome=outcome_of(verdict),
        headline=headline_of(verdict, metrics),
        verdict=verdict,
        run_id=None if known.run_id is None else shorten(known.run_id, 250),
        judged_at=known.judged_at,
        report_error=fault,
        asked=_asked(known),
        metrics=metrics,
        slices=tuple(_groups(checks, metrics))[:MOST_GROUPS],
        examples=tuple(_example(entry, known.products) for entry in example_entries(report)),
        curves=tuple(_curves(made.get("history"))),
        facts=_facts(made),
        settings=_settings(made),
        data=known.data,
        lineage=known.lineage,
        cost=known.cost,
        rollback=known.rollback,
    )


def read_report(text: str | None) -> tuple[Mapping[str, object], str | None]:
    """Returns the suite's report as it lies there, and why it cannot be read where that is so."""
    try:
        return mapping(json.loads(text or "")), None
    except (ValueError, RecursionError) as error:
        return {}, shorten(f"The suite's report cannot be read: {error}", 300)


def example_entries(report: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Returns the report's test queries that a card shows."""
    entries = [entry for entry in _dicts(report.get("examples")) if isinstance(entry.get("target"), str)]
    return entries[:MOST_EXAMPLES]


def example_skus(report: Mapping[str, object]) -> set[str]:
    """Returns every SKU that the card will show, for its metadata to be looked up."""
    found: set[str] = set()
    for entry in example_entries(report):
        found.add(str(entry.get("target")))
        found.update(_texts(entry.get("session"))[-MOST_SEEN:])
        found.update(_texts(entry.get("predictions"))[:MOST_OFFERED])
    return found


def _metric(check: Mapping[str, object]) -> Metric:
    error = check.get("error")
    baselines = {
        shorten(name): found
        for name, value in list(mapping(check.get("baselines")).items())[:MOST_BASELINES]
        if (found := finite(value)) is not None
    }
    return Metric(
        name=shorten(check.get("name")),
        description=shorten(check.get("description", ""), 300),
        value=finite(check.get("value")),
        interval=_interval(check.get("interval")),
        sample_size=_count(check.get("sample_size")),
        champion=finite(check.get("champion")),
        baselines=baselines,
        error=None if error is None else shorten(error, 300),
    )


def _groups(checks: Sequence[Mapping[str, object]], metrics: Sequence[Metric]) -> Iterable[SliceGroup]:
    for check, metric in zip(checks, metrics, strict=True):
        slices = mapping(check.get("slices"))
        if not slices:
            continue
        measured, _, by = metric.name.partition(_BY)
        whole = next((other.value for other in metrics if other.name == measured), None)
        yield SliceGroup(
            metric=measured,
            title=_TITLES.get(by) or words(by or metric.name),
            value=whole,
            slices=tuple(_slice(name, part) for name, part in list(slices.items())[:MOST_SLICES]),
        )


def _slice(name: object, part: object) -> Slice:
    found = mapping(part)
    return Slice(
        name=shorten(name),
        value=finite(found.get("value")),
        sample_size=_count(found.get("sample_size")),
        interval=_interval(found.get("interval")),
        champion=finite(found.get("champion")),
        difference=finite(found.get("difference")),
        difference_interval=_interval(found.get("difference_interval")),
    )


def _example(entry: Mapping[str, object], products: Mapping[str, tuple[object, object]]) -> Example:
    def product(sku: str) -> Product:
        category, price = products.get(sku, (None, None))
        return Product(
            sku=shorten(sku, LONGEST_SKU),
            category=shorten(category, LONGEST_SKU) if category else None,
            price_bucket=finite(price),
        )

    return Example(
        session=tuple(product(sku) for sku in _texts(entry.get("session"))[-MOST_SEEN:]),
        target=product(str(entry.get("target"))),
        predictions=tuple(product(sku) for sku in _texts(entry.get("predictions"))[:MOST_OFFERED]),
        rank=_count(entry.get("rank")),
    )


def _curves(history: object) -> Iterable[Curve]:
    rows = _dicts(history)[:MOST_EPOCHS]
    quantities = (
        ("loss", "Training loss", False),
        ("val_mrr@20", "MRR@20 of the network alone, validation sessions", True),
        ("val_hit_rate@20", "Hit rate@20 of the network alone, validation sessions", True),
    )
    for key, title, higher_is_better in quantities:
        points = tuple(
            (place, value)
            for place, row in enumerate(rows, start=1)
            if (value := finite(row.get(key))) is not None
        )
        if len(points) < 2:  # one epoch is no curve
            continue
        best = max(points, key=lambda point: point[1])[0] if higher_is_better else None
        yield Curve(title=title, points=points, best=best)


def _asked(known: Surroundings) -> tuple[Asked, ...]:
    return tuple(
        Asked(
            name=shorten(name),
            text=DASH if value is None else shorten(value, 500),
            chosen=name in known.chosen,
        )
        for name, value in list(known.params.items())[:MOST_PARAMS]
    )


def _facts(training: Mapping[str, object]) -> tuple[Fact, ...]:
    data = mapping(training.get("training"))
    shares = mapping(mapping(training.get("blend")).get("shares"))
    facts = [
        ("Sessions learned from", number(data.get("sessions"))),
        ("Interactions learned from", number(data.get("interactions"))),
        ("Products", number(data.get("products"))),
        ("Epochs", number(data.get("epochs"))),
        ("Time in the script", duration(data.get("seconds"))),
        *(
            (f"Mean share of {shorten(name)} in the blend", percent(share))
            for name, share in list(shares.items())[:MOST_BASELINES]
        ),
        ("Test sessions", number(training.get("sessions"))),
        ("Test queries", number(training.get("queries"))),
        ("Next products unknown to training", percent(training.get("unknown_target_share"))),
    ]
    return tuple(Fact(name=name, text=text) for name, text in facts if text != DASH)


def _settings(training: Mapping[str, object]) -> tuple[Fact, ...]:
    chosen = dict(mapping(training.get("hyperparameters")))
    if "seed" in training:
        chosen.setdefault("seed", training["seed"])
    versions = {f"{name} version": value for name, value in mapping(training.get("versions")).items()}
    listed = list({**chosen, **versions}.items())[:MOST_SETTINGS]
    return tuple(Fact(name=shorten(name), text=shorten(value)) for name, value in listed)


def _dicts(value: object) -> list[Mapping[str, object]]:
    """Returns the entries of a list, each as a mapping."""
    return [mapping(entry) for entry in value] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else []


def _count(value: object) -> int:
    found = finite(value)
    return 0 if found is None else max(0, int(found))


def _interval(value: object) -> Interval:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = finite(value[0]), finite(value[1])
    return None if low is None or high is None else (low, high)

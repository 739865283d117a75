"""The card as data: what a person needs to decide whether to trust a model, in JSON types alone.

`include.cards.compose` makes it, `include.cards.html` and `include.cards.markdown` show it, and its JSON is
`Card.model_dump_json`. Every text in it, but the verdict's, is bounded,
and every number finite.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from include.cards.data import Data
from include.contracts import Contract, ShadowReport, Verdict

Outcome = Literal["approved", "overridden", "rejected"]
Interval = tuple[float, float] | None


class Fact(Contract):
    """A name and what is known under it."""

    name: str
    text: str


class Asked(Contract):
    """A Param of the run; `chosen` where the run's trigger set it, and not the default."""

    name: str
    text: str
    chosen: bool = False


class Metric(Contract):
    """One measurement of the suite.

    Attributes:
        champion: The live model's value on the same queries; None where there is none.
        error: Why it could not be measured.
    """

    name: str
    description: str = ""
    value: float | None = None
    interval: Interval = None
    sample_size: int = 0
    champion: float | None = None
    baselines: dict[str, float] = Field(default_factory=dict)
    error: str | None = None


class Slice(Contract):
    """A part of the test queries, with the model's and the live model's value."""

    name: str
    value: float | None
    sample_size: int = 0
    interval: Interval = None
    champion: float | None = None
    difference: float | None = None
    difference_interval: Interval = None


class SliceGroup(Contract):
    """The slices of one measurement; `value` is that of all queries together."""

    metric: str
    title: str
    value: float | None
    slices: tuple[Slice, ...]


class Product(Contract):
    """A product as a customer would see it; what the catalogue does not know is None."""

    sku: str
    category: str | None = None
    price_bucket: float | None = None


class Example(Contract):
    """A test query: what the customer had seen, chose next, and was offered; `rank` 0 = missed."""

    session: tuple[Product, ...]
    target: Product
    predictions: tuple[Product, ...]
    rank: int


class Curve(Contract):
    """A quantity by epoch; `best` is the epoch of the highest value, where higher is better."""

    title: str
    points: tuple[tuple[int, float], ...]
    best: int | None = None


class Stage(Contract):
    """One link of the chain from raw loads to the endpoint."""

    kind: str
    name: str
    details: tuple[str, ...] = ()


class Cost(Contract):
    """What the run and its endpoint cost at list prices; None where no price is known.

    Attributes:
        training_seconds: Billable ones, of all instances.
        training_usd: Billable seconds times the price of the instance.
        training_saving: Share of the time that spare capacity left unbilled; None on demand.
        endpoint_usd_per_hour: Price of the one instance behind the endpoint.
        prices_of: Date of the price list.
    """

    training_seconds: int
    training_instance: str
    training_usd: float | None
    training_saving: float | None = None
    endpoint_instance: str
    endpoint_usd_per_hour: float | None
    endpoint_usd_per_month: float | None
    region: str
    prices_of: str | None


class Rollback(Contract):
    """How to undo what the run does, in a sentence and as commands."""

    text: str
    commands: tuple[str, ...] = ()


class Card(Contract):
    """Everything that the page shows.

    Attributes:
        headline: The decision in one or two sentences.
        run_id: Airflow's run; None outside of one.
        judged_at: ISO moment (UTC).
        report_error: Why the suite's report could not be shown.
        metrics: All that the suite measured.
        facts: Sizes and times of the training.
        settings: Hyper-parameters and versions.
        shadow: How it answered a copy of the live traffic; None without such a test, and before it.
    """

    schema_version: Literal[1] = 1
    outcome: Outcome
    headline: str
    verdict: Verdict
    run_id: str | None = None
    judged_at: str | None = None
    report_error: str | None = None
    asked: tuple[Asked, ...] = ()
    metrics: tuple[Metric, ...] = ()
    slices: tuple[SliceGroup, ...] = ()
    examples: tuple[Example, ...] = ()
    curves: tuple[Curve, ...] = ()
    facts: tuple[Fact, ...] = ()
    settings: tuple[Fact, ...] = ()
    data: Data = Data()
    lineage: tuple[Stage, ...] = ()
    cost: Cost | None = None
    rollback: Rollback | None = None
    shadow: ShadowReport | None = None

    def find(self, name: str) -> Metric | None:
        """Returns the measurement of that name, None where the suite did not report it."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def render_json(card: Card) -> str:
    """Returns the card as JSON; `Card.model_validate_json` reads it back."""
    return card.model_dump_json(indent=1) + "\n"

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from include.cards.card import Bar, Card, Example, draw, learning_curve, number, shorten
from include.contracts import Check, Verdict

TRAINING = {
    "history": [{"epoch": n, "loss": 6.0 / n, "val_mrr@20": 0.1 * n, "seconds": 2.0} for n in (1, 2, 3)],
    "training": {"sessions": 4000, "interactions": 19000, "products": 300, "epochs": 7, "seconds": 12.5},
    "blend": {"shares": {"network": 0.613, "own": 0.387}, "weights": [[0.1, 0.2]], "val_mrr@20": 0.2},
    "hyperparameters": {"architecture": "gru", "embedding_dim": 128},
    "versions": {"keras": "3.15.1"},
    "seed": 42,
    "queries": 900,
    "sessions": 300,
    "unknown_target_share": 0.014,
}
NASTY = [
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "</style><svg onload=alert(1)>",
    "&amp;<b>\x00\u202e",
    "x" * 10_000,
]


def verdict(approved: bool = True, **changes: Any) -> Verdict:
    checks = (
        Check(
            name="hit_rate_floor",
            status="passed" if approved else "failed",
            value=0.41,
            comparison=">=",
            bound=0.02,
            sample_size=900,
            interval=(0.38, 0.44),
            reason="hit_rate@10 is 0.41.",
        ),
        Check(
            name="coverage",
            status="skipped",
            value=None,
            comparison=">=",
            bound=None,
            sample_size=0,
            reason="Nothing to see.",
        ),
    )
    fields: dict[str, Any] = {
        "approved": approved,
        "job_name": "pms-0123456789ab",
        "snapshot_id": "snap-1",
        "rules_version": 1,
        "checks": checks,
        "metrics": {"hit_rate@20": 0.55, "coverage@20": 0.8},
        "baselines": {"popularity": {"hit_rate@20": 0.22}},
        "report_uri": "s3://b/report.json",
    }
    return Verdict(**(fields | changes))


class Page(HTMLParser):
    """Collects tags, outside references and handlers, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "line", "polyline", "circle"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def full_card() -> Card:
    bars = [Bar("popularity", "head", 0.6, 500), Bar("popularity", "unknown", None, 3)]
    return Card(
        verdict(), TRAINING, bars, [Example(["a", "b"], "c", ["d", "c"], 2), Example(["a"], "z", ["b"], 0)]
    )


def test_the_card_shows_verdict_metrics_baselines_curve_counts_examples_and_hyperparameters() -> None:
    html = draw(full_card())
    for text in (
        "approved",
        "pms-0123456789ab",
        "snap-1",
        "hit_rate_floor",
        "0.3800 to 0.4400",
        "popularity",
        "0.2200",
        "19,000",
        "Epochs",
        "Mean share of network in the blend",
        "61.3 %",
        "1.4 %",
        "embedding_dim",
        "128",
        "seed",
        "keras version",
        "missed",
        "60.0 %",
    ):
        assert text in html, text
    page = Page(html)
    assert page.open == []
    assert page.tags.count("polyline") == 2
    assert page.tags.count("circle") == 6


def test_the_card_needs_nothing_but_itself() -> None:
    html = draw(full_card())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "action", "style"}
    assert "url(" not in html and "@import" not in html
    assert "prefers-color-scheme: dark" in html


@pytest.mark.parametrize("sku", NASTY, ids=["script", "attribute", "template", "style", "control", "long"])
def test_a_nasty_sku_stays_text(sku: str) -> None:
    plain = Page(draw(full_card()))
    training = TRAINING | {"hyperparameters": {sku: sku}}
    card = Card(
        verdict(False, override_reason=None, job_name=sku, metrics={sku: 0.5}, baselines={sku: {sku: 0.1}}),
        training,
        [Bar(sku, sku, 0.5, 1)],
        [Example([sku, sku], sku, [sku], 1)],
    )
    html = draw(card)
    page = Page(html)
    assert set(page.tags) <= set(plain.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "49" not in re.sub(r"\s", "", html.split("<main>")[1])
    assert len(html) < 20_000


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"approved": True}, "approved"),
        ({"approved": False}, "rejected"),
        ({"approved": True, "override_reason": "The sale <b>starts</b> today."}, "overridden"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_outcome_is_the_headline(changes: dict[str, Any], outcome: str) -> None:
    html = draw(Card(verdict(**changes)))
    assert f'class="outcome {outcome}">{outcome}<' in html
    if outcome == "overridden":
        assert "The sale &lt;b&gt;starts&lt;/b&gt; today." in html


SPARSE: dict[str, dict[str, object]] = {
    "nothing": {},
    "history_of_rubbish": {"history": [None, 3, {"loss": "x"}, {"loss": math.nan}]},
    "wrong_shapes": {"history": {}, "training": [], "hyperparameters": "x", "versions": None},
    "not_numbers": {"training": {"sessions": "many"}, "queries": math.inf, "unknown_target_share": None},
}


@pytest.mark.parametrize("name", SPARSE)
def test_what_the_job_did_not_report_is_left_out(name: str) -> None:
    html = draw(Card(verdict(metrics={}, baselines={}), SPARSE[name]))
    assert Page(html).open == []
    assert "<svg" not in html
    assert "nan" not in html.lower().split("<main>")[1]


def test_a_curve_rises_from_its_lowest_to_its_highest_value() -> None:
    chart = learning_curve(TRAINING["history"], "val_mrr@20", "MRR")
    assert chart is not None
    (x1, y1), _, (x3, y3) = chart.dots
    assert x1 < x3 and y1 > y3, "drawing units grow downwards"
    assert all(0 <= x <= chart.width and 0 <= y <= chart.height for x, y in chart.dots)
    assert (chart.low, chart.high, chart.last_epoch) == ("0.1000", "0.3000", 3)


def test_a_flat_curve_is_drawn() -> None:
    chart = learning_curve([{"loss": 1.0}, {"loss": 1.0}], "loss", "Loss")
    assert chart is not None and len({y for _, y in chart.dots}) == 1


def test_one_epoch_is_no_curve() -> None:
    assert learning_curve([{"loss": 1.0}], "loss", "Loss") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(12345, "12,345"), (0.25, "0.2500"), (0.0, "0.0000"), (1.0, "1.0000"), (900.0, "900"), (2e-5, "2e-05")]
    + [(value, "–") for value in (None, math.nan, math.inf, "7", True)],
)
def test_numbers_are_for_people(value: object, expected: str) -> None:
    assert number(value) == expected


def test_shortened_text_keeps_its_start() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"

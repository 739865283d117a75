from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from include.cards.around import Live, rollback_of
from include.cards.compose import Surroundings, compose
from include.cards.markdown import escape, render_markdown
from tests.cards.cards import NASTY, Page, check, full_card, measured, report, verdict

HEADINGS = [
    "# Model Card for",
    "## Model Details",
    "### Model Description",
    "## Uses",
    "### Direct Use",
    "### Out-of-Scope Use",
    "## Bias, Risks, and Limitations",
    "### Recommendations",
    "## Training Details",
    "### Training Data",
    "### Training Procedure",
    "## Evaluation",
    "### Testing Data, Factors & Metrics",
    "### Results",
    "# Dataset Card for",
    "## Dataset Description",
    "## Dataset Structure",
    "### Data Splits",
    "## Dataset Creation",
    "### Source Data",
    "## Considerations for Using the Data",
]


def read(text: str) -> tuple[dict[str, Any], Page]:
    """Reads a card as a Markdown reader does that lets HTML through and turns addresses into links."""
    _, front, body = text.split("---\n", 2)
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return yaml.safe_load(front), Page(reader.render(body))


def test_the_headings_are_those_of_model_and_dataset_cards_in_their_order() -> None:
    text = render_markdown(full_card())
    places = [text.index(f"\n{heading}") for heading in HEADINGS]
    assert places == sorted(places)


def test_the_metadata_name_data_set_and_results() -> None:
    front, _ = read(render_markdown(full_card()))
    assert front["library_name"] == "keras" and front["datasets"] == ["snap-1"]
    [model] = front["model-index"]
    assert model["name"] == "pms-0123456789ab"
    assert {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]} == {
        "hit_rate@20": 0.55,
        "mrr@20": 0.25,
        "coverage@20": 0.8,
    }


def test_verdict_results_slices_and_costs_are_told() -> None:
    _, page = read(render_markdown(full_card()))
    for text in (
        "Approved.",
        "may go live",
        "Leaking model (warned): leaking_model says so.",
        "session kNN",
        "live model",
        "53.0 %",
        "Hit rate@20: Popularity of the next product",
        "head",
        "58.0 %",
        "$0.16",
        "embedding_dim",
        "8 (chosen)",
        "manual__1",
    ):
        assert text in page.text, text
    assert page.tags.count("table") >= 5


def test_commands_are_code() -> None:
    decided = verdict()
    live = Live(endpoint="shop", instance="i", region="us-east-1", config="pms-before")
    card = compose(decided, None, None, Surroundings(rollback=rollback_of(decided, live)))
    _, page = read(render_markdown(card))
    assert "--endpoint-config-name pms-before" in page.text and "pre" in page.tags


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nasty_text_stays_text(text: str) -> None:
    found = report(checks=[measured(f"x_by_{text}", slices={text: {"value": 0.5, "sample_size": 1}})])
    decided = verdict(
        False,
        job_name=text,
        snapshot_id=text,
        checks=(check(text, "failed", reason=text),),
        metrics={text: 0.5},
        baselines={text: {text: 0.1}},
        override_reason=text,
    )
    around = Surroundings(
        run_id=text,
        params={text: text},
        rollback=rollback_of(verdict(), Live(endpoint=text, instance="i", config=text)),
    )
    card = compose(decided, json.dumps(found), {"hyperparameters": {text: text}}, around)
    front, page = read(render_markdown(card))
    assert len(front["model-index"][0]["results"][0]["metrics"]) == 1
    assert not {"a", "img", "script", "svg", "b", "style", "em", "del"} & set(page.tags)
    _, plain = read(render_markdown(full_card()))
    assert page.tags.count("h1") == plain.tags.count("h1") == 2
    assert len(render_markdown(card)) < 30_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hit_rate@20 is 0.5, needs >= 1.", r"hit\_rate\@20 is 0.5, needs &gt;= 1."),
        ("a|b", r"a\|b"),
        ("see https://evil.example", r"see https\://evil.example"),
        ("www.evil.example", r"www\.evil.example"),
        ("12:30, x-y", "12:30, x-y"),
    ],
)
def test_only_what_means_something_is_escaped(text: str, expected: str) -> None:
    assert escape(text) == expected

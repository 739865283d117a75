from __future__ import annotations

import json
import re
from typing import Any

import pytest

from include.cards.around import Live, lineage_of, rollback_of
from include.cards.compose import Surroundings, compose
from include.cards.html import MOST_ALARMS, render_html
from tests.cards.cards import (
    COST,
    NASTY,
    TRAINED,
    TRAINING,
    Page,
    check,
    full_card,
    measured,
    report,
    verdict,
)

LIVE = Live(endpoint="shop", instance="ml.m5.large", region="us-east-1", config="pms-before")


def test_the_page_shows_everything_that_a_person_decides_by() -> None:
    page = Page(render_html(full_card()))
    for text in (
        "Approved",
        "The model may go live.",
        "pms-0123456789ab",
        "snap-1",
        "2026-11-24 03:41 UTC",
        "rules version 7",
        "1 warned",
        "1 passed",
        "1 skipped",
        "Leaking model",
        "leaking_model says so.",
        "Hit rate floor",
        "0.3800 to 0.4400",
        "≥ 0.0200",
        "Nothing to see.",
        "this model",
        "live model 53.0 %",
        "best baseline 49.0 % (session kNN)",
        "90 % within 9.2 ms",
        "Popularity of the next product",
        "head",
        "60.0 %",
        "58.0 %",
        "It fell over.",
        "recommended at place 2",
        "not among the 20 recommendations",
        "pans, price 6",
        "Interactions learned from",
        "19,000",
        "best: 0.3000 in epoch 3",
        "embedding_dim",
        "keras version",
        "$0.16",
        "$0.115 an hour, about $84 a month",
        "epochs",
    ):
        assert text in page.text, text
    assert page.open == []
    assert page.tags.count("polyline") == 3


def test_the_verdict_comes_first_then_why_then_the_details() -> None:
    text = Page(render_html(full_card())).text
    order = ["Approved", "Hit rate@20", "Why", "Beside the live model", "For whom it works", "Training data"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_page_needs_nothing_but_itself() -> None:
    html = render_html(full_card())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(page.tags)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "action", "style"}
    assert "url(" not in html and "@import" not in html
    assert "prefers-color-scheme: dark" in html and "max-width: 40rem" in html


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nasty_text_stays_text_wherever_it_comes_from(text: str) -> None:
    slices = {text: {"value": 0.5, "sample_size": 1, "champion": 0.4}}
    found = report(
        checks=[
            measured("hit_rate@20"),
            measured(f"x_by_{text}", description=text, baselines={text: 0.1}, slices=slices, error=text),
        ],
        examples=[{"session": [text, text], "target": text, "predictions": [text], "rank": 1}],
    )
    checks = (
        check(text, "failed", reason=text),
        check(text, reason=text),
        check(text, "skipped", reason=text),
    )
    decided = verdict(
        False,
        job_name=text,
        snapshot_id=text,
        checks=checks,
        metrics={text: 0.5, "hit_rate@20": 0.5},
        baselines={text: {text: 0.1, "hit_rate@20": 0.1}},
        override_reason=text,
    )
    around = Surroundings(
        run_id=text,
        params={text: text},
        chosen=frozenset({text}),
        products={text: (text, 1.0)},
        lineage=lineage_of(
            decided, TRAINED, {"interval": {"start": text, "end": text}}, (), text, text, LIVE
        ),
        rollback=rollback_of(decided, LIVE.model_copy(update={"config": text})),
    )
    training = TRAINING | {"hyperparameters": {text: text}, "versions": {text: text}}
    html = render_html(compose(decided, json.dumps(found), training, around))
    page, plain = Page(html), Page(render_html(full_card()))
    assert set(page.tags) <= set(plain.tags) | {"blockquote", "pre", "small", "ol"}
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert not {name for name, _ in page.attributes} & {"src", "href", "style"}
    assert "49" not in re.sub(r"\s", "", html.split("<main>")[1])
    assert len(html) < 60_000


@pytest.mark.parametrize(
    ("changes", "outcome", "why"),
    [
        ({"approved": True}, "approved", "Why"),
        ({"approved": False}, "rejected", "Why it was rejected"),
        (
            {"approved": True, "override_reason": "The sale <b>starts</b>."},
            "overridden",
            "What the gate found",
        ),
    ],
    ids=["approved", "rejected", "overridden"],
)
def test_the_outcome_is_the_headline(changes: dict[str, Any], outcome: str, why: str) -> None:
    html = render_html(compose(verdict(**changes), None))
    assert f'<h1 class="outcome {outcome}">{outcome.capitalize()}</h1>' in html
    assert f"<h2>{why}</h2>" in html
    assert ("The sale &lt;b&gt;starts&lt;/b&gt;." in html) == (outcome == "overridden")


def test_a_quiet_night_says_so() -> None:
    text = Page(render_html(compose(verdict(checks=(check("a"), check("b"))), None))).text
    assert "Every rule was met" in text and "2 rules passed" in text and "skipped" not in text


def test_failures_come_before_warnings_and_many_are_cut() -> None:
    checks = (check("w", "warned"), *(check(f"f{number}", "failed") for number in range(MOST_ALARMS + 5)))
    text = Page(render_html(compose(verdict(False, checks=checks), None))).text
    assert "and 6 more" in text and "f0 says so" in text and "w says so" not in text


def test_without_a_live_model_nothing_is_compared_with_it() -> None:
    found = json.dumps(report()).replace('"champion"', '"absent"')
    decided = verdict(champion=None, baselines={"popularity": {"hit_rate@20": 0.2}})
    text = Page(render_html(compose(decided, found))).text
    assert "live model 5" not in text and "live model53" not in re.sub(r"\s", "", text)
    assert "popularity" in text and "head" in text


EMPTY: dict[str, dict[str, Any]] = {
    "nothing": {"metrics": {}, "baselines": {}, "champion": None},
    "no baselines": {"baselines": {}},
    "no checks": {"checks": ()},
}


@pytest.mark.parametrize("name", EMPTY)
def test_what_is_missing_leaves_no_hole(name: str) -> None:
    html = render_html(compose(verdict(**EMPTY[name]), None))
    page = Page(html)
    assert page.open == []
    assert "nan" not in page.text.lower() and "None" not in page.text
    assert "cannot be read" in page.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training_usd": None}, "no price known"),
        ({"training_usd": 1.5, "training_saving": 0.634}, "$1.50, 63% saved by spare capacity"),
        ({"endpoint_usd_per_hour": None, "endpoint_usd_per_month": None}, "no price known"),
        ({"prices_of": None, "region": "eu-north-1"}, "The price list has no eu-north-1."),
        ({"training_usd": 0.001}, "< $0.01"),
    ],
)  # fmt: skip
def test_a_cost_that_is_not_known_is_not_invented(changes: dict[str, Any], said: str) -> None:
    around = Surroundings(cost=COST.model_copy(update=changes))
    assert said in Page(render_html(compose(verdict(), None, None, around))).text


def test_lineage_and_rollback_are_on_the_page() -> None:
    decided = verdict()
    around = Surroundings(
        lineage=lineage_of(decided, TRAINED, None, (), "shop", "ml.g5.xlarge", LIVE),
        rollback=rollback_of(decided, LIVE),
    )
    text = Page(render_html(compose(decided, None, None, around))).text
    assert "6 min 52 s billable" in text and "live when judged: pms-ba9876543210" in text
    assert "--endpoint-config-name pms-before" in text

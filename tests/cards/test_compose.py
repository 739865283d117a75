from __future__ import annotations

import json
import math
from typing import Any

import pytest

from include.cards.card import Card, render_json
from include.cards.compose import Surroundings, compose, example_skus
from tests.cards.cards import NASTY, TRAINING, check, full_card, measured, report, verdict


def test_the_card_holds_what_was_measured_beside_the_live_model() -> None:
    card = full_card()
    assert card.outcome == "approved" and card.report_error is None
    hits = card.find("hit_rate@20")
    assert hits is not None
    assert (hits.value, hits.interval, hits.champion, hits.baselines) == (
        0.55,
        (0.5, 0.6),
        0.53,
        {"popularity": 0.22},
    )
    [group] = card.slices
    assert (group.metric, group.title, group.value) == (
        "hit_rate@20",
        "Popularity of the next product",
        0.55,
    )
    head, unknown = group.slices
    assert (head.champion, head.difference, head.difference_interval) == (0.58, 0.02, (-0.01, 0.05))
    assert (unknown.value, unknown.champion, unknown.sample_size) == (None, None, 3)
    assert card.examples[0].target.category == "home/pans" and card.examples[0].target.price_bucket == 6
    assert card.examples[0].session[0].category is None
    assert [asked.name for asked in card.asked if asked.chosen] == ["epochs"]
    assert {curve.title.split(",")[0]: curve.best for curve in card.curves} == {
        "Training loss": None,
        "MRR@20 of the network alone": 3,
        "Hit rate@20 of the network alone": 1,
    }


def test_json_reads_back_as_the_same_card() -> None:
    card = full_card()
    text = render_json(card)
    assert Card.model_validate_json(text) == card
    assert json.loads(text)["schema_version"] == 1


@pytest.mark.parametrize(
    ("changes", "outcome", "said"),
    [
        ({}, "approved", "may go live. It finds 55.0 % of the next products in 20 recommendations; the live "
         "model 53.0 %, the best baseline (session kNN) 49.0 %."),
        ({"approved": False}, "rejected", "1 of 3 rules failed. The model does not go live"),
        ({"approved": False, "override_reason": "Sale."}, "overridden", "no on 1 of 3 rules; a person let"),
        ({"baselines": {}}, "approved", "in 20 recommendations."),
        ({"metrics": {}}, "approved", "The model may go live."),
        ({"metrics": {"hit_rate@20": math.nan}}, "approved", "The model may go live."),
    ],
)  # fmt: skip
def test_the_headline_says_the_decision_and_what_it_means(
    changes: dict[str, Any], outcome: str, said: str
) -> None:
    card = compose(verdict(**changes), None)
    assert card.outcome == outcome
    assert said in card.headline and "nan" not in card.headline


@pytest.mark.parametrize(("knows", "said"), [(0.97, False), (0.2, True), (None, False)])
def test_a_live_model_of_another_catalogue_is_not_taken_for_a_bad_one(
    knows: float | None, said: bool
) -> None:
    found = report(checks=[measured("champion_knows", knows)])
    headline = compose(verdict(), json.dumps(found)).headline
    assert ("the live model 53.0 % (it knows the product in 20.0 % of the queries)" in headline) == said


@pytest.mark.parametrize("text", [None, "", '{"checks": [', "\x00", "[" * 200_000], ids=str)
def test_a_report_that_cannot_be_read_is_said_so(text: str | None) -> None:
    card = compose(verdict(), text)
    assert card.report_error is not None and "cannot be read" in card.report_error
    assert card.metrics == card.slices == card.examples == ()


ODD_REPORTS: dict[str, Any] = {
    "a list": [1],
    "nulls": {"checks": None, "examples": None},
    "texts": {"checks": "x", "examples": "x"},
    "rubbish within": {
        "checks": [None, 3, {}],
        "examples": [None, {"target": "t", "session": 3, "rank": "x"}],
    },
    "rubbish deep": {"checks": [measured("x", slices={"a": None, "b": {"value": "x", "interval": [1]}})]},
    "no numbers": {"checks": [measured("x", "y", interval=["a", "b"], champion={}, baselines={"p": "q"})]},
    "booleans": {"checks": [measured("x", True, champion=False, sample_size=True)]},
    "negative": {"checks": [measured("x", sample_size=-5)], "examples": [{"target": "t", "rank": -3}]},
}


@pytest.mark.parametrize("name", ODD_REPORTS)
def test_what_is_not_of_the_expected_shape_is_left_out(name: str) -> None:
    card = compose(verdict(), json.dumps(ODD_REPORTS[name]))
    assert all(metric.value is None or metric.sample_size >= 0 for metric in card.metrics)
    assert all(example.rank >= 0 for example in card.examples)
    assert Card.model_validate_json(render_json(card)) == card


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_missing(value: str) -> None:
    text = json.dumps(report()).replace('"value": 0.6,', f'"value": {value},')
    card = compose(verdict(), text, {"history": [{"loss": math.nan}, {"loss": math.inf}]})
    assert card.slices[0].slices[0].value is None and card.curves == ()
    assert "NaN" not in render_json(card) and "Infinity" not in render_json(card)


SPARSE: dict[str, dict[str, object]] = {
    "nothing": {},
    "history_of_rubbish": {"history": [None, 3, {"loss": "x"}, {"loss": math.nan}]},
    "wrong_shapes": {"history": {}, "training": [], "hyperparameters": "x", "versions": None, "blend": 3},
    "not_numbers": {"training": {"sessions": "many"}, "queries": math.inf, "unknown_target_share": None},
    "one epoch": {"history": [{"loss": 1.0, "val_mrr@20": 0.1}]},
}


@pytest.mark.parametrize("name", SPARSE)
def test_what_the_job_did_not_report_is_left_out(name: str) -> None:
    card = compose(verdict(), None, SPARSE[name])
    assert card.curves == card.facts == card.settings == ()


def test_facts_and_settings_are_those_of_the_job() -> None:
    card = compose(verdict(), None, TRAINING)
    facts = {fact.name: fact.text for fact in card.facts}
    assert facts["Interactions learned from"] == "19,000" and facts["Time in the script"] == "1 min 12 s"
    assert facts["Mean share of network in the blend"] == "61.3 %"
    assert {"seed", "embedding_dim", "keras version"} <= {fact.name for fact in card.settings}


def test_a_large_report_makes_a_small_card() -> None:
    slices = {f"category {n}": {"value": 0.5, "sample_size": 9} for n in range(500)}
    many = report(
        checks=[measured(f"m{n}_by_x", slices=slices, baselines=dict.fromkeys(map(str, range(99)), 1.0))
                for n in range(200)],
        examples=[{"session": ["s" * 9999] * 99, "target": "t", "predictions": ["p"] * 99, "rank": 1}] * 99,
    )  # fmt: skip
    around = Surroundings(params={str(n): "x" * 9999 for n in range(999)})
    training = {"hyperparameters": {str(n): "x" * 9999 for n in range(999)}}
    assert len(render_json(compose(verdict(), json.dumps(many), training, around))) < 200_000


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_texts_of_a_card_are_bounded_and_printable(text: str) -> None:
    found = report(checks=[measured(text, description=text, slices={text: {"value": 0.1}}, error=text)])
    card = compose(verdict(checks=(check("x"),)), json.dumps(found), {"hyperparameters": {text: text}})
    for value in (card.metrics[0].name, card.slices[0].slices[0].name, card.settings[0].name):
        assert value.isprintable() and len(value) <= 60


def test_the_skus_of_the_examples_are_those_that_are_shown() -> None:
    found = report(examples=[{"session": list("abcdefgh"), "target": "t", "predictions": list("123456789")}])
    assert example_skus(found) == {*"cdefgh", "t", *"12345"}
    assert example_skus({}) == example_skus({"examples": [None, {}]}) == set()

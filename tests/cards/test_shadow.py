"""The card's section on the shadow test, as a page and as Markdown."""

from __future__ import annotations

from typing import Any

import pytest
from markdown_it import MarkdownIt

from include.cards.card import Card, render_json
from include.cards.html import render_html
from include.cards.markdown import render_markdown
from include.contracts import ShadowReport, ShadowVariant
from tests.cards.cards import NASTY, Page, full_card


def with_shadow(**changes: Any) -> Card:
    fields: dict[str, Any] = {
        "endpoint_name": "shop",
        "shadow_config": "pms-test",
        "live_config": "pms-before",
        "live_model": "pms-live",
        "model_name": "pms-new",
        "job_name": "pms-0123456789ab",
        "snapshot_id": "snap-1",
        "started_at": "2026-11-30T09:00:00+00:00",
        "ended_at": "2026-11-30T09:30:00+00:00",
        "live": ShadowVariant(requests=1234, errors=1, latency_ms=4.25, slowest_ms=31.0),
        "challenger": ShadowVariant(requests=1200, errors=12, latency_ms=6.5, slowest_ms=40.5),
        "pairs": 1100,
        "compared": 1150,
        "overlap": 0.625,
        "same_first": 0.5,
        "passed": True,
        "reason": "Few copied requests failed.",
        "report_uri": "s3://b/reports/j/r/shadow-pms-test/shadow.json",
    }
    return full_card().model_copy(update={"shadow": ShadowReport(**(fields | changes))})


def markdown(card: Card) -> str:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table"])
    return str(reader.render(render_markdown(card)))


@pytest.mark.parametrize("render", [render_html, markdown])
def test_both_models_stand_side_by_side(render: Any) -> None:
    text = Page(render(with_shadow())).text
    for told in ("Shadow test", "Passed", "Few copied requests failed.", "62.5 %", "50.0 %", "1,150"):
        assert told in text, told
    for mine, live in (("1,200", "1,234"), ("12 (1.0 %)", "1 (0.1 %)"), ("6.5", "4.2"), ("40.5", "31")):
        assert text.index(mine) < text.index(live, text.index(mine)), mine


@pytest.mark.parametrize("render", [render_html, markdown])
def test_a_failed_test_and_one_without_customers_say_so(render: Any) -> None:
    nobody = ShadowVariant(requests=0, errors=0)
    silent = {"live": nobody, "challenger": nobody, "pairs": 0, "compared": 0}
    text = Page(render(with_shadow(passed=False, overlap=None, same_first=None, **silent))).text
    assert "Failed" in text and "–" in text
    assert "Shadow test" not in render(full_card())


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nasty_text_stays_text(text: str) -> None:
    names = ("endpoint_name", "live_model", "reason", "started_at", "ended_at")
    html = render_html(with_shadow(**dict.fromkeys(names, text)))
    page = Page(html)
    assert set(page.tags) == set(Page(render_html(with_shadow())).tags)
    assert page.open == [] and "<script" not in html
    assert "<img" not in markdown(with_shadow(**dict.fromkeys(names, text)))


def test_the_json_is_read_back() -> None:
    assert Card.model_validate_json(render_json(with_shadow())) == with_shadow()

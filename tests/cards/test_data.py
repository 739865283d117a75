from __future__ import annotations

from typing import Any

import pytest

from include.cards.compose import Surroundings, compose
from include.cards.data import Data, DbtTests, count_tests, data_of
from include.cards.html import render_html
from tests.cards.cards import NASTY, Page, verdict

MANIFEST: dict[str, Any] = {
    "interval": {"start": "2026-01-01", "end": "2026-02-01"},
    "split": {"validation_start": "2026-01-20T01:02:03Z", "test_start": "2026-01-25T00:00:00Z"},
    "counts": {"train": 4321, "validation": 500, "test": 501, "catalog": 90, "dropped_straddling": 3},
    "profile": {
        "splits": {"train": {"interactions": 20123}, "test": {"interactions": 2345}},
        "test_unknown_share": 0.034,
        "sessions_per_day": {"2026-01-02": 20, "2026-01-01": 10},
        "catalogue": {"products": 90, "with_category": 0.5, "with_price": None},
    },
}
DRIFT: dict[str, Any] = {
    "previous_snapshot_id": "snap-before",
    "measures": {
        "sessions_per_day": {"value": 2.5, "level": "large"},
        "top_products": {"value": 0.1234, "level": "moderate"},
        "lengths": {"value": 0.0012, "level": "stable"},
    },
}


def results(*entries: tuple[str, str]) -> dict[str, Any]:
    return {"results": [{"unique_id": name, "status": status} for name, status in entries]}


RESULTS = [
    results(("model.shop.sessions", "success"), ("test.shop.unique_sessions.1a", "pass")),
    results(("test.shop.few_bots.2b", "warn"), ("test.shop.not_null.3c", "fail")),
]


def page_of(data: Data) -> str:
    return render_html(compose(verdict(), None, None, Surroundings(data=data)))


def section(data: Data) -> str:
    html = page_of(data)
    assert Page(html).open == []
    return html.split("<h2>Training data</h2>")[1].split("</section>")[0]


def test_the_section_shows_interval_splits_boundaries_drift_and_tests() -> None:
    html = section(data_of(MANIFEST, DRIFT, RESULTS))
    for text in (
        "2026-01-01",
        "2026-02-01",
        "2026-01-20T01:02:03Z",
        "2026-01-25T00:00:00Z",
        '<td>train</td><td class="n">4,321</td><td class="n">20,123</td>',
        '<td>test</td><td class="n">501</td><td class="n">2,345</td>',
        "no session of the train split holds: 3.4 %",
        "snap-before",
        '<td>sessions per day</td><td class="n">ratio 2.5000</td><td class="n large">',
        '<td>top products</td><td class="n">PSI 0.1234</td><td class="n moderate">',
        "2026-01-02: 20 sessions",
        "50%",
        ">1 passed<",
        ">1 warned<",
        "<code>few_bots</code>",
        ">1 failed<",
    ):
        assert text in html, text
    assert "left no results" not in html and "no comparison" not in html


def test_what_is_missing_is_said() -> None:
    html = section(data_of(None, None, None))
    for text in ("manifest could not be read", "no comparison", "left no results"):
        assert text in html
    html = section(data_of(MANIFEST, None, []))
    assert "4,321" in html and "no comparison" in html and "left no results" in html
    assert "passed" not in html


ODD: dict[str, tuple[Any, Any, Any]] = {
    "empty": ({}, {}, [{}]),
    "texts": (dict.fromkeys(MANIFEST, "x"), {"measures": "x"}, [{"results": "x"}]),
    "nulls": (dict.fromkeys(MANIFEST), {"measures": None}, [{"results": [None, {}, {"unique_id": "test."}]}]),
    "bare counts": ({"counts": {"train": 1}}, {"measures": {"lengths": None}}, [None]),
    "not numbers": ({"counts": {"train": "many"}}, {"measures": {"x": {"value": "y"}}}, [results()]),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_shapes_are_drawn(name: str) -> None:
    assert "None" not in section(data_of(*ODD[name]))


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nasty_text_stays_text(text: str) -> None:
    plain = Page(page_of(data_of(MANIFEST, DRIFT, RESULTS)))
    manifest = {
        "interval": {"start": text, "end": text},
        "split": {"validation_start": text, "test_start": text},
        "counts": {"train": text},
        "profile": {"test_unknown_share": text},
    }
    drift = {"previous_snapshot_id": text, "measures": {text: {"value": text, "level": text}}}
    warned = [results(*((f"test.shop.{text}.{number}", "warn") for number in range(3)))]
    html = page_of(data_of(manifest, drift, warned))
    page = Page(html)
    assert set(page.tags) <= set(plain.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert len(html) < 20_000


def test_a_test_that_two_tasks_ran_counts_once_and_by_its_worst_result() -> None:
    runs = [
        results(("test.shop.related.1", "warn"), ("test.shop.unique.2", "pass")),
        results(("test.shop.related.1", "pass"), ("test.shop.unique.2", "pass")),
    ]
    assert (
        count_tests(runs)
        == count_tests(runs[::-1])
        == DbtTests(passed=1, warned=1, warned_names=("related",))
    )


def test_an_error_is_a_failure_and_a_skipped_test_is_neither() -> None:
    run = results(("test.shop.a.1", "error"), ("test.shop.b.2", "skipped"), ("unit_test.shop.m.c", "pass"))
    assert count_tests([run]) == DbtTests(passed=1, failed=1, failed_names=("a",))


def test_many_warnings_are_cut() -> None:
    html = section(data_of(None, None, [results(*((f"test.shop.t{n:02d}.x", "warn") for n in range(25)))]))
    assert ">25 warned<" in html and "t19" in html and "t20" not in html and "and 5 more" in html

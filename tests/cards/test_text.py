from __future__ import annotations

import math

import pytest

from include.cards.text import duration, finite, method, money, number, percent, shorten, shown, words

NO_NUMBERS = (None, math.nan, math.inf, "7", True, 10**400)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(12345, "12,345"), (0.25, "0.2500"), (0.0, "0"), (1.0, "1.0000"), (900.0, "900"), (2e-5, "2e-05")]
    + [(value, "–") for value in NO_NUMBERS],
)
def test_numbers_are_for_people(value: object, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_finite_number_is_a_dash_everywhere(value: object) -> None:
    assert finite(value) is None
    assert {percent(value), shown(value, "hit_rate@20"), shown(value, "mrr@20"), money(value)} == {"–"}


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("hit_rate@20", 0.4521, "45.2 %"),
        ("hit_rate@20_minus_champion", 0.012, "0.012"),
        ("hit_rate@20_over_popularity", 3.2522, "3.252"),
        ("coverage@20", 1, "100.0 %"),
        ("stability_swap_events", 0.81, "81.0 %"),
        ("mrr@20", 0.189, "0.189"),
        ("novelty@20", 12.345, "12.3"),
        ("single_answer_ms", 4.8321, "4.8"),
        ("queries", 3692.0, "3,692"),
    ],
)
def test_a_metric_is_read_by_its_kind(metric: str, value: object, expected: str) -> None:
    assert shown(value, metric) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "$0.00"), (0.004, "< $0.01"), (0.161, "$0.16"), (1234.5, "$1,234.50")]
)
def test_money_is_to_the_cent(value: float, expected: str) -> None:
    assert money(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0 s"), (52.4, "52 s"), (425, "7 min 5 s"), (7380, "2 h 3 min"), (-1, "–")]
)
def test_durations_are_read_at_a_glance(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hit_rate_beats_popularity", "Hit rate beats popularity"),
        ("mrr@20", "MRR@20"),
        ("works_for_every_session_length[2-3]", "Works for every session length: 2-3"),
        ("category[shoes_and_bags]", "Category: shoes_and_bags"),
        ("", ""),
    ],
)
def test_names_of_code_become_words(name: str, expected: str) -> None:
    assert words(name) == expected


def test_methods_have_the_names_that_people_use() -> None:
    assert [method(name) for name in ("champion", "session_knn", "markov")] == [
        "live model",
        "session kNN",
        "markov",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("abcdef", "abc…"), ("abcd", "abcd"), ("a\nb", "a b"), ("a\u202eb", "a\ufffdb"), (None, "None")],
)
def test_a_text_is_short_printable_and_on_one_line(text: object, expected: str) -> None:
    assert shorten(text, 4) == expected

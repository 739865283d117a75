from __future__ import annotations

import pytest

from include.sagemaker.recency import Recency, recency_in


def of(data_until: str, trained_at: str = "") -> Recency:
    return recency_in(
        [{"Key": "data_until", "Value": data_until}, {"Key": "trained_at", "Value": trained_at}]
    )


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (of("2026-01-31"), of("2026-02-01")),
        (of("2026-01-31", "2026-03-01T00:00:00Z"), of("2026-02-01", "2026-02-01T00:00:00Z")),
        (of("2026-02-01", "2026-02-01T00:00:00+00:00"), of("2026-02-01", "2026-02-01T00:00:00.5+00:00")),
        (of("2026-02-01", "2026-02-01T01:00:00+02:00"), of("2026-02-01", "2026-02-01T00:00:00Z")),
        (of("", "2026-02-01T00:00:00Z"), of("2020-01-01")),
        (Recency(), of("2020-01-01")),
        (of("2026-02-01"), of("2026-02-01", "2026-02-01T00:00:00Z")),
        (of("soon", "later"), of("2020-01-01")),
    ],
)
def test_newer_data_and_then_the_later_training_win(older: Recency, newer: Recency) -> None:
    assert older < newer


def test_one_moment_is_one_moment_however_it_is_written() -> None:
    assert of("2026-02-01", "2026-02-01T02:00:00+02:00") == of("2026-02-01", "2026-02-01T00:00:00Z")
    assert recency_in([]) == Recency()


def test_what_is_not_known_is_said() -> None:
    assert str(Recency()) == "data of an unknown age, trained at an unknown time"
    assert str(of("2026-02-01")).startswith("data until 2026-02-01")

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd  # noqa: TID253  # runs in the ML environment only
import pyarrow as pa
import pytest

from slices import MOST_SLICES, deciles, label, parts_of
from tests.gate.evaluations import SKUS, Row

Run = Callable[..., dict[str, dict[str, Any]]]

LABELS: dict[str, tuple[Any, str]] = {
    "text": ("audio/headphones", "audio/headphones"),
    "whole price": (7.0, "7"),
    "price": (2.5, "2.5"),
    "control characters": ("a\x1b[31m\nb\u202e", "a\ufffd[31m\ufffdb\ufffd"),
    "long": ("x" * 200 + "end", "x" * 29 + "…" + "x" * 27 + "end"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_short_and_printable(case: str) -> None:
    value, wanted = LABELS[case]
    assert label(value) == wanted


PARTS: dict[str, tuple[list[Any], dict[str, int]]] = {
    "frequent first": (["b", "a", "b"], {"b": 2, "a": 1}),
    "unknown": (["a", None, "a"], {"a": 2, "unknown": 1}),
    "nothing known": ([None, None], {}),
    "as many as fit": ([str(n) for n in range(10, 22)], {str(n): 1 for n in range(10, 22)}),
    "one too many": ([str(n) for n in range(10, 23)], {**{str(n): 1 for n in range(10, 21)}, "other": 2}),
    "named as the rest": (["other"] * 3 + [str(n) for n in range(10, 23)], {
        '"other"': 3, "other": 3, **{str(n): 1 for n in range(10, 20)}
    }),
    "named as nothing": (["unknown", None, "a"], {"a": 1, '"unknown"': 1, "unknown": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_parts_are_few_and_hold_every_query_once(case: str) -> None:
    values, wanted = PARTS[case]
    parts = parts_of(pd.Series(values, dtype=object))
    assert {name: int(rows.sum()) for name, rows in parts.items()} == wanted
    assert len(parts) <= MOST_SLICES
    if parts:
        assert np.sum(list(parts.values()), axis=0).tolist() == [1] * len(values)


def test_deciles_share_ties_and_know_the_unknown() -> None:
    counts = np.array([100.0, 90, 80, 70, 60, 50, 40, 30, 20, 20])
    targets = np.array([100.0, 95, 90, 30, 20, 0])
    assert deciles(counts, targets).tolist() == [1, 2, 2, 8, 9, 0]


def test_traits_of_targets_and_sessions_cut_the_queries(checks: Run, answered: tuple[list[Row], Row]) -> None:
    rows, counts = copy.deepcopy(answered[0]), answered[1]
    rows[0]["first_action"], rows[1]["hour"], rows[2]["target"] = None, None, "never-seen"
    items = {
        "category": pa.array([f"[/{'abc'[place % 3]}]" for place in range(len(SKUS))]),
        "price_bucket": pa.array([float(place % 10 + 1) for place in range(len(SKUS))]),
    }
    found = checks(rows, counts, items)
    names = {
        "category": {"[/a]", "[/b]", "[/c]", "unknown"},
        "price": {*map(str, range(1, 11)), "unknown"},
        "first_action": {"add", "detail", "unknown"},
        "hour": {"00-03", "04-07", "08-11", "12-15", "16-19", "20-23", "unknown"},
        "popularity_decile": {*map(str, range(1, 11)), "unknown"},
    }
    for name, wanted in names.items():
        slices = found[f"hit_rate@20_by_{name}"]["slices"]
        assert set(slices) == wanted, name
        assert sum(part["sample_size"] for part in slices.values()) == len(rows)
        assert all(0 < part["sessions"] <= part["sample_size"] for part in slices.values())
        total = sum(part["value"] * part["sample_size"] for part in slices.values())
        assert total / len(rows) == pytest.approx(found["hit_rate@20"]["value"])
    assert list(found["hit_rate@20_by_price"]["slices"]) == [*map(str, range(1, 11)), "unknown"]
    assert found["hit_rate@20_by_category"]["slices"]["unknown"]["sample_size"] == 1


def test_a_shop_that_tells_nothing_has_no_such_slices(checks: Run, answered: tuple[list[Row], Row]) -> None:
    rows = [row | {"hour": None, "first_action": None} for row in answered[0]]
    nulls = {"category": pa.nulls(len(SKUS), pa.string()), "price_bucket": pa.nulls(len(SKUS), pa.float64())}
    found = checks(rows, answered[1], nulls)
    for name in ("category", "price", "first_action", "hour"):
        check = found[f"hit_rate@20_by_{name}"]
        assert (check["slices"], check["error"]) == ({}, None)


def test_an_evaluation_of_before_names_the_missing_column(
    checks: Run, answered: tuple[list[Row], Row]
) -> None:
    rows = [{name: row[name] for name in row if name not in ("hour", "first_action")} for row in answered[0]]
    found = checks(rows, answered[1])
    missing = {
        "category": "category",
        "price": "price_bucket",
        "first_action": "first_action",
        "hour": "hour",
    }
    for name, column in missing.items():
        assert column in found[f"hit_rate@20_by_{name}"]["error"]
    assert "vector" in found["distance_when_wrong"]["error"]

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evaluation import gains
from tests.gate.evaluations import PRODUCTS, SKUS, K, Row

Run = Callable[..., dict[str, dict[str, Any]]]


@pytest.mark.parametrize(
    ("metric", "cutoff", "wanted"),
    [
        ("hit_rate", 1, [1, 0, 0, 0]),
        ("hit_rate", 10, [1, 1, 0, 0]),
        ("mrr", 20, [1, 1 / 3, 1 / 20, 0]),
        ("ndcg", 10, [1, 0.5, 0, 0]),
        ("ndcg", 20, [1, 0.5, 1 / math.log2(21), 0]),
    ],
)
def test_gains_are_those_of_the_textbook(metric: str, cutoff: int, wanted: list[float]) -> None:
    assert gains(np.array([1, 3, 20, 0]), metric, cutoff).tolist() == pytest.approx(wanted)


def _wrong(rows: list[Row], steps: int) -> list[Row]:
    """Returns queries whose target is missed by a first product that is a few steps from it on the ring."""
    changed = copy.deepcopy(rows)
    for row in changed:
        far = (SKUS.index(row["target"]) + steps) % PRODUCTS
        listed = [
            SKUS[far],
            *(sku for sku in SKUS if sku not in (SKUS[far], row["target"], row["session"][-1])),
        ]
        row["predictions"] = listed[:K]
    return changed


@pytest.mark.parametrize("steps", [1, 40, 150])
def test_distance_is_that_of_the_first_product_to_the_target(
    checks: Run, answered: tuple[list[Row], Row], ring: pa.Array, steps: int
) -> None:
    found = checks(_wrong(answered[0], steps), answered[1], {"vector": ring})["distance_when_wrong"]
    assert found["value"] == pytest.approx(1 - math.cos(2 * math.pi * steps / PRODUCTS), abs=1e-6)
    assert found["sample_size"] == len(answered[0])
    # Any product at all is a quarter of the circle away, on average.
    assert found["baselines"]["random"] == pytest.approx(1.0, abs=0.15)


def test_distance_leaves_out_hits_and_products_without_a_vector(
    checks: Run, answered: tuple[list[Row], Row], ring: pa.Array
) -> None:
    rows = _wrong(answered[0], 1)
    for row in rows[:100]:
        row["predictions"][-1] = row["target"]
    for row in rows[100:150]:
        row["target"] = "never-seen"
    found = checks(rows, answered[1], {"vector": ring})["distance_when_wrong"]
    assert found["sample_size"] == len(rows) - 150
    nowhere = {"vector": pa.array([None] * PRODUCTS, pa.list_(pa.float32()))}
    assert "no vectors" in checks(rows, answered[1], nowhere)["distance_when_wrong"]["error"]


def test_novelty_is_the_information_of_what_is_shown(checks: Run, answered: tuple[list[Row], Row]) -> None:
    found = checks(answered[0], dict.fromkeys(SKUS, 7))["novelty@20"]
    # All products are equally popular: each tells as much as one in three hundred.
    assert found["value"] == pytest.approx(math.log2(PRODUCTS))
    assert found["interval"] == pytest.approx([math.log2(PRODUCTS)] * 2, rel=1e-5)
    common, rare = (
        checks([row | {"predictions": skus} for row in answered[0]], answered[1])["novelty@20"]["value"]
        for skus in (SKUS[:K], SKUS[-K:])
    )
    assert common + 3 < rare

"""A planted shop: what follows a product is known, and so is the right verdict on any model of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.gate.evaluations import Row, write

PRODUCTS, K, SESSIONS = 300, 20, 600
SKUS = [f"sku-{number:03d}" for number in range(PRODUCTS)]
WEIGHTS = (1.0 + np.arange(PRODUCTS)) ** -0.8
WEIGHTS /= WEIGHTS.sum()
HEAD_SHARE, TAIL_SHARE = 0.35, 0.25  # of the next items that are a planted follower

Table = dict[str, list[str]]


def head_follower(viewed: int) -> int:
    """A product that sells well, though not best, and follows a product most often."""
    return K + 1 + viewed * 7 % 9


def tail_follower(viewed: int) -> int:
    """A product that sells little, which follows it next often."""
    return 150 + (viewed * 11 + 5) % 150


def table(*follower: str, fill: str = "varied") -> Table:
    """Returns the answers of a model that knows the given kinds of follower.

    Args:
        follower: `head`, `tail`, in order of rank.
        fill: The rest of a list: `varied`, by popularity with chance, or `best`, the best sellers.
    """
    answers = {}
    for viewed in range(PRODUCTS):
        rng = np.random.default_rng(viewed)
        rest = rng.choice(PRODUCTS, K + 3, replace=False, p=WEIGHTS) if fill == "varied" else range(K + 3)
        planted = {"head": head_follower(viewed), "tail": tail_follower(viewed)}
        order = [*(planted[kind] for kind in follower), *map(int, rest)]
        kept = [item for item in dict.fromkeys(order) if item != viewed][:K]
        answers[SKUS[viewed]] = [SKUS[item] for item in kept]
    return answers


def shuffled(answers: Table) -> Table:
    """Returns the answers as wrong weights give them: each product has another one's list."""
    moved = {sku: answers[SKUS[(place + 113) % PRODUCTS]] for place, sku in enumerate(SKUS)}
    return {sku: [other if other != sku else SKUS[PRODUCTS - 1] for other in moved[sku]] for sku in SKUS}


class Model(NamedTuple):
    """A model of the shop: what it answers, and how often what it ranks first comes true by a leak."""

    answers: Table
    leak: float = 0.0


def queries(model: Model, seed: int = 5) -> list[Row]:
    """Returns the prediction rows that a training job would leave of a model."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for session in range(SESSIONS):
        seen = [int(item) for item in rng.choice(PRODUCTS, rng.integers(2, 7), replace=False, p=WEIGHTS)]
        for position in range(1, len(seen)):
            viewed, chance = seen[position - 1], rng.random()
            if chance < HEAD_SHARE:
                target = head_follower(viewed)
            elif chance < HEAD_SHARE + TAIL_SHARE:
                target = tail_follower(viewed)
            else:
                target = int(rng.choice(PRODUCTS, p=WEIGHTS))
            if target == viewed:
                target = (viewed + 1) % PRODUCTS
            sku, answer = SKUS[viewed], model.answers[SKUS[viewed]]
            leaked = rng.random() < model.leak
            rows.append(
                _row(session, position, seen[:position], answer, answer[0] if leaked else SKUS[target])
            )
            assert sku not in answer
    return rows


def _row(session: int, position: int, seen: list[int], answer: list[str], target: str) -> Row:
    viewed = seen[-1]
    popular = [SKUS[item] for item in range(K + 1) if item != viewed][:K]
    covisited = [SKUS[tail_follower(viewed)], *popular][:K]
    return {
        "session_id": f"session-{session}",
        "position": position,
        "session": [SKUS[item] for item in seen],
        "target": target,
        "target_count": int(1e5 * WEIGHTS[SKUS.index(target)]),
        "predictions": answer,
        "scores": [0.5**place for place in range(len(answer))],
        "rank_popularity": popular.index(target) + 1 if target in popular else 0,
        "rank_covisitation": covisited.index(target) + 1 if target in covisited else 0,
        "rank_markov": 0,
        "rank_session_knn": 0,
        "hour": session % 24,
        "first_action": "view" if session % 3 else "search",
    }


def leave(folder: Path, rows: list[Row]) -> Path:
    """Writes the evaluation folder of these rows, with a catalogue and vectors; returns it."""
    write(folder, rows, {sku: int(1e5 * weight) for sku, weight in zip(SKUS, WEIGHTS, strict=True)})
    items = pq.read_table(folder / "items.parquet")
    angles = 2 * np.pi * np.arange(PRODUCTS) / PRODUCTS
    columns = {
        "category": pa.array([f"shelf-{place % 4}" for place in range(PRODUCTS)]),
        "price_bucket": pa.array([float(place % 5) for place in range(PRODUCTS)]),
        "vector": pa.array([[float(np.cos(a)), float(np.sin(a))] for a in angles], pa.list_(pa.float32())),
    }
    for name, column in columns.items():
        items = items.append_column(name, column)
    pq.write_table(items, folder / "items.parquet")
    return folder

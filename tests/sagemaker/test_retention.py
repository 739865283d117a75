"""Which endpoint configurations and models may go, as a table of what there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.sagemaker.retention import Made, Stock, surplus
from tests.sagemaker.test_rollback import package

NOW = datetime(2026, 12, 31, tzinfo=UTC)


def made(number: int, *models: str, days: float | None = None) -> Made:
    """The `number`th of the month, made on that day (or so many days ago), newest first in what follows."""
    created = datetime(2026, 12, number, tzinfo=UTC) if days is None else NOW - timedelta(days=days)
    name = f"c{number}" if models else f"m{number}"
    return Made(name, created, frozenset(models or {name}), f"snap-{number}")


MODELS = tuple(made(number) for number in (5, 4, 3, 2, 1))
CONFIGS = tuple(made(number, f"m{number}") for number in (5, 4, 3, 2, 1))


def stock(**changes: Any) -> Stock:
    what: dict[str, Any] = {
        "configs": CONFIGS,
        "models": MODELS,
        "approved": (),
        "in_use": frozenset(),
        "served": frozenset(),
        **changes,
    }
    return Stock(**what)


@pytest.mark.parametrize(
    ("there", "configs", "models"),
    [
        (stock(), "c3 c2 c1", "m3 m2 m1"),
        (stock(in_use=frozenset({"c1"}), served=frozenset({"m1"})), "c3 c2", "m3 m2"),
        # Another person's endpoint serves it from a configuration of theirs.
        (stock(in_use=frozenset({"theirs"}), served=frozenset({"m2"})), "c3 c1", "m3 m1"),
        (stock(approved=(package(9, model_name="m1"),)), "c3 c2", "m3 m2"),
        # Only the two newest approved packages hold what they name.
        (
            stock(approved=tuple(package(9 - n, model_name=f"m{n}") for n in (5, 4, 1))),
            "c3 c2 c1",
            "m3 m2 m1",
        ),
        (
            stock(configs=(*CONFIGS[:4], made(1, "m1", days=0.9)), models=MODELS),
            "c3 c2",
            "m3 m2",
        ),
        (stock(models=(*MODELS[:4], made(1, days=0.9))), "c3 c2 c1", "m3 m2"),
        # A kept configuration keeps its models, a shadow's too.
        (stock(configs=(made(5, "m5", "m1"), *CONFIGS[1:])), "c3 c2 c1", "m3 m2"),
        (stock(configs=CONFIGS[:2], models=MODELS[:2]), "", ""),
        (stock(configs=(), models=()), "", ""),
    ],
    ids=[
        "the newest",
        "live",
        "served by others",
        "approved",
        "approved long ago",
        "young configuration",
        "young model",
        "two models",
        "few",
        "nothing",
    ],
)
def test_what_is_old_and_not_needed_goes(there: Stock, configs: str, models: str) -> None:
    old = surplus(there, 2, NOW)
    assert (old.configs, old.models) == (tuple(configs.split()), tuple(models.split()))


def test_what_stays_holds_the_snapshots_that_it_was_made_from() -> None:
    old = surplus(stock(approved=(package(9, model_name="gone", snapshot_id="snap-a"),)), 2, NOW)
    assert old.snapshots_in_use == {"snap-5", "snap-4", "snap-a"}

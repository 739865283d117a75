"""Data profile of a snapshot: counted by the warehouse, kept in the manifest.

The arrays are opened once, into a table of interactions per product, action and split; every question
about products reads that small table. All counts are exact, so that the same rows give the same profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from include.warehouse.dialect import Dialect, Statement

Answers = Mapping[str, Sequence[tuple[Any, ...]]]

SPLITS = ("train", "validation", "test")
# What `split` says of the sessions that are in none of them.
STRADDLING, BOT, SHORT, UNSAMPLED = "straddling", "bot", "short", "unsampled"
LEFT_OUT = (STRADDLING, BOT, SHORT, UNSAMPLED)

SESSIONS = "snapshot_sessions"
CATALOG = "snapshot_catalog"
_INTERACTIONS = "snapshot_interactions"

VERSION = 1  # only profiles of one version can be compared
TOP_PRODUCTS = 100
TOP_CATEGORIES = 50
QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)
# First length of each bar; the last one is open.
LENGTH_BARS = (2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)


def names(*splits: str) -> str:
    """Returns a list for `in (…)`; only ever the constants above."""
    return ", ".join(f"'{split}'" for split in splits)


def interactions(dialect: Dialect) -> Statement:
    """Returns the one statement that opens the arrays."""
    selected = f"(select split, skus, actions from {SESSIONS} where split in ({names(*SPLITS)}))"
    return Statement(
        f"create or replace temporary table {_INTERACTIONS} as\n"
        "select split, value as sku, other as action, count(*) as n\n"
        f"from ({dialect.exploded(selected, 'skus', 'actions')}) as opened\n"
        "group by split, value, other"
    )


def questions(product_fingerprint: str) -> dict[str, Statement]:
    """Returns the queries whose answers `describe` reads.

    Args:
        product_fingerprint: Number that stands for a product's row; its sum is the catalogue's digest.
    """
    known = f"select distinct sku from {_INTERACTIONS} where split = 'train'"
    seen = (
        "select catalog.category, seen.n, catalog.price_bucket "
        f"from (select sku, sum(n) as n from {_INTERACTIONS} group by sku) as seen "
        f"left join {CATALOG} as catalog on seen.sku = catalog.product_sku"
    )
    texts = {
        "lengths": f"select split, n_interactions, count(*) from {SESSIONS} group by split, n_interactions",
        "hours": "select session_date, extract(hour from started_at), count(*) "
        f"from {SESSIONS} where split in ({names(*SPLITS)}) group by 1, 2",
        "catalogue": f"select count(*), sum({product_fingerprint}), count(category), count(price_bucket) "
        f"from {CATALOG}",
        "actions": f"select action, sum(n) from {_INTERACTIONS} group by action order by 2 desc, 1",
        "top_products": f"select sku, sum(n) from {_INTERACTIONS} group by sku "
        f"order by 2 desc, 1 limit {TOP_PRODUCTS}",
        "top_categories": f"select category, sum(n) from ({seen}) as seen where category is not null "
        f"group by category order by 2 desc, 1 limit {TOP_CATEGORIES}",
        "coverage": "select coalesce(sum(n), 0), "
        "coalesce(sum(case when category is not null then n end), 0), "
        f"coalesce(sum(case when price_bucket is not null then n end), 0) from ({seen}) as seen",
        "train_products": f"select count(*) from ({known}) as known",
        "unknown": "select coalesce(sum(n), 0), coalesce(sum(case when known.sku is null then n end), 0) "
        f"from {_INTERACTIONS} as tested left join ({known}) as known on tested.sku = known.sku "
        "where tested.split = 'test'",
    }
    return {name: Statement(text) for name, text in texts.items()}


def describe(answers: Answers) -> dict[str, Any]:
    """Turns the answers into the profile: counts, and shares rounded to six digits."""
    lengths: dict[str, dict[int, int]] = {name: {} for name in (*SPLITS, *LEFT_OUT)}
    for split, length, sessions in answers["lengths"]:
        lengths[split][int(length)] = int(sessions)
    days: dict[date, int] = {}
    hours = [0] * 24
    for day, hour, sessions in answers["hours"]:
        days[day] = days.get(day, 0) + int(sessions)
        hours[int(hour)] += int(sessions)
    [(products, _, with_category, with_price)] = answers["catalogue"]
    [(total, categorised, priced)] = answers["coverage"]
    [(tested, unknown)] = answers["unknown"]
    return {
        "version": VERSION,
        "splits": {split: _sessions(lengths[split]) for split in SPLITS},
        "left_out": {name: sum(lengths[name].values()) for name in LEFT_OUT},
        "lengths": _bars(lengths[split] for split in SPLITS),
        "sessions_per_day": {day.isoformat(): days[day] for day in sorted(days)},
        "sessions_per_hour": hours,
        "actions": {str(action): int(count) for action, count in answers["actions"]},
        "top_products": _ranking(answers["top_products"], int(total)),
        "top_categories": _ranking(answers["top_categories"], int(total)),
        "catalogue": {
            "products": int(products),
            "with_category": _share(with_category, products),
            "with_price": _share(with_price, products),
            "interactions_with_category": _share(categorised, total),
            "interactions_with_price": _share(priced, total),
        },
        "products_in_train": int(answers["train_products"][0][0]),
        "test_unknown_share": _share(unknown, tested),
    }


def _sessions(lengths: Mapping[int, int]) -> dict[str, Any]:
    sessions = sum(lengths.values())
    return {
        "sessions": sessions,
        "interactions": sum(length * count for length, count in lengths.items()),
        "length_quantiles": {f"{share:g}": _quantile(lengths, share) for share in QUANTILES}
        if sessions
        else {},
    }


def _quantile(lengths: Mapping[int, int], share: float) -> int:
    """SQL's `percentile_disc`: the smallest length that at least this share does not exceed."""
    wanted = share * sum(lengths.values())
    so_far = 0
    for length in sorted(lengths):
        so_far += lengths[length]
        if so_far >= wanted:
            return length
    return max(lengths)


def _bars(splits: Iterable[Mapping[int, int]]) -> dict[str, int]:
    bars = dict.fromkeys(LENGTH_BARS, 0)
    for lengths in splits:
        for length, count in lengths.items():
            bars[max(first for first in LENGTH_BARS if first <= max(length, LENGTH_BARS[0]))] += count
    return {f"{first}+": count for first, count in bars.items()}


def _ranking(rows: Sequence[tuple[Any, ...]], total: int) -> list[list[Any]]:
    return [[str(name), int(count), _share(count, total)] for name, count in rows]


def _share(part: Any, whole: Any) -> float | None:
    return round(float(part) / float(whole), 6) if whole else None

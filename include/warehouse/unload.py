"""SQL of a snapshot: which sessions, in which split, and what they look like.

The split is by time and the sessions of the three parts are disjoint. A session that starts before a
boundary and ends behind it is dropped: its end would tell the earlier part about the future.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from include.contracts import BadInputError
from include.warehouse.dialect import Dialect, Statement

SPLITS = ("train", "validation", "test")
VALIDATION_FROM = 0.8
TEST_FROM = 0.9
MIN_TRAIN_SESSIONS = 50
MIN_TEST_SESSIONS = 10

_SESSIONS = "snapshot_sessions"
_CATALOG = "snapshot_catalog"
_TOP_PRODUCTS = 20
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class UnloadRequest:
    """Which sessions a snapshot is made of.

    Attributes:
        start_date: First day (UTC) on which a session may start.
        end_date: Day after the last one.
        min_session_length: Steps that a session needs, consecutive repeats of a product counted once.
        max_sessions: Keep the latest N sessions of the interval; None for all.
    """

    tenant: str
    start_date: date
    end_date: date
    min_session_length: int = 2
    max_sessions: int | None = None

    @classmethod
    def parse(cls, tenant: str, start_date: str, end_date: str, max_sessions: int | None) -> UnloadRequest:
        """Checks dates and limit.

        Raises:
            BadInputError: A date is not ISO, the interval is reversed, or the limit is not positive.
        """
        days = []
        for name, text in (("start_date", start_date), ("end_date", end_date)):
            try:
                if not _ISO_DATE.fullmatch(text):
                    raise ValueError(text)
                days.append(date.fromisoformat(text))
            except ValueError as error:
                raise BadInputError(f"{name} must be a day like 2026-01-31, not {text!r}.") from error
        if days[0] >= days[1]:
            raise BadInputError(f"start_date {days[0]} must be before end_date {days[1]} (exclusive).")
        if max_sessions is not None and max_sessions < 1:
            raise BadInputError(f"max_sessions must be positive, not {max_sessions}.")
        return cls(tenant=tenant, start_date=days[0], end_date=days[1], max_sessions=max_sessions)

    @property
    def values(self) -> dict[str, object]:
        """The bound values of the selection."""
        return {
            "tenant": self.tenant,
            "start_date": self.start_date,
            "end_date": self.end_date,
            "min_session_length": self.min_session_length,
        }


@dataclass(frozen=True)
class Selection:
    """What a selection holds.

    Attributes:
        high_water_mark: Function of every selected session and product; it changes with the data.
        counts: Sessions per split, `catalog` and `dropped_straddling`.
        boundaries: `validation_start` and `test_start`, naive UTC; None where nothing was selected.
        profile: Small JSON-ready description of the data.
    """

    high_water_mark: str
    counts: dict[str, int]
    boundaries: dict[str, datetime | None]
    profile: dict[str, Any]
    sql_sha256: str
    sessions: int = field(default=0)

    @classmethod
    def of_answers(cls, answers: Mapping[str, Sequence[tuple[Any, ...]]], sql_sha256: str) -> Selection:
        """Builds the selection from the rows that `questions` brought back."""
        per_split = {row[0]: row for row in answers["splits"]}
        counts = {split: int(per_split[split][1]) if split in per_split else 0 for split in SPLITS}
        dropped = int(per_split["dropped"][1]) if "dropped" in per_split else 0
        [(validation_start, test_start)] = answers["boundaries"] or [(None, None)]
        [(sessions, session_digest)] = answers["session_digest"]
        [(products, product_digest)] = answers["product_digest"]
        test_interactions, unknown = answers["unknown"][0]
        profile = {
            "splits": {
                split: {
                    "sessions": int(row[1]),
                    "interactions": int(row[2]),
                    "length_quantiles": {
                        f"{share:g}": int(value) for share, value in zip(_QUANTILES, row[3:], strict=True)
                    },
                }
                for split, row in sorted(per_split.items())
            },
            "actions": {str(action): int(count) for action, count in answers["actions"]},
            "top_products": [[str(sku), int(count)] for sku, count in answers["top_products"]],
            "products_in_train": int(answers["train_products"][0][0]),
            "test_unknown_share": float(unknown) / float(test_interactions) if test_interactions else None,
        }
        return cls(
            high_water_mark=f"{sessions}:{session_digest or 0}/{products}:{product_digest or 0}",
            counts={**counts, "catalog": int(products), "dropped_straddling": dropped},
            boundaries={"validation_start": validation_start, "test_start": test_start},
            profile=profile,
            sql_sha256=sql_sha256,
            sessions=int(sessions),
        )

    def refuse_too_few(self) -> None:
        """Raises where a split is too small to learn from or to judge by.

        Raises:
            BadInputError: The message says what to widen.
        """
        least = {"train": MIN_TRAIN_SESSIONS, "validation": 1, "test": MIN_TEST_SESSIONS}
        short = [
            f"{split} has {self.counts[split]} (needs {need})"
            for split, need in least.items()
            if self.counts[split] < need
        ]
        if short:
            raise BadInputError(
                f"Too few sessions for a snapshot: {', '.join(short)}; "
                f"{self.counts['dropped_straddling']} straddle a boundary. "
                "Widen start_date and end_date, raise max_sessions, or load more events."
            )


def selection(dialect: Dialect, schema: str, request: UnloadRequest) -> list[Statement]:
    """Returns the statements that freeze a snapshot's rows in temporary tables."""
    bound = {name: dialect.parameter(name) for name in request.values}
    limit = ""
    if request.max_sessions is not None:
        latest = "row_number() over (order by started_at desc, session_id desc)"
        limit = f"\n    qualify {latest} <= {int(request.max_sessions)}"
    sessions = f"""create or replace temporary table {_SESSIONS} as
with candidates as (
    select session_id, started_at, ended_at, skus, actions, event_times, n_interactions
    from {dialect.table(schema, "sessions")}
    where tenant = {bound["tenant"]}
        and session_date >= {bound["start_date"]}
        and session_date < {bound["end_date"]}
        and not is_bot
        and n_steps >= {bound["min_session_length"]}{limit}
),
boundaries as (
    select
        percentile_disc({VALIDATION_FROM}) within group (order by started_at) as validation_start,
        percentile_disc({TEST_FROM}) within group (order by started_at) as test_start
    from candidates
)
select
    candidates.*,
    boundaries.validation_start,
    boundaries.test_start,
    case
        when ended_at < validation_start then 'train'
        when started_at >= validation_start and ended_at < test_start then 'validation'
        when started_at >= test_start then 'test'
        else 'dropped'
    end as split
from candidates cross join boundaries"""
    catalog = (
        f"create or replace temporary table {_CATALOG} as "
        f"select product_sku, category, price_bucket from {dialect.table(schema, 'products')} "
        f"where tenant = {bound['tenant']}"
    )
    return [Statement(sessions, request.values), Statement(catalog, {"tenant": request.tenant})]


def questions(dialect: Dialect, request: UnloadRequest) -> dict[str, Statement]:
    """Returns the queries whose answers make a `Selection`; all aggregation stays in the warehouse."""
    quantiles = ", ".join(
        f"percentile_disc({share}) within group (order by n_interactions)" for share in _QUANTILES
    )
    skus, actions = dialect.exploded(_SESSIONS, "skus"), dialect.exploded(_SESSIONS, "actions")
    session_text = " || '|' || ".join(
        ["session_id", dialect.joined("skus"), dialect.joined("actions"), dialect.joined("event_times")]
    )
    product_text = (
        "product_sku || '|' || coalesce(category, '') || '|' || coalesce(cast(price_bucket as varchar), '')"
    )
    known = f"select distinct value from ({skus}) as seen where split = 'train'"
    texts = {
        "splits": f"select split, count(*), sum(n_interactions), {quantiles} from {_SESSIONS} group by split",
        "boundaries": f"select distinct validation_start, test_start from {_SESSIONS}",
        "session_digest": f"select count(*), sum({dialect.fingerprint(session_text)}) from {_SESSIONS}",
        "product_digest": f"select count(*), sum({dialect.fingerprint(product_text)}) from {_CATALOG}",
        "actions": f"select value, count(*) from ({actions}) as taken group by value order by 2 desc, 1",
        "top_products": f"select value, count(*) from ({skus}) as seen where split = 'train' "
        f"group by value order by 2 desc, 1 limit {_TOP_PRODUCTS}",
        "train_products": f"select count(*) from ({known}) as known",
        "unknown": f"select count(*), coalesce(sum(case when known.value is null then 1 else 0 end), 0) "
        f"from ({skus}) as tested left join ({known}) as known on tested.value = known.value "
        "where tested.split = 'test'",
    }
    return {name: Statement(text) for name, text in texts.items()}


def queries(dialect: Dialect) -> dict[str, Statement]:
    """Returns, per folder of the snapshot, the query of its rows in a stable order."""
    columns = "session_id, started_at, ended_at, skus, actions, event_times"
    result = {
        split: Statement(
            f"select {columns} from {_SESSIONS} where split = '{split}' order by started_at, session_id"
        )
        for split in SPLITS
    }
    result["catalog"] = Statement(
        f"select product_sku, category, price_bucket from {_CATALOG} order by product_sku"
    )
    return result


def sql_sha256(dialect: Dialect, schema: str) -> str:
    """Returns the digest of every statement that shapes a snapshot, with the values left out."""
    probe = UnloadRequest("", date.min, date.max, max_sessions=1)
    statements = [*selection(dialect, schema, probe), *queries(dialect).values()]
    return hashlib.sha256("\n;\n".join(statement.sql for statement in statements).encode()).hexdigest()

"""SQL of a snapshot: which sessions, in which split, and what they look like.

The split is by time and the sessions of the three parts are disjoint. A session that starts before a
boundary and ends behind it is dropped: its end would tell the earlier part about the future.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from include.contracts import BadInputError
from include.warehouse import profile
from include.warehouse.dialect import Dialect, Statement
from include.warehouse.profile import (
    BOT,
    CATALOG,
    SESSIONS,
    SHORT,
    SPLITS,
    STRADDLING,
    UNSAMPLED,
    Answers,
)

VALIDATION_FROM = 0.8
TEST_FROM = 0.9
MIN_TRAIN_SESSIONS = 50
MIN_TEST_SESSIONS = 10

_WINDOW = "snapshot_window"
_FRAME = "snapshot_frame"
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


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
        high_water_mark: Function of every selected session and product, and of how many sessions were left
            out; it changes with the data.
        counts: Sessions per split, `catalog` and `dropped_straddling`.
        boundaries: `validation_start` and `test_start`, naive UTC; None where nothing was selected.
        profile: Small JSON-ready description of the data, see `include.warehouse.profile`.
    """

    high_water_mark: str
    counts: Mapping[str, int]
    boundaries: Mapping[str, datetime | None]
    profile: Mapping[str, Any]
    sql_sha256: str
    sessions: int = field(default=0)

    @classmethod
    def of_answers(cls, answers: Answers, sql_sha256: str) -> Selection:
        """Builds the selection from the rows that `questions` brought back."""
        [(validation_start, test_start)] = answers["boundaries"]
        [(sessions, session_digest)] = answers["session_digest"]
        [(products, product_digest, *_)] = answers["catalogue"]
        described = profile.describe(answers)
        left_out = described["left_out"]
        mark = f"{sessions}:{session_digest or 0}/{products}:{product_digest or 0}"
        return cls(
            high_water_mark=mark + "/" + ":".join(str(left_out[name]) for name in sorted(left_out)),
            counts={
                **{split: described["splits"][split]["sessions"] for split in SPLITS},
                "catalog": int(products),
                "dropped_straddling": left_out["straddling"],
            },
            boundaries={"validation_start": validation_start, "test_start": test_start},
            profile=described,
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
    """Returns the statements that freeze a snapshot's rows and say to which split each session belongs.

    Everything after them reads nothing but what they made.
    """
    var = {name: dialect.variable(name) for name in request.values}
    window = f"""select
    session_id, session_date, started_at, ended_at, n_interactions, skus, actions, event_times,
    case when is_bot then '{BOT}' when n_steps < {var["min_session_length"]} then '{SHORT}' end as left_out
from {dialect.table(schema, "sessions")}
where tenant = {var["tenant"]}
    and session_date >= {var["start_date"]}
    and session_date < {var["end_date"]}"""
    catalog = (
        f"select product_sku, category, price_bucket from {dialect.table(schema, 'products')} "
        f"where tenant = {var['tenant']}"
    )
    return [
        *dialect.freeze(_WINDOW, window, request.values),
        *dialect.freeze(CATALOG, catalog, {"tenant": request.tenant}),
        Statement(f"create or replace temporary table {_FRAME} as\n{_frame(request)}"),
        *dialect.freeze(SESSIONS, _split_sessions(request), {}),
    ]


def _frame(request: UnloadRequest) -> str:
    """One row: where validation and test begin and, of a sample, its first session."""
    boundaries = (
        f"percentile_disc({VALIDATION_FROM}) within group (order by started_at) as validation_start,\n"
        f"    percentile_disc({TEST_FROM}) within group (order by started_at) as test_start"
    )
    if request.max_sessions is None:
        return f"select\n    {boundaries}\nfrom {_WINDOW}\nwhere left_out is null"
    return f"""with sampled as (
    select started_at, session_id
    from {_WINDOW}
    where left_out is null
    order by started_at desc, session_id desc
    limit {int(request.max_sessions)}
),
boundaries as (
    select
    {boundaries}
    from sampled
),
oldest as (
    select started_at as sample_start, session_id as sample_first
    from sampled
    order by started_at, session_id
    limit 1
)
select validation_start, test_start, sample_start, sample_first
from boundaries left join oldest on true"""


def _split_sessions(request: UnloadRequest) -> str:
    sample = ""
    if request.max_sessions is not None:
        sample = (
            f"\n        when started_at < sample_start "
            f"or (started_at = sample_start and session_id < sample_first) then '{UNSAMPLED}'"
        )
    return f"""select
    session_id, session_date, started_at, ended_at, n_interactions, skus, actions, event_times,
    case
        when left_out is not null then left_out{sample}
        when ended_at < validation_start then 'train'
        when started_at >= validation_start and ended_at < test_start then 'validation'
        when started_at >= test_start then 'test'
        else '{STRADDLING}'
    end as split
from {_WINDOW} cross join {_FRAME}"""


def questions(dialect: Dialect) -> dict[str, Statement]:
    """Returns the queries whose answers make a `Selection`; all aggregation stays in the warehouse."""
    session_text = " || chr(30) || ".join(
        [
            "session_id",
            # Start and end are those of the event times; as texts they would follow a session's format.
            *(f"coalesce({dialect.joined(array)}, '')" for array in ("skus", "actions", "event_times")),
        ]
    )
    product_text = (
        "product_sku || chr(30) || coalesce(category, chr(31)) || chr(30) "
        "|| coalesce(cast(price_bucket as varchar), '')"
    )
    return {
        "boundaries": Statement(f"select validation_start, test_start from {_FRAME}"),
        "session_digest": Statement(
            f"select count(*), sum({dialect.fingerprint(session_text)}) from {SESSIONS} "
            f"where split in ({profile.names(*SPLITS, STRADDLING)})"
        ),
        **profile.questions(dialect.fingerprint(product_text)),
    }


def queries(dialect: Dialect) -> dict[str, Statement]:
    """Returns, per folder of the snapshot, the query of its rows in a stable order.

    Columns are named in quotes: a file's columns are in lower case, whatever a vendor makes of bare names.
    """
    arrays = {name: dialect.unloaded(name) for name in ("skus", "actions", "event_times")}
    columns = _named({name: name for name in ("session_id", "started_at", "ended_at")} | arrays)
    result = {
        split: Statement(
            f"select {columns} from {SESSIONS} where split = '{split}' order by started_at, session_id"
        )
        for split in SPLITS
    }
    result["catalog"] = Statement(
        f"select {_named({name: name for name in ('product_sku', 'category', 'price_bucket')})} "
        f"from {CATALOG} order by product_sku"
    )
    return result


def _named(columns: Mapping[str, str]) -> str:
    return ", ".join(f'{expression} as "{name}"' for name, expression in columns.items())


def sql_sha256(dialect: Dialect, schema: str) -> str:
    """Returns the digest of every statement that shapes a snapshot, with the values left out."""
    probe = UnloadRequest("", date.min, date.max, max_sessions=1)
    statements = [
        *selection(dialect, schema, probe),
        profile.interactions(dialect),
        *questions(dialect).values(),
        *queries(dialect).values(),
    ]
    return hashlib.sha256("\n;\n".join(statement.sql for statement in statements).encode()).hexdigest()

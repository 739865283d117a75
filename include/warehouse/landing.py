"""SQL of the raw log: its tables, the rules for a row, and the inserts.

Every rule is one branch of a `case`; a row's first broken rule is its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from include.contracts import BadInputError
from include.warehouse.dialect import Dialect, Statement
from include.warehouse.loading import EVENT_COLUMNS, PRODUCT_COLUMNS, SourceFile, SourceFiles

Kind = Literal["events", "products"]

INCOMING = "incoming"
"""Temporary relation of one batch of lines: line_number, line, fields (null where to be split)."""

MAX_KEY_CHARS = 512
_FIRST_SEEN = "landing_first_seen"
_KEPT_LINE_CHARS = 1000
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_EVENT_TYPES = "('event_product', 'pageview')"
_ACTIONS = "('detail', 'add', 'remove', 'purchase', '')"


@dataclass(frozen=True)
class Load:
    """Identity of one load; `at` is naive UTC, as the warehouse stores it."""

    etl_id: str
    tenant: str
    at: datetime

    @property
    def key(self) -> dict[str, object]:
        """The bound value of a lookup by `etl_id`."""
        return {"etl_id": self.etl_id}

    @property
    def values(self) -> dict[str, object]:
        """The bound values of the columns that every raw table has."""
        return {"etl_id": self.etl_id, "etl_timestamp": self.at, "api_key": self.tenant}


@dataclass(frozen=True)
class Reject:
    """How many lines of a file broke one rule, and the first of them."""

    file: str
    reason: str
    rows: int
    first_line: int

    def label(self, main_file: str) -> str:
        """Names the reason; rejects of another file than the events' carry its name."""
        return self.reason if self.file == main_file else f"{self.file}: {self.reason}"


def classified(kind: Kind) -> str:
    """Returns the name of the relation that holds the batch being landed."""
    return f"classified_{kind}"


def _raw(dialect: Dialect, name: str) -> str:
    return dialect.table("raw", name)


def raw_tables(dialect: Dialect) -> list[Statement]:
    """Returns the statements that create the raw log where it is missing."""
    log = "etl_id varchar not null, etl_timestamp timestamp not null, api_key varchar not null"
    json = dialect.json_type
    tables = {
        "shopping_events": f"{log}, event_type varchar, event_date date, raw_data {json}",
        "products": f"{log}, product_sku varchar, raw_data {json}",
        "rejected_events": f"{log}, file varchar, line bigint, reason varchar, raw_line varchar",
        "loads": "etl_id varchar primary key, tenant varchar, source varchar, loaded_at timestamp, "
        f"report {json}",
    }
    return [
        Statement(f"create schema if not exists {dialect.schema('raw')}"),
        *(
            Statement(f"create table if not exists {_raw(dialect, name)} ({ddl})")
            for name, ddl in tables.items()
        ),
    ]


def classify(dialect: Dialect, kind: Kind, file: SourceFile, now: datetime) -> Statement:
    """Returns the query that types a batch of lines and names what is wrong with each.

    Its rows must become the relation `classified(kind)`.

    Args:
        dialect: Vendor's spelling.
        kind: Which rules apply.
        file: Gives the column order.
        now: Moment of the load; events later than a day after it are impossible.
    """
    required = EVENT_COLUMNS if kind == "events" else PRODUCT_COLUMNS
    at = {name: dialect.element("fields", file.columns.index(name)) for name in required}
    document = dialect.json_object(
        [
            (dialect.literal(name), dialect.element("fields", position))
            for position, name in enumerate(file.columns)
        ]
    )
    if kind == "events":
        typed, rules = _event_rules(dialect, at, now)
    else:
        typed, rules = _product_rules(at)
    branches = "\n        ".join(f"when {condition} then '{reason}'" for reason, condition in rules.items())
    event_date = dialect.date_of_epoch_ms("epoch_ms") if kind == "events" else "null"
    return Statement(
        f"""with split_lines as (
    select line_number, line, coalesce(fields, split(line, ',')) as fields from {INCOMING}
),
typed as (
    select line_number, line, {dialect.length("fields")} as field_count, fields, {typed} from split_lines
),
judged as (
    select *,
    case
        when contains(line, chr(65533)) then 'binary_rubbish'
        when field_count <> {len(file.columns)} then 'wrong_column_count'
        {branches}
    end as reason
    from typed
)
select
    line_number,
    reason,
    {"session_id, event_type, epoch_ms" if kind == "events" else "product_sku"},
    case when reason is null then {event_date} end as event_date,
    case when reason is null then {document} end as raw_data,
    case when reason is not null then left(line, {_KEPT_LINE_CHARS}) end as raw_line
from judged"""
    )


def _event_rules(dialect: Dialect, at: Mapping[str, str], now: datetime) -> tuple[str, dict[str, str]]:
    earliest = int(_EARLIEST.timestamp() * 1000)
    latest = int((now + timedelta(days=1)).timestamp() * 1000)
    instant = at["server_timestamp_epoch_ms"]
    digits = dialect.matches(instant, "[0-9]{1,18}")
    typed = ", ".join(
        (
            f"{at['session_id_hash']} as session_id",
            f"{at['event_type']} as event_type",
            f"{at['product_action']} as product_action",
            f"{at['product_sku_hash']} as product_sku",
            f"case when {digits} then cast({instant} as bigint) end as epoch_ms",
        )
    )
    rules = {
        "timestamp_not_integer": "epoch_ms is null",
        "timestamp_in_seconds": f"epoch_ms between {earliest // 1000} and {latest // 1000}",
        "timestamp_before_2000": f"epoch_ms < {earliest}",
        "timestamp_in_future": f"epoch_ms > {latest}",
        "missing_session_id": "coalesce(trim(session_id), '') = ''",
        "session_id_too_long": f"length(session_id) > {MAX_KEY_CHARS}",
        "unknown_event_type": f"coalesce(event_type, '') not in {_EVENT_TYPES}",
        "bad_product_action": f"coalesce(product_action, '') not in {_ACTIONS}",
        "missing_sku": "event_type = 'event_product' and coalesce(trim(product_sku), '') = ''",
        "sku_too_long": f"length(product_sku) > {MAX_KEY_CHARS}",
    }
    return typed, rules


def _product_rules(at: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    rules = {
        "missing_sku": "coalesce(trim(product_sku), '') = ''",
        "sku_too_long": f"length(product_sku) > {MAX_KEY_CHARS}",
    }
    return f"{at['product_sku_hash']} as product_sku", rules


def insert(dialect: Dialect, load: Load, kind: Kind, file: str) -> list[Statement]:
    """Returns the inserts of a classified batch: the good rows, then the rejected ones."""
    log = ", ".join(dialect.parameter(name) for name in ("etl_id", "etl_timestamp", "api_key"))
    columns = "event_type, event_date, raw_data" if kind == "events" else "product_sku, raw_data"
    table = "shopping_events" if kind == "events" else "products"
    source = classified(kind)
    return [
        Statement(
            f"insert into {_raw(dialect, table)} (etl_id, etl_timestamp, api_key, {columns}) "
            f"select {log}, {columns} from {source} where reason is null",
            load.values,
        ),
        Statement(
            f"insert into {_raw(dialect, 'rejected_events')} "
            "(etl_id, etl_timestamp, api_key, file, line, reason, raw_line) "
            f"select {log}, {dialect.parameter('file')}, line_number, reason, raw_line "
            f"from {source} where reason is not null",
            {**load.values, "file": file},
        ),
    ]


def create_first_seen(dialect: Dialect) -> Statement:
    """Returns the table that notes when each session of a limited load began."""
    return Statement(f"create or replace temporary table {_FIRST_SEEN} (session_id varchar, epoch_ms bigint)")


def note_first_seen(dialect: Dialect) -> Statement:
    """Returns the statement that notes the sessions of the current batch."""
    return Statement(
        f"insert into {_FIRST_SEEN} select session_id, min(epoch_ms) from {classified('events')} "
        "where reason is null group by session_id"
    )


def keep_first_sessions(dialect: Dialect, load: Load, max_sessions: int) -> Statement:
    """Returns the statement that removes, before the load is visible, all but the first sessions."""
    session = dialect.json_text("raw_data", "session_id_hash")
    return Statement(
        f"delete from {_raw(dialect, 'shopping_events')} where etl_id = {dialect.parameter('etl_id')} "
        f"and {session} not in (select session_id from {_FIRST_SEEN} group by session_id "
        f"order by min(epoch_ms), session_id limit {int(max_sessions)})",
        load.key,
    )


def count_events(dialect: Dialect, load: Load) -> Statement:
    """Returns the query of landed events: count, first and last date."""
    return Statement(
        "select count(*), min(event_date), max(event_date) "
        f"from {_raw(dialect, 'shopping_events')} "
        f"where etl_id = {dialect.parameter('etl_id')}",
        load.key,
    )


def count_products(dialect: Dialect, load: Load) -> Statement:
    """Returns the query of landed products."""
    return Statement(
        f"select count(*) from {_raw(dialect, 'products')} where etl_id = {dialect.parameter('etl_id')}",
        load.key,
    )


def count_rejects(dialect: Dialect, load: Load) -> Statement:
    """Returns the query of rejects: file, reason, rows, first line; the most frequent first."""
    return Statement(
        f"select file, reason, count(*), min(line) from {_raw(dialect, 'rejected_events')} "
        f"where etl_id = {dialect.parameter('etl_id')} group by file, reason order by 3 desc, 1, 2",
        load.key,
    )


def stored_report(dialect: Dialect, etl_id: str) -> Statement:
    """Returns the query of an earlier load's report, as JSON text."""
    text = "cast(report as varchar)" if dialect.name == "duckdb" else "to_json(report)"
    return Statement(
        f"select {text} from {_raw(dialect, 'loads')} where etl_id = {dialect.parameter('etl_id')}",
        {"etl_id": etl_id},
    )


def store_report(dialect: Dialect, load: Load, source: str, report: str) -> Statement:
    """Returns the insert that makes the load known; it belongs to the load's own transaction."""
    names = ("etl_id", "api_key", "source", "etl_timestamp")
    bound = ", ".join(dialect.parameter(name) for name in names)
    return Statement(
        f"insert into {_raw(dialect, 'loads')} (etl_id, tenant, source, loaded_at, report) "
        f"select {bound}, {dialect.to_json(dialect.parameter('report'))}",
        {**load.values, "source": source, "report": report},
    )


def refuse_too_many(
    source: SourceFiles, rejects: Sequence[Reject], lines: Mapping[Kind, int], max_share: float
) -> None:
    """Raises where a file is empty or too many of its lines are rejected.

    Raises:
        BadInputError: The message names the top reasons, each with its count and first line.
    """
    files: list[tuple[SourceFile, int]] = [(source.browsing, lines["events"])]
    if source.catalogue is not None:
        files.append((source.catalogue, lines["products"]))
    if not lines["events"]:
        raise BadInputError(f"{source.browsing.name} has a header and no rows: nothing was landed.")
    for file, read in files:
        mine = [reject for reject in rejects if reject.file == file.name]
        rejected = sum(reject.rows for reject in mine)
        if read and rejected / read > max_share:
            reasons = ", ".join(f"{r.reason} ({r.rows}, first in line {r.first_line})" for r in mine[:3])
            raise BadInputError(
                f"{file.name}: {rejected} of {read} rows are rejected, more than the allowed share of "
                f"{max_share:g}: {reasons}. Nothing was landed."
            )

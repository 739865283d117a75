"""SQL of the raw log: its tables, and what makes a load complete and visible.

A load is visible once its row is in `raw.loads`, which is written last, as a manifest is. Rows of a load
without one are no part of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from include.contracts import BadInputError
from include.warehouse.dialect import Dialect, Statement
from include.warehouse.kinds import EVENTS, KINDS, SEARCHES, Kind
from include.warehouse.sources import SourceFile, SourceFiles

LOG_COLUMNS = ("etl_id", "etl_timestamp", "api_key")


@dataclass(frozen=True)
class Load:
    """Identity of one load; `at` is naive UTC, as the warehouse stores it."""

    etl_id: str
    tenant: str
    at: datetime

    @property
    def moment(self) -> datetime:
        """When the load began, with its time zone."""
        return self.at.replace(tzinfo=UTC)

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


def raw(dialect: Dialect, name: str) -> str:
    """Returns the full name of a table of the raw log."""
    return dialect.table("raw", name)


def raw_tables(dialect: Dialect) -> list[Statement]:
    """Returns the statements that create the raw log where it is missing."""
    log = "etl_id varchar not null, etl_timestamp timestamp not null, api_key varchar not null"
    json = dialect.json_type
    tables = {
        kind.table: ", ".join(
            [
                log,
                *(f"{name} {'date' if name == 'event_date' else 'varchar'}" for name in kind.derived),
                f"raw_data {json}",
            ]
        )
        for kind in KINDS
    }
    tables["rejected_events"] = f"{log}, file varchar, line bigint, reason varchar, raw_line varchar"
    tables["loads"] = (
        f"etl_id varchar primary key, tenant varchar, source varchar, loaded_at timestamp, report {json}"
    )
    return [
        Statement(f"create schema if not exists {dialect.schema('raw')}"),
        *(
            Statement(f"create table if not exists {raw(dialect, name)} ({ddl})")
            for name, ddl in tables.items()
        ),
    ]


def columns_of(kind: Kind) -> tuple[str, ...]:
    """Returns the columns of a kind's table behind the log's own."""
    return (*kind.derived, "raw_data")


def delete_rows(dialect: Dialect, load: Load) -> list[Statement]:
    """Returns the statements that remove all rows of a load that is not visible."""
    return [
        Statement(f"delete from {raw(dialect, table)} where etl_id = {dialect.parameter('etl_id')}", load.key)
        for table in (*(kind.table for kind in KINDS), "rejected_events")
    ]


def keep_first_sessions(dialect: Dialect, load: Load, max_sessions: int) -> list[Statement]:
    """Returns the statements that remove, before the load is visible, all but the first sessions."""
    session = dialect.json_text("raw_data", "session_id_hash")
    moment = dialect.json_text("raw_data", "server_timestamp_epoch_ms")
    events, mine = raw(dialect, EVENTS.table), f"etl_id = {dialect.parameter('etl_id')}"
    first = (
        f"select session_id from (select {session} as session_id, min(cast({moment} as bigint)) as began_at "
        f"from {events} where {mine} group by 1) as seen order by began_at, session_id "
        f"limit {int(max_sessions)}"
    )
    return [
        Statement(f"delete from {events} where {mine} and {session} not in ({first})", load.key),
        Statement(
            f"delete from {raw(dialect, SEARCHES.table)} where {mine} "
            f"and {session} not in (select {session} from {events} where {mine})",
            load.key,
        ),
    ]


def count_rows(dialect: Dialect, load: Load, kind: Kind) -> Statement:
    """Returns the query of a kind's landed rows: count, first and last date (null where it has none)."""
    first, last = ("min(event_date)", "max(event_date)") if kind.has_dates else ("null", "null")
    return Statement(
        f"select count(*), {first} as first_date, {last} as last_date from {raw(dialect, kind.table)} "
        f"where etl_id = {dialect.parameter('etl_id')}",
        load.key,
    )


def count_rejects(dialect: Dialect, load: Load) -> Statement:
    """Returns the query of rejects: file, reason, rows, first line; the most frequent first."""
    return Statement(
        f"select file, reason, count(*), min(line) from {raw(dialect, 'rejected_events')} "
        f"where etl_id = {dialect.parameter('etl_id')} group by file, reason order by 3 desc, 1, 2",
        load.key,
    )


def stored_report(dialect: Dialect, etl_id: str) -> Statement:
    """Returns the query of an earlier load's report, as JSON text."""
    text = "cast(report as varchar)" if dialect.name == "duckdb" else "to_json(report)"
    return Statement(
        f"select {text} from {raw(dialect, 'loads')} where etl_id = {dialect.parameter('etl_id')}",
        {"etl_id": etl_id},
    )


def store_report(dialect: Dialect, load: Load, source: str, report: str, visible_at: datetime) -> Statement:
    """Returns the insert that makes the load visible.

    Its `loaded_at` is the moment of that, and not of the load's beginning: whoever looks for what is new
    since a moment must not miss a load that took long.
    """
    names = ("etl_id", "api_key", "source", "loaded_at")
    bound = ", ".join(dialect.parameter(name) for name in names)
    return Statement(
        f"insert into {raw(dialect, 'loads')} (etl_id, tenant, source, loaded_at, report) "
        f"select {bound}, {dialect.to_json(dialect.parameter('report'))}",
        {
            "etl_id": load.etl_id,
            "api_key": load.tenant,
            "source": source,
            "loaded_at": visible_at.astimezone(UTC).replace(tzinfo=None),
            "report": report,
        },
    )


def loaded_dates(dialect: Dialect, tenant: str) -> Statement:
    """Returns the query of a tenant's first and last event date, from the reports of visible loads."""
    first, last = (dialect.json_text("report", f"{end}_event_date") for end in ("first", "last"))
    return Statement(
        f"select min({first}), max({last}) from {raw(dialect, 'loads')} "
        f"where tenant = {dialect.parameter('tenant')}",
        {"tenant": tenant},
    )


def label(source: SourceFiles, file: str, text: str) -> str:
    """Names something of a file; what is not the events' carries the file's name."""
    return text if file == source.browsing.name else f"{file}: {text}"


def refuse_too_many(
    source: SourceFiles, rejects: Sequence[Reject], lines: Mapping[str, int], max_share: float
) -> None:
    """Raises where a file is empty or too many of its lines are rejected.

    Args:
        source: The files that were read.
        rejects: Their rejected lines.
        lines: Lines read, by the kind's name.
        max_share: Above it nothing is landed.

    Raises:
        BadInputError: The message names the top reasons, each with its count and first line.
    """
    if not lines[EVENTS.name]:
        raise BadInputError(f"{source.browsing.name} has a header and no rows: nothing was landed.")
    for file in source.files:
        _refuse_file(file, rejects, lines[file.kind.name], max_share)


def _refuse_file(file: SourceFile, rejects: Sequence[Reject], read: int, max_share: float) -> None:
    mine = [reject for reject in rejects if reject.file == file.name]
    rejected = sum(reject.rows for reject in mine)
    if read and rejected / read > max_share:
        reasons = ", ".join(f"{r.reason} ({r.rows}, first in line {r.first_line})" for r in mine[:3])
        raise BadInputError(
            f"{file.name}: {rejected} of {read} rows are rejected, more than the allowed share of "
            f"{max_share:g}: {reasons}. Nothing was landed."
        )

"""What the rest of the house may ask of a warehouse, whichever vendor it is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from include.contracts import BadInputError, LoadReport, SettingsError
from include.warehouse import columns, landing, profile, unload
from include.warehouse.dialect import Dialect, Statement
from include.warehouse.kinds import EVENTS, PRODUCTS, SEARCHES
from include.warehouse.loading import etl_id_of
from include.warehouse.sources import SourceFile, SourceFiles

_S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?:[A-Za-z0-9_][A-Za-z0-9._=-]*/)+")
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
# What may leave an Airflow connection's extra: names and sizes. Snowflake's private key stays behind.
_PLAIN_EXTRAS = ("memory_limit", "threads", "temp_directory", "warehouse", "role", "storage_integration")

Landed = Mapping[str, tuple[Any, ...]]
"""By a kind's name: how many rows landed, and their first and last date."""


class WarehouseUnavailableError(OSError):
    """The warehouse is locked or gone for now; a later try may succeed."""


class IncompleteLoadError(WarehouseUnavailableError):
    """Some of what was brought is gone, or there twice; a later try brings everything anew."""


@dataclass(frozen=True)
class ConnectionInfo:
    """The fields of an Airflow connection, free of Airflow.

    Attributes:
        host: For DuckDB the path of the file, or `:memory:`.
        extra: For DuckDB `memory_limit`, `threads` and `temp_directory` are passed on; for Snowflake
            `warehouse` and `role`, and `storage_integration` names the integration that may write to the
            bucket.
        query_tag: What Snowflake's query history calls the session's statements.
    """

    conn_type: str
    conn_id: str = "warehouse_default"
    host: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    query_tag: str = ""

    @classmethod
    def of(cls, connection: Any, *, query_tag: str = "", **overrides: str | None) -> ConnectionInfo:
        """Copies what is needed from an Airflow `Connection`; passwords and keys stay behind.

        Args:
            connection: The Airflow connection.
            query_tag: Names the work that the session does.
            **overrides: Values that go before those of the connection's extra, where they are not None.
        """
        extra = connection.extra_dejson or {}
        plain = {name: extra[name] for name in _PLAIN_EXTRAS if name in extra}
        return cls(
            conn_type=connection.conn_type or "",
            conn_id=connection.conn_id,
            host=connection.host or "",
            extra=plain | {name: value for name, value in overrides.items() if value is not None},
            query_tag=query_tag,
        )


@dataclass(frozen=True)
class ObjectStorage:
    """How to reach S3; the secrets are left out of `repr` so that no log shows them."""

    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None


@dataclass(frozen=True)
class Part:
    """One parquet file that an unload wrote: its URI and number of rows."""

    uri: str
    rows: int


class Warehouse(ABC):
    """A session with a warehouse; use it as a context manager.

    Subclasses bring connection, transaction and bulk transport. Every SQL statement comes from
    `landing` and `unload` and differs between vendors only through `dialect`.
    """

    dialect: Dialect

    def __init__(self, schema: str) -> None:
        if not _SCHEMA.fullmatch(schema):
            raise SettingsError(f"warehouse_schema {schema!r} must be letters, digits and underscores.")
        self.schema = schema

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Ends the session; what was not committed is lost."""

    @abstractmethod
    def execute(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Runs one statement and returns its rows, if it has any."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """Everything inside becomes visible at once, or not at all."""

    @abstractmethod
    def begin(self, load: landing.Load) -> landing.Load:
        """Prepares for a load; returns it as an unfinished earlier try of the same content began it."""

    @abstractmethod
    def bring(self, load: landing.Load, file: SourceFile) -> int:
        """Brings a file's rows and rejects to the warehouse, in chunks, from behind the last one on.

        Returns:
            Number of lines of the file that are not blank, those of earlier tries included.
        """

    @abstractmethod
    def take_turn(self, load: landing.Load) -> None:
        """Makes any other load of the same content wait, or fail, until the open transaction ends."""

    @abstractmethod
    def move_in(self, load: landing.Load, source: SourceFiles) -> None:
        """Moves what was brought into the raw tables, where it is not there yet."""

    @abstractmethod
    def discard(self, load: landing.Load) -> None:
        """Removes what was brought for a load that was refused."""

    @abstractmethod
    def tidy(self, load: landing.Load) -> None:
        """Removes what a load needed only until it was visible."""

    @abstractmethod
    def prepare_unload(self, storage: ObjectStorage) -> None:
        """Gives the session access to the bucket."""

    @abstractmethod
    def copy_to(self, query: Statement, folder_uri: str) -> list[Part]:
        """Unloads a query's rows as parquet files under an `s3://…/` folder."""

    def create_raw_tables(self) -> None:
        """Creates the raw log where it is missing."""
        for statement in landing.raw_tables(self.dialect):
            self.execute(statement)

    def land(
        self,
        source: SourceFiles,
        *,
        tenant: str,
        max_sessions: int | None = None,
        max_reject_share: float = 0.05,
        now: datetime | None = None,
    ) -> LoadReport:
        """Appends the rows of a source to the raw log, all of them or nothing.

        Rows come in chunks, and nobody sees them before the report is stored. A load that was killed goes
        on behind its last chunk when it is tried again.

        Args:
            source: The files, found and checked by `loading.find_source`.
            tenant: Key (`api_key`) of the rows.
            max_sessions: Land only the first N sessions by time, whole ones; None for all.
            max_reject_share: Share of rejected lines above which nothing is landed.
            now: Moment of the load (UTC); events later than a day after it are rejected.

        Returns:
            The report; the stored one, marked `already_loaded`, where this content landed before.

        Raises:
            BadInputError: Too many lines are rejected, none is left, or a file is damaged or changed.
            WarehouseUnavailableError: The warehouse is locked, or gone, or busy with the same content, or
                does not hold every line that was brought.
        """
        now = now or datetime.now(UTC)
        etl_id = etl_id_of(tenant, source, max_sessions)
        self.create_raw_tables()
        if earlier := self._earlier(etl_id):
            return earlier
        load = self.begin(landing.Load(etl_id, tenant, now.astimezone(UTC).replace(tzinfo=None)))
        try:
            lines: dict[str, int] = {}
            for file in source.files:
                lines[file.kind.name] = self.bring(load, file)
                file.stored.refuse_if_changed()
            with self.transaction():
                report = self._publish(load, source, lines, max_sessions, max_reject_share)
        except (BadInputError, IncompleteLoadError):
            self.discard(load)
            raise
        self.tidy(load)
        return report

    def _earlier(self, etl_id: str) -> LoadReport | None:
        stored = self.execute(landing.stored_report(self.dialect, etl_id))
        if not stored:
            return None
        report = LoadReport.model_validate_json(stored[0][0])
        return report.model_copy(update={"already_loaded": True})

    def _publish(
        self,
        load: landing.Load,
        source: SourceFiles,
        lines: Mapping[str, int],
        max_sessions: int | None,
        max_reject_share: float,
    ) -> LoadReport:
        self.take_turn(load)
        if earlier := self._earlier(load.etl_id):
            return earlier
        self.move_in(load, source)
        rejects = [landing.Reject(*row) for row in self.execute(landing.count_rejects(self.dialect, load))]
        landed = self._landed(load, source)
        for file in source.files:
            # Another load of this content, refused meanwhile, may have removed what this one brought.
            found = landed[file.kind.name][0] + sum(r.rows for r in rejects if r.file in file.kind.file_names)
            if found != lines[file.kind.name]:
                raise IncompleteLoadError(
                    f"{file.name}: the warehouse holds {found} of {lines[file.kind.name]} lines, landed or "
                    "rejected. Nothing is visible; the next try brings them all anew."
                )
        landing.refuse_too_many(source, rejects, lines, max_reject_share)
        if max_sessions is not None:
            for statement in landing.keep_first_sessions(self.dialect, load, max_sessions):
                self.execute(statement)
            landed = self._landed(load, source)
        report = _report(load, source, lines, rejects, landed)
        document = report.model_dump_json()
        self.execute(
            landing.store_report(self.dialect, load, source.name, document, visible_at=datetime.now(UTC))
        )
        return report

    def _landed(self, load: landing.Load, source: SourceFiles) -> Landed:
        return {
            file.kind.name: self.execute(landing.count_rows(self.dialect, load, file.kind))[0]
            for file in source.files
        }

    def select(self, request: unload.UnloadRequest) -> unload.Selection:
        """Freezes the sessions and products of one snapshot and describes them.

        Call it inside `transaction()`, and unload in the same one: then it is one consistent read.

        Args:
            request: Tenant, interval, lengths and sampling.

        Raises:
            BadInputError: The marts are missing, have lost a column, or have one of another type.
        """
        columns.refuse_drift(self.dialect, self.execute(columns.column_types(self.schema)))
        for statement in unload.selection(self.dialect, self.schema, request):
            self.execute(statement)
        self.execute(profile.interactions(self.dialect))
        answers = {
            name: self.execute(statement) for name, statement in unload.questions(self.dialect).items()
        }
        return unload.Selection.of_answers(answers, unload.sql_sha256(type(self.dialect)(), self.schema))

    def unload(self, uri: str) -> list[Part]:
        """Writes the selected sessions and products as parquet under `uri`.

        Args:
            uri: `s3://bucket/prefix/`; `train/`, `validation/`, `test/` and `catalog/` are written in it.

        Returns:
            The files with their row counts.
        """
        if not _S3_URI.fullmatch(uri):
            raise SettingsError(f"{uri!r} is not an s3:// folder of plain letters, digits, dots and dashes.")
        parts: list[Part] = []
        for folder, query in unload.queries(self.dialect).items():
            parts += self.copy_to(query, f"{uri}{folder}/")
        return parts


def _report(
    load: landing.Load,
    source: SourceFiles,
    lines: Mapping[str, int],
    rejects: Sequence[landing.Reject],
    landed: Landed,
) -> LoadReport:
    events, first, last = landed[EVENTS.name]
    if not events:
        raise BadInputError(f"{source.browsing.name} holds no usable event: nothing was landed.")
    return LoadReport(
        etl_id=load.etl_id,
        tenant=load.tenant,
        source=source.name,
        first_event_date=str(first),
        last_event_date=str(last),
        events_read=lines[EVENTS.name],
        events_landed=events,
        events_rejected=sum(r.rows for r in rejects if r.file == source.browsing.name),
        rejected_by_reason={landing.label(source, r.file, r.reason): r.rows for r in rejects},
        products_landed=landed.get(PRODUCTS.name, (0,))[0],
        searches_landed=landed.get(SEARCHES.name, (0,))[0],
        extra_columns=tuple(
            landing.label(source, file.name, name) for file in source.files for name in file.extra_columns
        ),
    )


def missing_mart(schema: str, error: Exception) -> BadInputError:
    """Returns the error for marts that are absent or have lost a column."""
    first_line: Sequence[str] = str(error).splitlines()[:1]
    return BadInputError(
        f"The marts in schema {schema!r} cannot be read as expected: {''.join(first_line)} "
        "Run the transform step (dbt build) for this warehouse and schema first."
    )

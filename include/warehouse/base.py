"""What the rest of the house may ask of a warehouse, whichever vendor it is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from include.contracts import BadInputError, LoadReport, SettingsError
from include.warehouse import landing, profile, unload
from include.warehouse.dialect import Dialect, Statement
from include.warehouse.loading import SourceFiles, etl_id_of

_S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?:[A-Za-z0-9_][A-Za-z0-9._=-]*/)+")
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class WarehouseUnavailableError(OSError):
    """The warehouse is locked or gone for now; a later try may succeed."""


@dataclass(frozen=True)
class ConnectionInfo:
    """The fields of an Airflow connection, free of Airflow.

    Attributes:
        host: For DuckDB the path of the file, or `:memory:`.
        extra: For DuckDB `memory_limit`, `threads` and `temp_directory` are passed on; for Snowflake
            `storage_integration` names the integration that may write to the bucket.
    """

    conn_type: str
    conn_id: str = "warehouse_default"
    host: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, connection: Any) -> ConnectionInfo:
        """Copies what is needed from an Airflow `Connection`; passwords stay behind."""
        return cls(
            conn_type=connection.conn_type or "",
            conn_id=connection.conn_id,
            host=connection.host or "",
            extra=dict(connection.extra_dejson or {}),
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


@dataclass(frozen=True)
class Batch:
    """Classified rows of one file, ready to be inserted.

    Attributes:
        kind: Whether the rows are events or products.
        file: Name of the file that the rows are from.
        lines: Number of non-empty lines read.
    """

    kind: landing.Kind
    file: str
    lines: int


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
    def stage(self, source: SourceFiles, now: datetime) -> Iterable[Batch]:
        """Brings lines into the warehouse and classifies them, one batch after the other.

        While a batch is current, its rows are in the relation `landing.classified(kind)`.
        """

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
        """Appends the events and products of a source to the raw log, all of it or nothing.

        Args:
            source: The files, found and checked by `loading.find_source`.
            tenant: Key (`api_key`) of the rows.
            max_sessions: Land only the first N sessions by time, whole ones; None for all.
            max_reject_share: Share of rejected lines above which nothing is landed.
            now: Moment of the load (UTC); events later than a day after it are rejected.

        Returns:
            The report; the stored one, marked `already_loaded`, where this content landed before.

        Raises:
            BadInputError: Too many lines are rejected, or none is left.
            WarehouseUnavailableError: The warehouse is locked or gone.
        """
        now = now or datetime.now(UTC)
        etl_id = etl_id_of(tenant, source, max_sessions)
        self.create_raw_tables()
        stored = self.execute(landing.stored_report(self.dialect, etl_id))
        if stored:
            report = LoadReport.model_validate_json(stored[0][0])
            return report.model_copy(update={"already_loaded": True})

        load = landing.Load(etl_id, tenant, now.astimezone(UTC).replace(tzinfo=None))
        if max_sessions is not None:
            self.execute(landing.create_first_seen(self.dialect))
        batches = self.stage(source, now)
        with self.transaction():
            lines = self._insert(batches, load, limited=max_sessions is not None)
            if max_sessions is not None:
                self.execute(landing.keep_first_sessions(self.dialect, load, max_sessions))
            report = self._report(load, source, lines, max_reject_share)
            self.execute(landing.store_report(self.dialect, load, source.name, report.model_dump_json()))
        return report

    def _insert(
        self, batches: Iterable[Batch], load: landing.Load, *, limited: bool
    ) -> dict[landing.Kind, int]:
        lines: dict[landing.Kind, int] = {"events": 0, "products": 0}
        for batch in batches:
            lines[batch.kind] += batch.lines
            for statement in landing.insert(self.dialect, load, batch.kind, batch.file):
                self.execute(statement)
            if limited and batch.kind == "events":
                self.execute(landing.note_first_seen(self.dialect))
        return lines

    def _report(
        self,
        load: landing.Load,
        source: SourceFiles,
        lines: Mapping[landing.Kind, int],
        max_reject_share: float,
    ) -> LoadReport:
        rejects = [landing.Reject(*row) for row in self.execute(landing.count_rejects(self.dialect, load))]
        landing.refuse_too_many(source, rejects, lines, max_reject_share)
        [(landed, first, last)] = self.execute(landing.count_events(self.dialect, load))
        [(products,)] = self.execute(landing.count_products(self.dialect, load))
        if not landed:
            raise BadInputError(f"{source.browsing.name} holds no usable event: nothing was landed.")
        return LoadReport(
            etl_id=load.etl_id,
            tenant=load.tenant,
            source=source.name,
            first_event_date=str(first),
            last_event_date=str(last),
            events_read=lines["events"],
            events_landed=landed,
            events_rejected=sum(r.rows for r in rejects if r.file == source.browsing.name),
            rejected_by_reason={r.label(source.browsing.name): r.rows for r in rejects},
            products_landed=products,
        )

    def select(self, request: unload.UnloadRequest) -> unload.Selection:
        """Freezes the sessions and products of one snapshot and describes them.

        Call it inside `transaction()`, and unload in the same one: then it is one consistent read.

        Args:
            request: Tenant, interval, lengths and sampling.

        Raises:
            BadInputError: The marts are missing or have lost a column.
        """
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


def missing_mart(schema: str, error: Exception) -> BadInputError:
    """Returns the error for marts that are absent or have lost a column."""
    first_line: Sequence[str] = str(error).splitlines()[:1]
    return BadInputError(
        f"The marts in schema {schema!r} cannot be read as expected: {''.join(first_line)} "
        "Run the transform step (dbt build) for this warehouse and schema first."
    )

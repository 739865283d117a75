"""DuckDB: one file, one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import duckdb

from include.contracts import SettingsError
from include.warehouse import landing
from include.warehouse.base import (
    Batch,
    ConnectionInfo,
    ObjectStorage,
    Part,
    Warehouse,
    WarehouseUnavailableError,
    missing_mart,
)
from include.warehouse.dialect import DuckDBDialect, Statement
from include.warehouse.loading import SourceFile, SourceFiles, read_batches
from include.warehouse.unload import Selection, UnloadRequest

_PASSED_ON = ("memory_limit", "threads", "temp_directory")
# DuckDB's own limits give up on a dictionary of some ten thousand long SKUs: the files are then 2.5 times
# as large and three times as slow to read.
_PARQUET = (
    "format parquet, compression zstd, row_group_size 250000, "
    "dictionary_size_limit 100000, string_dictionary_page_size_limit 16777216"
)


class DuckDBWarehouse(Warehouse):
    """A DuckDB file, or `:memory:`.

    Raises:
        WarehouseUnavailableError: Another process holds the file.
        SettingsError: The connection names no file, or the file is no DuckDB database.
    """

    def __init__(self, connection: ConnectionInfo, schema: str) -> None:
        super().__init__(schema)
        if not connection.host:
            raise SettingsError(f"Connection {connection.conn_id!r} names no DuckDB file in its host.")
        config = {name: connection.extra[name] for name in _PASSED_ON if name in connection.extra}
        self._connection = _connect(connection.host, config)
        self._connection.execute("set enable_progress_bar = false")  # it would fill the task's log
        [(catalog,)] = self._connection.execute("select current_database()").fetchall()
        self.dialect = DuckDBDialect(catalog)

    def close(self) -> None:
        """Closes the file, which lets the next process in."""
        self._connection.close()

    def execute(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Runs one statement with its values bound."""
        cursor = self._connection.execute(statement.sql, dict(statement.values) or None)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """DuckDB's own transactions: one snapshot for reads, all or nothing for writes."""
        self._connection.begin()
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    def stage(self, source: SourceFiles, now: datetime) -> Iterator[Batch]:
        """Streams the files: a batch is read while the one before it has already been inserted."""
        yield from self._stage_file("events", source.browsing, now)
        if source.catalogue is not None:
            yield from self._stage_file("products", source.catalogue, now)

    def _stage_file(self, kind: landing.Kind, file: SourceFile, now: datetime) -> Iterator[Batch]:
        classify = landing.classify(self.dialect, kind, file, now)
        incoming, classified = _Current(), _Current()
        for number, lines in enumerate(read_batches(file)):
            incoming.table = lines.table
            if number == 0:
                self._connection.register(landing.INCOMING, incoming)
            classified.table = self._connection.execute(classify.sql).to_arrow_table()
            if number == 0:
                self._connection.register(landing.classified(kind), classified)
            yield Batch(kind, file.name, lines.rows)

    def select(self, request: UnloadRequest) -> Selection:
        """As the base class; missing tables and columns become a clear error."""
        try:
            return super().select(request)
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise missing_mart(self.schema, error) from error

    def prepare_unload(self, storage: ObjectStorage) -> None:
        """Loads httpfs and makes a secret that lives in this session's memory alone."""
        load_extension(self._connection, "httpfs")
        literal = self.dialect.literal
        options = {
            "type": "s3",
            "key_id": literal(storage.access_key),
            "secret": literal(storage.secret_key),
            "region": literal(storage.region),
        }
        if storage.session_token:
            options["session_token"] = literal(storage.session_token)
        if storage.endpoint_url:
            endpoint = urlparse(storage.endpoint_url)
            options["endpoint"] = literal(endpoint.netloc)
            options["url_style"] = "'path'"
            options["use_ssl"] = "true" if endpoint.scheme == "https" else "false"
        listed = ", ".join(f"{name} {value}" for name, value in options.items())
        try:
            self._connection.execute(f"create or replace temporary secret snapshot_target ({listed})")
        except duckdb.Error:
            # The statement, and with it DuckDB's message, holds the key: it must not reach a log.
            raise SettingsError("DuckDB refused the S3 credentials of the AWS connection.") from None

    def copy_to(self, query: Statement, folder_uri: str) -> list[Part]:
        """Writes one parquet file."""
        uri = f"{folder_uri}part-00000.parquet"
        # Neither the query of a COPY nor its target can be bound; the query has no values, the target
        # was checked by the caller and is quoted.
        [(rows,)] = self._connection.execute(
            f"copy ({query.sql}) to {self.dialect.literal(uri)} ({_PARQUET})"
        ).fetchall()
        return [Part(uri, int(rows))]


class _Current:
    """An Arrow table that can be exchanged under a name which DuckDB knows.

    Within a transaction DuckDB keeps whatever was ever registered, and the rows of every temporary table
    that was replaced: either would hold the whole file in memory.
    """

    def __init__(self) -> None:
        self.table: Any = None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def _connect(path: str, config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    if path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        return duckdb.connect(path, config=config)
    except duckdb.IOException as error:
        if "lock" in str(error).lower():
            raise WarehouseUnavailableError(
                f"The DuckDB file {path} is held by another process. It lets one in at a time: close other "
                "sessions; the next try of this task waits its turn."
            ) from error
        raise SettingsError(f"{path} cannot be opened as a DuckDB file: {error}") from error


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Loads an extension from the installed wheel, so that no download is needed.

    Where the image has no such wheel, DuckDB fetches the extension itself.
    """
    try:
        from duckdb_extensions import import_extension

        import_extension(name, con=connection)
    except ImportError:
        connection.install_extension(name)
    connection.load_extension(name)

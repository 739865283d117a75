"""DuckDB: one file, one process at a time."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import duckdb

from include.contracts import SettingsError
from include.warehouse import landing
from include.warehouse.base import (
    ConnectionInfo,
    ObjectStorage,
    Part,
    Warehouse,
    WarehouseUnavailableError,
    missing_mart,
)
from include.warehouse.dialect import DuckDBDialect, Statement
from include.warehouse.judging import REJECTS, Judge, rows_sql
from include.warehouse.lines import Position, ahead, read_blocks
from include.warehouse.sources import SourceFile, SourceFiles
from include.warehouse.unload import Selection, UnloadRequest

_DENIED = (401, 403)
_PASSED_ON = ("memory_limit", "threads", "temp_directory")
_LOAD_MEMORY = "750MB"
_BLOCKS_PER_CHUNK = 12
"""Of 16 MiB each: about a million events between two commits."""
_ABANDONED_AFTER = timedelta(days=7)
"""No retry comes that late. Of a file that has changed since none can come, and every scan reads its rows."""
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUSY = "Another load of the same content is under way; the next try sees what it did."
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
        self._config = {name: connection.extra[name] for name in _PASSED_ON if name in connection.extra}
        self._connection = _connect(connection.host, self._config)
        self._connection.execute("set enable_progress_bar = false")  # it would fill the task's log
        [(catalog,)] = self._connection.execute("select current_database()").fetchall()
        self.dialect = DuckDBDialect(catalog)
        self._progress_table = landing.raw(self.dialect, "load_progress")

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
        try:
            self._connection.begin()
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()
        except (duckdb.TransactionException, duckdb.ConstraintException) as error:
            raise WarehouseUnavailableError(_BUSY) from error
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            if (short := _shortage(error)) is None:
                raise
            raise WarehouseUnavailableError(short) from error

    def create_raw_tables(self) -> None:
        """As the base class, and a table that says how far unfinished loads are."""
        super().create_raw_tables()
        self.execute(
            Statement(
                f"create table if not exists {self._progress_table} (etl_id varchar, kind varchar, "
                "began_at timestamp, next_offset bigint, next_line bigint, lines bigint, "
                "is_complete boolean, primary key (etl_id, kind))"
            )
        )

    def begin(self, load: landing.Load) -> landing.Load:
        """As the base class: every chunk of a load, in whichever try, carries the same timestamp.

        Clears away other loads that were begun long ago and never finished.
        """
        # Rows go in one after the other, in the order of the file: a second thread cost half as much CPU
        # again, gained nothing, and at times left a file of twice the size.
        self.execute(Statement("set threads = 1"))
        if "memory_limit" not in self._config:
            # DuckDB's own default is most of the machine, which the transform may want and a load need not.
            self.execute(Statement(f"set memory_limit = '{_LOAD_MEMORY}'"))
        self._discard_abandoned(load)
        began = self.execute(
            Statement(f"select min(began_at) from {self._progress_table} where etl_id = $etl_id", load.key)
        )
        return load if began[0][0] is None else replace(load, at=began[0][0])

    def _discard_abandoned(self, load: landing.Load) -> None:
        abandoned = self.execute(
            Statement(
                f"select distinct etl_id from {self._progress_table} "
                "where etl_id != $etl_id and began_at < $begun_before",
                {**load.key, "begun_before": load.at - _ABANDONED_AFTER},
            )
        )
        for (etl_id,) in abandoned:
            self.discard(replace(load, etl_id=etl_id))

    def bring(self, load: landing.Load, file: SourceFile) -> int:
        """As the base class: rows and progress are committed together, about a million rows at a time."""
        progress = self._progress(load, file)
        if progress.is_complete:
            return progress.lines
        judge = Judge(self._connection, file, load.moment)
        blocks = ahead(read_blocks(file, progress.position))
        while not progress.is_complete:
            with self.transaction():
                reached = progress
                for block in islice(blocks, _BLOCKS_PER_CHUNK):
                    self._insert(load, file, rejects=judge.judge(block))
                    reached = replace(reached, position=block.end, lines=reached.lines + block.lines)
                if reached == progress:
                    reached = replace(reached, is_complete=True)
                self._advance(load, file, progress, reached)
            progress = reached
        return progress.lines

    def _insert(self, load: landing.Load, file: SourceFile, rejects: int) -> None:
        columns = ", ".join(landing.columns_of(file.kind))
        self.execute(
            Statement(
                f"insert into {landing.raw(self.dialect, file.kind.table)} "
                f"(etl_id, etl_timestamp, api_key, {columns}) "
                f"select $etl_id, $etl_timestamp, $api_key, {columns} from ({rows_sql(file)})",
                load.values,
            )
        )
        if rejects:
            self.execute(
                Statement(
                    f"insert into {landing.raw(self.dialect, 'rejected_events')} "
                    "(etl_id, etl_timestamp, api_key, file, line, reason, raw_line) "
                    f"select $etl_id, $etl_timestamp, $api_key, $file, line, reason, raw_line from {REJECTS}",
                    {**load.values, "file": file.name},
                )
            )

    def _progress(self, load: landing.Load, file: SourceFile) -> _Progress:
        key = {**load.key, "kind": file.kind.name}
        found = self.execute(
            Statement(
                f"select next_offset, next_line, lines, is_complete from {self._progress_table} "
                "where etl_id = $etl_id and kind = $kind",
                key,
            )
        )
        if found:
            offset, line, lines, is_complete = found[0]
            return _Progress(Position(offset, line), lines, is_complete)
        start = _Progress(Position(), 0, False)
        with self.transaction():
            self.execute(
                Statement(
                    f"insert into {self._progress_table} values "
                    "($etl_id, $kind, $began_at, $offset, $line, 0, false)",
                    {
                        **key,
                        "began_at": load.at,
                        "offset": start.position.offset,
                        "line": start.position.line,
                    },
                )
            )
        return start

    def _advance(self, load: landing.Load, file: SourceFile, expected: _Progress, reached: _Progress) -> None:
        """Moves on from where this load believes to be; whoever else moved it meanwhile wins."""
        moved = self.execute(
            Statement(
                f"update {self._progress_table} set next_offset = $offset, next_line = $line, "
                "lines = $lines, is_complete = $is_complete where etl_id = $etl_id and kind = $kind "
                "and next_offset = $expected and not is_complete",
                {
                    **load.key,
                    "kind": file.kind.name,
                    "offset": reached.position.offset,
                    "line": reached.position.line,
                    "lines": reached.lines,
                    "is_complete": reached.is_complete,
                    "expected": expected.position.offset,
                },
            )
        )
        if moved != [(1,)]:
            raise WarehouseUnavailableError(_BUSY)

    def take_turn(self, load: landing.Load) -> None:
        """As the base class: of two transactions that delete the same rows, DuckDB fails the second."""
        self.execute(Statement(f"delete from {self._progress_table} where etl_id = $etl_id", load.key))

    def move_in(self, load: landing.Load, source: SourceFiles) -> None:
        """Nothing to do: the rows are in their tables, and nobody looks at them yet."""

    def discard(self, load: landing.Load) -> None:
        """As the base class; a load that became visible meanwhile stays."""
        with self.transaction():
            self.take_turn(load)
            if not self.execute(landing.stored_report(self.dialect, load.etl_id)):
                for statement in landing.delete_rows(self.dialect, load):
                    self.execute(statement)

    def tidy(self, load: landing.Load) -> None:
        """Nothing to do: the progress went with the transaction that made the load visible."""

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
        """Writes one parquet file.

        Raises:
            SettingsError: S3 lets this identity not write there.
            WarehouseUnavailableError: S3 does not answer, after the retries that DuckDB makes by itself.
        """
        uri = f"{folder_uri}part-00000.parquet"
        # Neither the query of a COPY nor its target can be bound; the query has no values, the target
        # was checked by the caller and is quoted.
        try:
            [(rows,)] = self._connection.execute(
                f"copy ({query.sql}) to {self.dialect.literal(uri)} ({_PARQUET})"
            ).fetchall()
        except duckdb.IOException as error:
            said = str(error).partition("\n")[0]
            if getattr(error, "status_code", None) in _DENIED:
                raise SettingsError(f"Allow the AWS connection to write {uri}: {said}") from error
            raise WarehouseUnavailableError(f"{uri} could not be written: {said}") from error
        return [Part(uri, int(rows))]


@dataclass(frozen=True)
class _Progress:
    """How far a file of an unfinished load has been committed."""

    position: Position
    lines: int
    is_complete: bool


def _connect(path: str, config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    if path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        return duckdb.connect(path, config=config)
    except duckdb.IOException as error:
        if "lock" in str(error).lower():
            holder = "".join(re.findall(r" \(PID \d+\)", str(error))[:1])
            raise WarehouseUnavailableError(
                f"The DuckDB file {path} is held by another process{holder}. It lets one in at a time: close "
                "other sessions; the next try of this task waits its turn."
            ) from error
        raise SettingsError(f"{path} cannot be opened as a DuckDB file: {error}") from error


def _shortage(error: duckdb.Error) -> str | None:
    """Returns what the machine is short of and what helps; None where it is something else."""
    said = str(error).partition("\n")[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        return f"DuckDB is out of memory: raise memory_limit in its connection's extra. {said}"
    if any(os.strerror(number) in said for number in _OF_DISK):
        return f"DuckDB is out of disk: make room, or set temp_directory in its connection's extra. {said}"
    return None


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

"""Snowflake, through the Airflow provider's hook."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from include.contracts import SettingsError
from include.warehouse import landing
from include.warehouse.base import ConnectionInfo, ObjectStorage, Part, Warehouse, missing_mart
from include.warehouse.dialect import Dialect, DuckDBDialect, SnowflakeDialect, Statement
from include.warehouse.judging import REJECTS, Judge, rows_sql
from include.warehouse.kinds import Kind
from include.warehouse.lines import Position, ahead, read_blocks
from include.warehouse.snowflake_login import open_session
from include.warehouse.sources import SourceFile, SourceFiles
from include.warehouse.unload import Selection, UnloadRequest

_log = logging.getLogger(__name__)

_STAGE = "raw.landing"
_BLOCK_BYTES = 64 << 20
"""Snowflake likes fewer files than DuckDB likes blocks; memory allows no larger ones."""
_LOAD_MEMORY = "750MB"
_UNKNOWN_OBJECT = {2003, 904}
"""Snowflake's error numbers of a missing table and a missing column."""


class SnowflakeWarehouse(Warehouse):
    """A session of the Snowflake connection, with its database and virtual warehouse.

    Making a table, even a temporary one, ends an open transaction: none is made inside a load's.
    """

    def __init__(self, connection: ConnectionInfo, schema: str, session: Any = None) -> None:
        super().__init__(schema)
        self.dialect = SnowflakeDialect()
        self._storage_integration = str(connection.extra.get("storage_integration") or "")
        self._session = session if session is not None else open_session(connection)

    def close(self) -> None:
        """Ends the session, and with it its temporary tables."""
        self._session.close()

    def execute(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Runs one statement with its values bound."""
        # Without values the driver leaves percent signs alone, so the dialect's doubling has to go.
        sql = statement.sql if statement.values else statement.sql.replace("%%", "%")
        with self._session.cursor() as cursor:
            cursor.execute(sql, dict(statement.values) or None)
            return [tuple(row) for row in cursor.fetchall()]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """An explicit transaction."""
        self.execute(Statement("begin"))
        try:
            yield
        except BaseException:
            self.execute(Statement("rollback"))
            raise
        self.execute(Statement("commit"))

    def create_raw_tables(self) -> None:
        """As the base class, and what only a load needs: the stage, and the lock that loads queue for."""
        # Without the privilege to create schemas, `if not exists` is refused even where the schema exists.
        [(known,)] = self.execute(
            Statement("select count(*) from information_schema.schemata where schema_name = 'RAW'")
        ) or [(0,)]
        schema, *tables = landing.raw_tables(self.dialect)
        for statement in [*([] if known else [schema]), *tables, *stage_and_lock()]:
            self.execute(statement)

    def begin(self, load: landing.Load) -> landing.Load:
        """Nothing to prepare: rows get the timestamp of the try that moves them in."""
        return load

    def bring(self, load: landing.Load, file: SourceFile) -> int:
        """As the base class: rows are judged here and put on the stage as parquet, a block a file.

        A block whose file of rows is on the stage needs no second upload; it is put there last.
        """
        done = self._staged(load, file.kind)
        position = Position(done[-1].offset, done[-1].line) if done else Position()
        lines = sum(chunk.lines for chunk in done)
        with TemporaryDirectory() as folder, duckdb.connect(config={"memory_limit": _LOAD_MEMORY}) as session:
            judge = Judge(session, file, load.moment)
            for number, block in enumerate(ahead(read_blocks(file, position, _BLOCK_BYTES)), len(done)):
                chunk = Chunk(number, block.end.offset, block.end.line, block.lines)
                if judge.judge(block):
                    name = self.dialect.literal(file.name)
                    rejects = f"select {name} as file, line, reason, raw_line from {REJECTS}"
                    self._put(
                        session, rejects, Path(folder) / f"{file.kind.name}-{chunk.name}", load, "rejects"
                    )
                self._put(session, staged_rows(file), Path(folder) / chunk.name, load, file.kind.name)
                lines += block.lines
        return lines

    def _put(
        self, session: duckdb.DuckDBPyConnection, query: str, path: Path, load: landing.Load, folder: str
    ) -> None:
        session.execute(
            f"copy ({query}) to {DuckDBDialect().literal(str(path))} (format parquet, compression zstd)"
        )
        self.execute(put(self.dialect, path, load, folder))
        path.unlink()

    def _staged(self, load: landing.Load, kind: Kind) -> list[Chunk]:
        """Returns the chunks of a file that an earlier try left on the stage, up to the first gap."""
        prefix = f"/{load.etl_id}/{kind.name}/"
        # All of it: the stage holds nothing but loads under way.
        names = [str(row[0]) for row in self.execute(Statement(f"list @{_STAGE}"))]
        found = sorted(Chunk.of(name) for name in names if prefix in name)
        return [chunk for place, chunk in enumerate(found) if chunk.number == place]

    def take_turn(self, load: landing.Load) -> None:
        """As the base class: the second to update the lock's row waits for the first to end."""
        self.execute(Statement("update raw.load_lock set taken_at = current_timestamp()"))

    def move_in(self, load: landing.Load, source: SourceFiles) -> None:
        """Copies the staged files into the raw tables."""
        for file in source.files:
            self.execute(copy_rows(self.dialect, load, file.kind))
        self.execute(copy_rejects(self.dialect, load))

    def discard(self, load: landing.Load) -> None:
        """As the base class: nothing but the stage holds anything of it."""
        self.tidy(load)

    def tidy(self, load: landing.Load) -> None:
        """Empties the load's folder on the stage; files left behind cost space, and no load its success."""
        try:
            self.execute(Statement(f"remove {stage_folder(load)}"))
        except Exception as error:  # the driver's own errors are seconds of import away
            _log.warning("%s could not be emptied: %s", stage_folder(load), error)

    def select(self, request: UnloadRequest) -> Selection:
        """As the base class; missing tables and columns become a clear error."""
        self.execute(Statement(f"use schema {self.schema}"))
        try:
            return super().select(request)
        except Exception as error:
            if getattr(error, "errno", None) in _UNKNOWN_OBJECT:
                raise missing_mart(self.schema, error) from error
            raise

    def prepare_unload(self, storage: ObjectStorage) -> None:
        """Checks that the connection names the integration that writes to the bucket.

        Snowflake never sees our AWS credentials.
        """
        if not self._storage_integration.isidentifier():
            raise SettingsError(
                "The Snowflake connection's extra needs storage_integration: the name of the integration "
                "that may write to the bucket."
            )

    def copy_to(self, query: Statement, folder_uri: str) -> list[Part]:
        """Unloads to parquet files; Snowflake decides how many."""
        rows = self.execute(copy_into_location(self.dialect, query, folder_uri, self._storage_integration))
        return [Part(folder_uri + PurePosixPath(str(name)).name, int(count)) for name, _, count in rows]


@dataclass(frozen=True, order=True)
class Chunk:
    """One staged file of rows; its name says how far into the source it reaches.

    Attributes:
        number: Counts from 0 without gaps.
        offset: Bytes of the source's text up to its end.
        line: Number of the source's line behind it.
        lines: Lines read for it that were not blank.
    """

    number: int
    offset: int
    line: int
    lines: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.number:06d}_{self.offset}_{self.line}_{self.lines}.parquet"

    @classmethod
    def of(cls, name: str) -> Chunk:
        """Reads a name that the stage listed."""
        return cls(*map(int, PurePosixPath(name).stem.split("_")))


def stage_folder(load: landing.Load, folder: str = "") -> str:
    """Returns a load's own folder on the stage, or one in it."""
    return f"@{_STAGE}/{load.etl_id}/" + (f"{folder}/" if folder else "")


def stage_and_lock() -> list[Statement]:
    """Returns the statements that create the stage and the lock where they are missing."""
    return [
        Statement(f"create stage if not exists {_STAGE}"),
        Statement("create table if not exists raw.load_lock (taken_at timestamp_ltz)"),
        Statement(
            "insert into raw.load_lock select current_timestamp() "
            "where not exists (select 1 from raw.load_lock)"
        ),
    ]


def staged_rows(file: SourceFile) -> str:
    """Returns DuckDB's query of what is staged: plain texts, which Snowflake cannot misread."""
    texts = ", ".join(f"cast({name} as varchar) as {name}" for name in landing.columns_of(file.kind))
    return f"select {texts} from ({rows_sql(file)})"


def put(dialect: Dialect, path: Path, load: landing.Load, folder: str) -> Statement:
    """Returns the upload of one local file to the load's folder on the stage."""
    target = dialect.literal(path.resolve().as_uri())
    # Overwritten, because rejects that a killed try judged earlier are not those of the rows put now.
    return Statement(f"put {target} {stage_folder(load, folder)} auto_compress = false overwrite = true")


def copy_rows(dialect: Dialect, load: landing.Load, kind: Kind) -> Statement:
    """Returns the copy of a kind's staged rows into its raw table."""
    casts = {"event_date": "$1:event_date::date", "raw_data": "parse_json($1:raw_data::varchar)"}
    columns = {name: casts.get(name, f"$1:{name}::varchar") for name in landing.columns_of(kind)}
    return _copy(dialect, load, kind.table, columns, kind.name)


def copy_rejects(dialect: Dialect, load: landing.Load) -> Statement:
    """Returns the copy of all staged rejects."""
    columns = {
        "file": "$1:file::varchar",
        "line": "$1:line::bigint",
        "reason": "$1:reason::varchar",
        "raw_line": "$1:raw_line::varchar",
    }
    return _copy(dialect, load, "rejected_events", columns, "rejects")


def _copy(
    dialect: Dialect, load: landing.Load, table: str, columns: Mapping[str, str], folder: str
) -> Statement:
    # A copy binds no values; these are a hash, a checked name and a time.
    log = (
        dialect.literal(load.etl_id),
        f"{dialect.literal(load.at.isoformat(' ', 'microseconds'))}::timestamp_ntz",
        dialect.literal(load.tenant),
    )
    # Forced, because Snowflake remembers files by name, and a load that was rolled back comes again.
    return Statement(
        f"copy into {landing.raw(dialect, table)} ({', '.join((*landing.LOG_COLUMNS, *columns))}) "
        f"from (select {', '.join((*log, *columns.values()))} from {stage_folder(load, folder)}) "
        "file_format = (type = parquet) force = true"
    )


def copy_into_location(
    dialect: Dialect, query: Statement, folder_uri: str, storage_integration: str
) -> Statement:
    """Returns the unload of a query to an S3 folder, one result row per file: name, bytes, rows.

    The folder must be empty. The query's id in the names lets Snowflake remove what a failed attempt of its
    own left there; `overwrite`, which excludes it, would not. Without rows there is no file.
    """
    return Statement(
        f"copy into {dialect.literal(folder_uri)} from ({query.sql}) "
        f"storage_integration = {storage_integration} file_format = (type = parquet) "
        "header = true include_query_id = true detailed_output = true max_file_size = 268435456",
        query.values,
    )

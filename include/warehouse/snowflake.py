"""Snowflake, through the Airflow provider's hook."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from include.contracts import SettingsError
from include.warehouse import landing
from include.warehouse.base import Batch, ConnectionInfo, ObjectStorage, Part, Warehouse, missing_mart
from include.warehouse.dialect import Dialect, SnowflakeDialect, Statement
from include.warehouse.loading import LineBatch, SourceFile, SourceFiles, read_batches
from include.warehouse.unload import Selection, UnloadRequest

_STAGE = "landing_stage"
_UNKNOWN_OBJECT = {2003, 904}
"""Snowflake's error numbers of a missing table and a missing column."""


class SnowflakeWarehouse(Warehouse):
    """A session of the Snowflake connection, with its database and virtual warehouse.

    Tables made with `create temporary` belong to this session; making one ends an open transaction, so
    that all of them are made before a load's transaction begins.
    """

    def __init__(self, connection: ConnectionInfo, schema: str, session: Any = None) -> None:
        super().__init__(schema)
        self.dialect = SnowflakeDialect()
        self._storage_integration = str(connection.extra.get("storage_integration") or "")
        self._session = session if session is not None else _open_session(connection.conn_id)

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
        """As the base class; the raw schema becomes the place of the temporary tables."""
        super().create_raw_tables()
        self.execute(Statement("use schema raw"))

    def stage(self, source: SourceFiles, now: datetime) -> Sequence[Batch]:
        """Puts the lines on a temporary stage, copies them into a table and classifies them there."""
        batches = [self._stage_file("events", source.browsing, now)]
        if source.catalogue is not None:
            batches.append(self._stage_file("products", source.catalogue, now))
        return batches

    def _stage_file(self, kind: landing.Kind, file: SourceFile, now: datetime) -> Batch:
        self.execute(Statement(f"create or replace temporary stage {_STAGE}"))
        lines = 0
        with TemporaryDirectory() as folder:
            for number, batch in enumerate(read_batches(file)):
                lines += batch.rows
                path = Path(folder) / f"{kind}-{number:06d}.json.gz"
                write_json_lines(batch, path)
                self.execute(put(self.dialect, path))
                path.unlink()
        for statement in copy_into_incoming():
            self.execute(statement)
        query = landing.classify(self.dialect, kind, file, now).sql
        self.execute(Statement(f"create or replace temporary table {landing.classified(kind)} as {query}"))
        return Batch(kind, file.name, lines)

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


def write_json_lines(batch: LineBatch, path: Path) -> None:
    """Writes lines as gzipped JSON objects `n` (number), `l` (line) and, where they were split, `f`."""
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for row in batch.table.to_pylist():
            document = {"n": row["line_number"], "l": row["line"]}
            if row["fields"] is not None:
                document["f"] = row["fields"]
            file.write(json.dumps(document, ensure_ascii=False) + "\n")


def put(dialect: Dialect, path: Path) -> Statement:
    """Returns the upload of one local file to the temporary stage."""
    target = dialect.literal(path.resolve().as_uri())
    return Statement(f"put {target} @{_STAGE} auto_compress = false")


def copy_into_incoming() -> list[Statement]:
    """Returns the statements that make the staged lines the relation which `landing` reads."""
    return [
        Statement(
            f"create or replace temporary table {landing.INCOMING} "
            "(line_number number(38, 0), line varchar, fields array)"
        ),
        Statement(
            f"copy into {landing.INCOMING} from ("
            "select t.$1:n::number(38, 0), t.$1:l::varchar, t.$1:f::array "
            f"from @{_STAGE} as t) file_format = (type = json)"
        ),
    ]


def copy_into_location(
    dialect: Dialect, query: Statement, folder_uri: str, storage_integration: str
) -> Statement:
    """Returns the unload of a query to an S3 folder, one result row per file.

    The files are named after the query, so that two exports at once never write over each other.
    """
    return Statement(
        f"copy into {dialect.literal(folder_uri)} from ({query.sql}) "
        f"storage_integration = {storage_integration} file_format = (type = parquet) "
        "header = true include_query_id = true detailed_output = true max_file_size = 268435456",
        query.values,
    )


def _open_session(conn_id: str) -> Any:
    from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook  # seconds of import

    return SnowflakeHook(snowflake_conn_id=conn_id).get_conn()

"""Judges rows in a DuckDB session: the pipeline's own, or one in memory beside another warehouse."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from include.warehouse.dialect import DuckDBDialect
from include.warehouse.lines import Block
from include.warehouse.sources import SourceFile

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

INCOMING = "incoming"
"""Relation of a block's rows: `line_number` and one text column per column of the file."""

REJECTS = "rejects"
"""Relation of a block's rejected lines: `line`, `reason` and `raw_line`, the start of the line."""

_KEPT_LINE_CHARS = 1000


class Judge:
    """Applies the rules of a file's kind, a block at a time.

    Args:
        connection: Session in which the relations `INCOMING` and `REJECTS` are made.
        file: Gives kind and column order.
        now: Moment of the load; rows later than a day after it are impossible.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, file: SourceFile, now: datetime) -> None:
        self._connection = connection
        self._rows, self._rejects = _Current(), _Current()
        self._is_registered = False
        self._rejects_sql = rejects_sql(file, now)

    def judge(self, block: Block) -> int:
        """Leaves a block's good rows in `INCOMING`, the others in `REJECTS`; returns the count of those."""
        import pyarrow as pa  # half a second that only a load should pay
        import pyarrow.compute as pc

        self._rows.table = block.table
        self._rejects.table = _rejects(block, {})
        if not self._is_registered:
            self._connection.register(INCOMING, self._rows)
            self._connection.register(REJECTS, self._rejects)
            self._is_registered = True
        broken = dict(self._connection.execute(self._rejects_sql).fetchall())
        if broken:
            bad = pc.is_in(block.table["line_number"], value_set=pa.array(broken, pa.int64()))
            self._rows.table = block.table.filter(pc.invert(bad))
            self._rejects.table = _rejects(block, broken)
        return int(self._rejects.table.num_rows)


def _rejects(block: Block, broken: dict[int, str]) -> pa.Table:
    import pyarrow as pa  # as above

    reasons = sorted((block.spoiled | broken).items())
    return pa.table(
        {
            "line": pa.array([number for number, _ in reasons], pa.int64()),
            "reason": pa.array([reason for _, reason in reasons], pa.string()),
            "raw_line": pa.array([block.line(line)[:_KEPT_LINE_CHARS] for line, _ in reasons], pa.string()),
        }
    )


class _Current:
    """An Arrow table that can be exchanged under a name which DuckDB knows.

    Within a transaction DuckDB keeps whatever was ever registered, and the rows of every temporary table
    that was replaced: either would hold the whole file in memory.
    """

    def __init__(self) -> None:
        self.table: Any = None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def rejects_sql(file: SourceFile, now: datetime) -> str:
    """Returns the query of the rows of `INCOMING` that break a rule: number and first broken rule."""
    places = _places(file)
    branches = "\n        ".join(
        f"when {condition.format(**places)} then '{reason}'"
        for reason, condition in file.kind.rules(now).items()
    )
    return f"""select line_number, reason
from (
    select
        line_number,
        case
        {branches}
        end as reason
    from {INCOMING}
)
where reason is not null"""


def rows_sql(file: SourceFile) -> str:
    """Returns the query of a block's good rows: the kind's own columns, then `raw_data`."""
    places = _places(file)
    literal = DuckDBDialect().literal
    derived = [f"{expression.format(**places)} as {name}" for name, expression in file.kind.derived.items()]
    pairs = ", ".join(f"{literal(name)}, c{number}" for number, name in enumerate(file.columns))
    return f"select {', '.join(derived)}, json_object({pairs}) as raw_data from {INCOMING}"


def _places(file: SourceFile) -> dict[str, str]:
    """Maps the names that rules use to the columns of `INCOMING`; a header's own names reach no SQL."""
    return {name: f"c{file.columns.index(name)}" for name in file.kind.required}

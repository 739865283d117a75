"""The few expressions in which the vendors' SQL differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Statement:
    """SQL text and the values bound to its named parameters."""

    sql: str
    values: Mapping[str, Any] = field(default_factory=dict)


class Dialect(Protocol):
    """Expressions over SQL fragments; none of them takes a value except `literal`."""

    name: str
    json_type: str
    types: Mapping[str, Sequence[str]]
    """By kind of column, the types that it may have, as the information schema calls them."""

    def schema(self, name: str) -> str:
        """Returns the full name of a schema."""

    def table(self, schema: str, name: str) -> str:
        """Returns the full name of a table; schema and name are checked identifiers."""

    def parameter(self, name: str) -> str:
        """Returns the placeholder of a bound value."""

    def literal(self, text: str) -> str:
        """Quotes a text, for the places that cannot be bound."""

    def joined(self, array: str) -> str:
        """Returns an array's elements in one text."""

    def json_text(self, document: str, key: str) -> str:
        """Returns the text at a top-level key of a JSON column."""

    def to_json(self, text: str) -> str:
        """Parses a text as JSON."""

    def fingerprint(self, text: str) -> str:
        """Hashes a text to an integer that can be summed."""

    def exploded(self, table: str, array: str, other: str) -> str:
        """Returns a query of `split`, `value` and `other`: a row per position of two arrays of one length."""

    def unloaded(self, array: str) -> str:
        """Returns an array as it goes into a parquet file: as a list, or as its JSON text."""

    def variable(self, name: str) -> str:
        """Returns what stands for a value in a query that is given to `freeze`."""

    def freeze(self, name: str, query: str, values: Mapping[str, Any]) -> list[Statement]:
        """Returns the statements after which `name` holds the query's rows as they are now.

        They stay so until the transaction ends, whatever others commit meanwhile.
        """


class DuckDBDialect:
    """DuckDB's spelling.

    Args:
        catalog: Name of the attached file. Without it, a file named as one of its schemas is ambiguous.
    """

    name = "duckdb"
    json_type = "json"
    types: Mapping[str, Sequence[str]] = {
        "text": ("VARCHAR",),
        "date": ("DATE",),
        "moment": ("TIMESTAMP",),
        "number": ("INTEGER", "BIGINT", "DOUBLE"),
        "flag": ("BOOLEAN",),
        "texts": ("VARCHAR[]",),
        "numbers": ("BIGINT[]",),
    }

    def __init__(self, catalog: str | None = None) -> None:
        self._prefix = "" if catalog is None else '"' + catalog.replace('"', '""') + '".'

    def schema(self, name: str) -> str:
        """Catalog and schema."""
        return self._prefix + name

    def table(self, schema: str, name: str) -> str:
        """Catalog, schema, name."""
        return f"{self._prefix}{schema}.{name}"

    def parameter(self, name: str) -> str:
        """`$name`."""
        return f"${name}"

    def literal(self, text: str) -> str:
        """Doubles quotes; DuckDB knows no other escape in a plain literal."""
        return "'" + text.replace("'", "''") + "'"

    def joined(self, array: str) -> str:
        """`array_to_string` with a separator that no CSV field can hold unescaped."""
        return f"array_to_string({array}, chr(31))"

    def json_text(self, document: str, key: str) -> str:
        """`json_extract_string`."""
        return f"json_extract_string({document}, {self.literal('$.' + key)})"

    def to_json(self, text: str) -> str:
        """A cast."""
        return f"cast({text} as json)"

    def fingerprint(self, text: str) -> str:
        """Low 64 bits of the MD5."""
        return f"cast(md5_number_lower({text}) as hugeint)"

    def exploded(self, table: str, array: str, other: str) -> str:
        """Two `unnest` in one select go side by side."""
        return f"select split, unnest({array}) as value, unnest({other}) as other from {table}"

    def unloaded(self, array: str) -> str:
        """A list."""
        return array

    def variable(self, name: str) -> str:
        """A session variable: a view cannot hold bound values."""
        return f"getvariable('{name}')"

    def freeze(self, name: str, query: str, values: Mapping[str, Any]) -> list[Statement]:
        """A view: a transaction reads one state of the file, so that nothing has to be copied."""
        return [
            *(Statement(f"set variable {key} = ${key}", {key: value}) for key, value in values.items()),
            Statement(f"create or replace temporary view {name} as\n{query}"),
        ]


class SnowflakeDialect:
    """Snowflake's spelling, with pyformat parameters."""

    name = "snowflake"
    json_type = "variant"
    types: Mapping[str, Sequence[str]] = {
        "text": ("TEXT",),
        "date": ("DATE",),
        "moment": ("TIMESTAMP_NTZ",),
        "number": ("NUMBER", "FLOAT"),
        "flag": ("BOOLEAN",),
        "texts": ("ARRAY", "VARIANT"),
        "numbers": ("ARRAY", "VARIANT"),
    }

    def schema(self, name: str) -> str:
        """The schema; the connection chooses the database."""
        return name

    def table(self, schema: str, name: str) -> str:
        """Schema and name; the connection chooses the database."""
        return f"{schema}.{name}"

    def parameter(self, name: str) -> str:
        """`%(name)s`."""
        return f"%({name})s"

    def literal(self, text: str) -> str:
        """Escapes backslashes too, and percent signs, which the driver would read as parameters."""
        escaped = text.replace("\\", "\\\\").replace("'", "''").replace("%", "%%")
        return f"'{escaped}'"

    def joined(self, array: str) -> str:
        """Its JSON text."""
        return f"to_json({array})"

    def json_text(self, document: str, key: str) -> str:
        """A path, then a cast; a path keeps the case of its key."""
        return f"{document}:{key}::varchar"

    def to_json(self, text: str) -> str:
        """`parse_json`."""
        return f"parse_json({text})"

    def fingerprint(self, text: str) -> str:
        """Low 64 bits of the MD5."""
        return f"cast(md5_number_lower64({text}) as number(38, 0))"

    def exploded(self, table: str, array: str, other: str) -> str:
        """`lateral flatten`, and the other array by its index."""
        return (
            f"select t.split, f.value::varchar as value, t.{other}[f.index]::varchar as other "
            f"from {table} as t, lateral flatten(input => t.{array}) as f"
        )

    def unloaded(self, array: str) -> str:
        """JSON text: an array would become a list of the JSON texts of its elements, quotes and all."""
        return f"to_json({array})"

    def variable(self, name: str) -> str:
        """A bound value."""
        return self.parameter(name)

    def freeze(self, name: str, query: str, values: Mapping[str, Any]) -> list[Statement]:
        """A copy: a transaction is READ COMMITTED, so that two queries may see two states of a table."""
        return [Statement(f"create or replace temporary table {name} as\n{query}", values)]

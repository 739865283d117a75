"""The few expressions in which the vendors' SQL differs."""

from __future__ import annotations

from collections.abc import Mapping
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

    def exploded(self, table: str, array: str) -> str:
        """Returns a query of `split` and `value`, one row per element of an array column."""


class DuckDBDialect:
    """DuckDB's spelling.

    Args:
        catalog: Name of the attached file. Without it, a file named as one of its schemas is ambiguous.
    """

    name = "duckdb"
    json_type = "json"

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

    def exploded(self, table: str, array: str) -> str:
        """`unnest`."""
        return f"select split, unnest({array}) as value from {table}"


class SnowflakeDialect:
    """Snowflake's spelling, with pyformat parameters."""

    name = "snowflake"
    json_type = "variant"

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
        """`array_to_string` with a separator that no CSV field can hold unescaped."""
        return f"array_to_string({array}, chr(31))"

    def json_text(self, document: str, key: str) -> str:
        """The path of a quoted key, then a cast."""
        return f'{document}:"{key}"::varchar'

    def to_json(self, text: str) -> str:
        """`parse_json`."""
        return f"parse_json({text})"

    def fingerprint(self, text: str) -> str:
        """Low 64 bits of the MD5."""
        return f"cast(md5_number_lower64({text}) as number(38, 0))"

    def exploded(self, table: str, array: str) -> str:
        """`lateral flatten`."""
        return (
            f"select t.split, f.value::varchar as value from {table} as t, "
            f"lateral flatten(input => t.{array}) as f"
        )

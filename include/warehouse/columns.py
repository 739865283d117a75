"""The columns of the marts that a snapshot is made of, and what type each must be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from include.contracts import BadInputError
from include.warehouse.dialect import Dialect, Statement

# Of the columns that a snapshot is made of, the kind of each; a dialect knows its types of every kind.
_KINDS = {
    "sessions": {
        "tenant": "text",
        "session_id": "text",
        "session_date": "date",
        "started_at": "moment",
        "ended_at": "moment",
        "n_interactions": "number",
        "n_steps": "number",
        "is_bot": "flag",
        "skus": "texts",
        "actions": "texts",
        "event_times": "numbers",
    },
    "products": {"tenant": "text", "product_sku": "text", "category": "text", "price_bucket": "number"},
}


def column_types(schema: str) -> Statement:
    """Returns the query of the marts' columns: table, column and type."""
    tables = ", ".join(f"'{table}'" for table in _KINDS)
    return Statement(
        "select lower(table_name), lower(column_name), upper(data_type) from information_schema.columns "
        f"where lower(table_schema) = '{schema.lower()}' and lower(table_name) in ({tables})"
    )


def refuse_drift(dialect: Dialect, columns: Iterable[Sequence[Any]]) -> None:
    """Raises where a column is missing, or of another type than the snapshot's readers expect.

    Args:
        dialect: Knows the types.
        columns: The rows of `column_types`. A table of which there are none is for the selection to miss.

    Raises:
        BadInputError: The message names the column and what is wrong with it.
    """
    found = {(table, column): its_type for table, column, its_type in columns}
    for table in {table for table, _ in found}:
        for column, kind in _KINDS[table].items():
            its_type, wanted = found.get((table, column)), dialect.types[kind]
            if its_type not in wanted:
                state = f"of type {its_type}, not {' or '.join(wanted)}" if its_type else "missing"
                raise BadInputError(
                    f"{table}.{column} is {state}. Run the transform step (dbt build) with full_refresh."
                )

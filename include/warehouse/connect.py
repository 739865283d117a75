"""The one place where a connection becomes a warehouse."""

from __future__ import annotations

from include.contracts import SettingsError
from include.warehouse.base import ConnectionInfo, Warehouse


def open_warehouse(connection: ConnectionInfo, schema: str) -> Warehouse:
    """Opens the warehouse that a connection points to.

    Args:
        connection: `conn_type` decides: `duckdb` or `snowflake`.
        schema: Schema of the dbt models.

    Raises:
        SettingsError: The connection type is neither.
        WarehouseUnavailableError: The DuckDB file is held by another process.
    """
    # Each vendor's driver is imported only where it is used.
    if connection.conn_type == "duckdb":
        from include.warehouse.duckdb import DuckDBWarehouse

        return DuckDBWarehouse(connection, schema)
    if connection.conn_type == "snowflake":
        from include.warehouse.snowflake import SnowflakeWarehouse

        return SnowflakeWarehouse(connection, schema)
    raise SettingsError(
        f"Connection {connection.conn_id!r} has type {connection.conn_type!r}; "
        "the warehouse must be duckdb or snowflake."
    )

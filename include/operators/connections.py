"""Airflow connections, and the warehouse as an operator sees it: connection, settings, who is asking."""

from __future__ import annotations

import json

from airflow.sdk import Connection, Context
from airflow.sdk.exceptions import AirflowNotFoundException

from include.contracts import SettingsError
from include.settings import get_settings
from include.warehouse.base import ConnectionInfo


def get_connection(conn_id: str, setting: str) -> Connection:
    """Returns an Airflow connection.

    Args:
        conn_id: Its id.
        setting: The setting that chooses it, for the message.

    Raises:
        SettingsError: Airflow has none of that id.
    """
    try:
        connection: Connection = Connection.get(conn_id)
    except AirflowNotFoundException as error:
        raise SettingsError(f"Airflow has no connection {conn_id!r}: add it, or set {setting}.") from error
    return connection


def warehouse_info(connection: Connection, context: Context) -> ConnectionInfo:
    """Returns what opens the warehouse, under the settings' names and the task's tag.

    Args:
        connection: The warehouse connection.
        context: Of the running task.
    """
    settings = get_settings()
    return ConnectionInfo.of(
        connection,
        query_tag=query_tag(context),
        warehouse=settings.snowflake_warehouse,
        role=settings.snowflake_role,
    )


def query_tag(context: Context) -> str:
    """Returns the JSON that finds a task's statements in Snowflake's query history."""
    task = context.get("ti")
    if task is None:
        return ""
    return json.dumps({"dag": task.dag_id, "run": task.run_id, "task": task.task_id})

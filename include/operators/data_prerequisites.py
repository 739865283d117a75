"""What a run's data need: the warehouse with its raw log, dbt Cloud where it is chosen, or a snapshot."""

from __future__ import annotations

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import Context

from include import snapshots
from include.contracts import SettingsError
from include.operators.connections import get_connection, warehouse_info
from include.settings import Settings
from include.warehouse.connect import open_warehouse
from include.warehouse.dialect import Statement
from include.warehouse.landing import loaded_dates
from include.window import Window


def check_warehouse(settings: Settings, context: Context, tenant: str, window: Window | None) -> list[str]:
    """Opens the warehouse and looks for the tenant's events in the window.

    Returns:
        The reason where the window holds none; empty where it holds some.

    Raises:
        SettingsError: The connection is missing or of the wrong kind, or the raw log has none of theirs.
        WarehouseUnavailableError: The warehouse is locked or gone for now.
    """
    info = warehouse_info(get_connection(settings.warehouse_conn_id, "PMS_WAREHOUSE_CONN_ID"), context)
    if info.conn_type != settings.warehouse:
        raise SettingsError(
            f"Connection {info.conn_id!r} is of type {info.conn_type!r}, but PMS_WAREHOUSE is "
            f"{settings.warehouse!r}: make them agree."
        )
    load = "Run the DAG load_shopping_events first."
    with open_warehouse(info, settings.warehouse_schema) as warehouse:
        [(tables,)] = warehouse.execute(_count_manifests())
        if not int(tables):
            raise SettingsError(f"The warehouse has no raw log (raw.loads). {load}")
        [(first, last)] = warehouse.execute(loaded_dates(warehouse.dialect, tenant))
    if first is None:
        raise SettingsError(f"The raw log has no events of tenant {tenant!r}. {load}")
    if window is not None and (str(last) < window.start or str(first) >= window.end):
        return [
            f"No events from {window.start} to {window.end}: those of {tenant!r} are from {first} to {last}. "
            "Nothing to train on, and what is deployed stays. Choose other dates, or load more."
        ]
    return []


def _count_manifests() -> Statement:
    return Statement(
        "select count(*) from information_schema.tables where lower(table_schema) = 'raw' "
        "and lower(table_name) = 'loads'"
    )


def check_snapshot(settings: Settings, tenant: str, name: str) -> None:
    """Looks for the snapshot that the run uses again; the export step reads every byte of it.

    Raises:
        SettingsError: The AWS connection is missing, or the name is none of a snapshot.
        BadInputError: It is not there, incomplete, or another tenant's.
        ClientError: AWS refused.
    """
    get_connection(settings.aws_conn_id, "PMS_AWS_CONN_ID")
    client = AwsBaseHook(aws_conn_id=settings.aws_conn_id, client_type="s3").get_conn()
    uri = snapshots.snapshot_uri(settings.bucket, settings.prefix, name)
    snapshots.open_snapshot(client, uri, tenant, deep=False)


def check_dbt_cloud(settings: Settings) -> None:
    """Makes sure that the transform has a job to run, and a warehouse within its reach, with dbt Cloud.

    Raises:
        SettingsError: Warehouse, connection, account, token or job are amiss; the message lists all of it.
    """
    if settings.dbt_runner != "cloud":
        return
    missing = [] if settings.dbt_cloud_job_id else ["the number of a job in PMS_DBT_CLOUD_JOB_ID"]
    if settings.warehouse == "duckdb":
        missing.append(
            "a warehouse that it can reach, and PMS_WAREHOUSE 'duckdb' is a file (set it to 'snowflake', or "
            "PMS_DBT_RUNNER to 'core')"
        )
    try:
        connection = get_connection(settings.dbt_cloud_conn_id, "PMS_DBT_CLOUD_CONN_ID")
    except SettingsError as error:
        missing.append(str(error))
    else:
        about = f"connection {settings.dbt_cloud_conn_id!r}"
        if connection.conn_type != "dbt_cloud":
            missing.append(f"the type dbt_cloud, not {connection.conn_type!r}, of {about}")
        if not str(connection.login or "").isdigit():
            missing.append(f"the account's number as login of {about}")
        if not connection.password:
            missing.append(f"an API token as password of {about}")
    if missing:
        raise SettingsError(f"PMS_DBT_RUNNER is 'cloud', which needs: {'; '.join(missing)}.")

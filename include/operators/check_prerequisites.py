"""Looks for everything a run needs before anything is started, and names all that is missing at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk import BaseOperator, Connection, Context
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
)
from botocore.exceptions import BotoCoreError, ClientError

from include import snapshots
from include.contracts import PipelineError, SettingsError
from include.operators.connections import warehouse_info
from include.operators.endpoint_update import find_alarms
from include.sagemaker.errors import explain, is_permanent
from include.sagemaker.plan import Choice, check_cost
from include.sagemaker.storage import ensure_bucket
from include.settings import Settings, get_settings
from include.warehouse.connect import open_warehouse
from include.warehouse.dialect import Statement
from include.warehouse.landing import loaded_dates
from include.window import Window, resolve_window


class CheckPrerequisitesOperator(BaseOperator, SkipMixin):
    """Fails within seconds, with one list of all that is missing, instead of after an hour with the first.

    The dates, the warehouse and its raw log for this window, dbt Cloud where it is chosen, AWS credentials,
    the bucket (created where it is missing), the instance types, what the training may cost, the alarms of a
    deploy, the tracking, and the ML environment.
    A run that uses an earlier snapshot needs that snapshot instead of warehouse and dbt, and its transform
    step is skipped.

    Args:
        start_date: First day of the window, ISO.
        end_date: Day after the last, ISO.
        tenant: Whose events; None for the setting's.
        reuse_snapshot: Id of the snapshot that the run uses again; None or empty for a new export.
        training: What the run chose of its training, by the names of `Choice`; None for no training.
        deploys: Whether the run may move the lasting endpoint.
        transform_group: Id of the task group that is skipped then. What follows it has to accept skipped
            tasks before it.
        **kwargs: Arguments of the base operator.
    """

    # Not `start_date`: that name is Airflow's own, for when a task may first run.
    template_fields: Sequence[str] = (
        "window_start",
        "window_end",
        "tenant",
        "reuse_snapshot",
        "training",
        "deploys",
    )

    def __init__(
        self,
        *,
        start_date: str,
        end_date: str,
        tenant: str | None = None,
        reuse_snapshot: str | None = None,
        training: Mapping[str, Any] | None = None,
        deploys: Any = True,
        transform_group: str = "transform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window_start = start_date
        self.window_end = end_date
        self.tenant = tenant
        self.reuse_snapshot = reuse_snapshot
        self.training = training
        self.deploys = deploys
        self.transform_group = transform_group

    def execute(self, context: Context) -> dict[str, str]:
        """Runs every check; returns the window.

        Raises:
            AirflowFailException: Something is missing; the message lists all of it.
            AirflowException: Something did not answer for now.
            DownstreamTasksSkipped: All is well, and the window holds no events: the run ends here. Or an
                earlier snapshot is used: the transform step is not needed.
        """
        settings = get_settings()
        empty: list[str] = []
        problems: list[str] = []
        passing: list[str] = []
        window: Window | None = None
        try:
            window = resolve_window(self.window_start, self.window_end, datetime.now(UTC), 1)
        except SettingsError as error:
            problems.append(str(error))
        checks: tuple[Callable[[], None], ...] = (
            *self._data_checks(context, settings, window, empty),
            lambda: _check_aws(settings, self.training, deploys=self.deploys is True),
            lambda: _check_tracking(settings),
            lambda: _check_ml_environment(settings),
        )
        for check in checks:
            self._run(check, problems, passing)
        if problems:
            listed = "\n".join(
                f"  {number}. {problem}" for number, problem in enumerate(problems + passing, 1)
            )
            raise AirflowFailException(f"The run cannot start:\n{listed}")
        if passing:
            raise AirflowException("For now: " + " ".join(passing))
        if empty:
            # An empty day is no fault: the run ends green, and what is deployed stays.
            self.log.warning("%s", " ".join(empty))
            self.skip(context["ti"], self.get_flat_relatives(upstream=False))
        if self.reuse_snapshot:
            self.log.info("%s is there: the transform step is skipped.", self.reuse_snapshot)
            self.skip(context["ti"], self._transform_tasks())
        assert window is not None
        self.log.info("Everything is there for %s to %s.", window.start, window.end)
        return {"start_date": window.start, "end_date": window.end}

    def _data_checks(
        self, context: Context, settings: Settings, window: Window | None, empty: list[str]
    ) -> tuple[Callable[[], None], ...]:
        """Where the run's data come from: the warehouse by way of dbt, or an earlier snapshot."""
        tenant = self.tenant or settings.tenant
        if reused := self.reuse_snapshot:
            return (lambda: _check_snapshot(settings, tenant, reused),)
        return (
            lambda: empty.extend(_check_warehouse(settings, context, tenant, window)),
            lambda: _check_dbt_cloud(settings),
        )

    def _transform_tasks(self) -> list[Any]:
        """The group's tasks, all of them: some may run after skipped ones."""
        return [
            task
            for task in self.get_flat_relatives(upstream=False)
            if task.task_id.startswith(f"{self.transform_group}.")
        ]

    def _run(self, check: Callable[[], None], problems: list[str], passing: list[str]) -> None:
        try:
            check()
        except PipelineError as error:
            problems.append(str(error))
        except (ClientError, BotoCoreError) as error:
            (problems if is_permanent(error) else passing).append(f"AWS: {explain(error)}")
        except OSError as error:
            # A locked or unreachable warehouse: a retry may find it free.
            passing.append(str(error))


def _connection(conn_id: str, setting: str) -> Connection:
    try:
        connection: Connection = Connection.get(conn_id)
    except AirflowNotFoundException as error:
        raise SettingsError(f"Airflow has no connection {conn_id!r}: add it, or set {setting}.") from error
    return connection


def _check_warehouse(settings: Settings, context: Context, tenant: str, window: Window | None) -> list[str]:
    """Opens the warehouse and looks for the tenant's events in the window.

    Returns:
        The reason where the window holds none; empty where it holds some.

    Raises:
        SettingsError: The connection is missing or of the wrong kind, or the raw log has none of theirs.
        WarehouseUnavailableError: The warehouse is locked or gone for now.
    """
    info = warehouse_info(_connection(settings.warehouse_conn_id, "PMS_WAREHOUSE_CONN_ID"), context)
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


def _check_snapshot(settings: Settings, tenant: str, name: str) -> None:
    """Looks for the snapshot that the run uses again; the export step reads every byte of it.

    Raises:
        SettingsError: The AWS connection is missing, or the name is none of a snapshot.
        BadInputError: It is not there, incomplete, or another tenant's.
        ClientError: AWS refused.
    """
    _connection(settings.aws_conn_id, "PMS_AWS_CONN_ID")
    client = AwsBaseHook(aws_conn_id=settings.aws_conn_id, client_type="s3").get_conn()
    uri = snapshots.snapshot_uri(settings.bucket, settings.prefix, name)
    snapshots.open_snapshot(client, uri, tenant, deep=False)


def _check_dbt_cloud(settings: Settings) -> None:
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
        connection = _connection(settings.dbt_cloud_conn_id, "PMS_DBT_CLOUD_CONN_ID")
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


def _check_aws(settings: Settings, training: Mapping[str, Any] | None, *, deploys: bool) -> None:
    """Asks AWS who we are, makes sure of the bucket, instance types and alarms, and looks up the cost.

    Raises:
        BadInputError: The training could cost more than the run allows.
        SettingsError: The connection is missing, the bucket is not ours, an instance type is unknown, or an
            alarm without which no update of the endpoint is begun is missing.
        ClientError: AWS refused.
    """

    def client(service: str) -> Any:
        return AwsBaseHook(aws_conn_id=settings.aws_conn_id, client_type=service).get_conn()

    # Without it the provider would fall back, silently, to whatever credentials the worker has.
    _connection(settings.aws_conn_id, "PMS_AWS_CONN_ID")
    client("sts").get_caller_identity()
    ensure_bucket(client("s3"), settings.bucket)
    model = client("sagemaker").meta.service_model
    for setting, shape, chosen in (
        ("PMS_TRAINING_INSTANCE_TYPE", "TrainingInstanceType", settings.training_instance_type),
        ("PMS_ENDPOINT_INSTANCE_TYPE", "ProductionVariantInstanceType", settings.endpoint_instance_type),
    ):
        if chosen not in model.shape_for(shape).enum:
            raise SettingsError(f"{setting}: SageMaker has no instance type {chosen!r} for this.")
    if deploys and settings.alarm_names:
        find_alarms(client("cloudwatch"), settings.alarm_names)
    if training is not None:
        check_cost(Choice(**training), client("sagemaker").meta.region_name)


def _check_tracking(settings: Settings) -> None:
    """Makes sure that training jobs are told where to track.

    Raises:
        SettingsError: They are not.
    """
    if settings.tracking == "mlflow" and not settings.mlflow_tracking_uri:
        raise SettingsError(
            "PMS_TRACKING is 'mlflow', which needs the server's address in PMS_MLFLOW_TRACKING_URI: set it, "
            "or PMS_TRACKING to 'none'."
        )


def _check_ml_environment(settings: Settings) -> None:
    """Makes sure that the gate's interpreter can be run.

    Raises:
        SettingsError: It is not there.
    """
    if not os.access(settings.ml_python, os.X_OK):
        raise SettingsError(
            f"There is no ML environment at {settings.ml_python}: run make setup, or set PMS_ML_PYTHON."
        )

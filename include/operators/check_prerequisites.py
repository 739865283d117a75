"""Looks for everything a run needs before anything is started, and names all that is missing at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from include.contracts import PipelineError, SettingsError
from include.operators.connections import get_connection
from include.operators.data_prerequisites import check_dbt_cloud, check_snapshot, check_warehouse
from include.operators.endpoint_update import EndpointUpdate, find_alarms
from include.operators.guard import refuse_unknown_params
from include.sagemaker.errors import explain, is_permanent
from include.sagemaker.inventory import seen
from include.sagemaker.plan import Choice, check_cost
from include.sagemaker.storage import ensure_bucket
from include.settings import Settings, get_settings
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
        refuse_unknown_params(self, context)
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
            lambda: self._check_aws(settings),
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
            return (lambda: check_snapshot(settings, tenant, reused),)
        return (
            lambda: empty.extend(check_warehouse(settings, context, tenant, window)),
            lambda: check_dbt_cloud(settings),
        )

    def _transform_tasks(self) -> list[Any]:
        """The group's tasks, all of them: some may run after skipped ones."""
        return [
            task
            for task in self.get_flat_relatives(upstream=False)
            if task.task_id.startswith(f"{self.transform_group}.")
        ]

    def _check_aws(self, settings: Settings) -> None:
        _check_aws(settings, self.training, deploys=self.deploys is True)
        self._warn_of_shadow(settings)

    def _warn_of_shadow(self, settings: Settings) -> None:
        """Tells of a shadow test that is on: a run that does not come to its deploy would leave it on."""
        hook: SageMakerHook = SageMakerHook(aws_conn_id=settings.aws_conn_id)  # type: ignore[no-untyped-call]
        told = seen(lambda: hook.describe_endpoint(settings.endpoint_name)) or {}
        live = told.get("EndpointConfigName")
        before = EndpointUpdate(hook, settings, self.log).before_shadow(live)
        if before != live:
            self.log.warning(
                "Endpoint %s is on the shadow test %s, whose machines cost money until it ends. Where no run "
                "is about it any more, this one's deploy takes it off; or do so: aws sagemaker "
                "update-endpoint --endpoint-name %s --endpoint-config-name %s",
                settings.endpoint_name,
                live,
                settings.endpoint_name,
                before,
            )

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
    get_connection(settings.aws_conn_id, "PMS_AWS_CONN_ID")
    client("sts").get_caller_identity()
    ensure_bucket(client("s3"), settings.bucket, settings.prefix)
    model = client("sagemaker").meta.service_model
    trains_on = ("PMS_TRAINING_INSTANCE_TYPE", settings.training_instance_type)
    if training is not None:
        trains_on = ("The run's training instance", training["instance_type"])
    for setting, shape, chosen in (
        (trains_on[0], "TrainingInstanceType", trains_on[1]),
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

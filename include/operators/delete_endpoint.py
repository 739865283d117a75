"""Deletes the endpoint on which a run tested its model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from botocore.exceptions import ClientError

from include.contracts import TrainedModel
from include.operators.create_serving import serving_settings
from include.operators.endpoint_watch import EndpointWatch, limit_seconds
from include.operators.guard import aws_faults, read_claim
from include.sagemaker.errors import is_busy, is_missing
from include.settings import get_settings


class DeleteEndpointOperator(BaseOperator):
    """Deletes the endpoint of the run's own, whatever became of it, and waits until it is gone.

    The lasting endpoint has another name and is out of its reach.

    Args:
        trained_model: The `TrainedModel` claim check.
        ephemeral: Whether the run has an endpoint of its own; the task is skipped where not.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("trained_model", "ephemeral", "aws_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"trained_model": "json"}

    def __init__(
        self, *, trained_model: Any, ephemeral: Any, aws_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.trained_model = trained_model
        self.ephemeral = ephemeral
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> None:
        """Deletes the endpoint; one that is gone already is fine."""
        if self.ephemeral is not True:
            raise AirflowSkipException("The endpoint is to last.")
        settings = serving_settings(read_claim(TrainedModel, self.trained_model), True, context)
        endpoint = settings.endpoint_name
        with aws_faults(f"Deleting {endpoint}"):
            hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
            watch = EndpointWatch(hook, endpoint, settings.poll_seconds, self.log)
            deadline = time.monotonic() + limit_seconds(settings)
            while watch.look("").state != "absent":
                if time.monotonic() > deadline:
                    raise AirflowException(f"Endpoint {endpoint} is still there, and costs money.")
                self._delete(hook, endpoint)
                time.sleep(settings.poll_seconds)
        self.log.info("Endpoint %s is gone.", endpoint)

    def _delete(self, hook: SageMakerHook, endpoint: str) -> None:
        client: Any = hook.get_conn()
        try:
            client.delete_endpoint(EndpointName=endpoint)
        except ClientError as error:
            # One that is being made or deleted is asked again in a moment.
            if not (is_missing(error) or is_busy(error)):
                raise

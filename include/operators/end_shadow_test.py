"""Takes off a shadow that was left on the endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowSkipException

from include.operators.guard import aws_faults
from include.operators.shadow_move import ShadowMove
from include.settings import get_settings


class EndShadowTestOperator(BaseOperator):
    """Takes off a shadow that a killed, cleared or marked test left on the endpoint, of this run or another.

    Skipped at once where none is on, whatever else the endpoint does, and for one of the run's own.

    Args:
        ephemeral: Whether the run's model went to an endpoint of its own.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("ephemeral", "aws_conn_id")

    def __init__(self, *, ephemeral: Any = False, aws_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ephemeral = ephemeral
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> None:
        """Ends the test, where one is on."""
        with aws_faults("Ending the shadow test"):
            if self.ephemeral is True:
                raise AirflowSkipException("The run touched no endpoint but its own.")
            hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
            move = ShadowMove(hook, get_settings(), self.log)
            if not move.is_on() or move.end() is None:
                raise AirflowSkipException("No shadow test is on.")

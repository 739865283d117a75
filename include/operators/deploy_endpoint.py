"""Moves the endpoint to an approved model, and confirms that it is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from airflow.providers.amazon.aws.operators.sagemaker import SageMakerEndpointOperator
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.sdk import Context
from botocore.exceptions import BotoCoreError, ClientError

from include.contracts import Deployment, Registered
from include.operators.create_serving import (
    CLAIMS,
    RENDERERS,
    approved_model,
    region_of,
    serving_settings,
    wanted_config,
)
from include.operators.endpoint_move import Asked, EndpointMove, MoveRecord
from include.operators.endpoint_update import EndpointUpdate
from include.operators.guard import aws_faults, read_claim
from include.operators.links import EndpointLink
from include.sagemaker.errors import explain
from include.sagemaker.recency import recency_of
from include.settings import Settings, get_settings


class DeployEndpointOperator(SageMakerEndpointOperator):
    """Moves the endpoint to the approved model, and confirms that it is there.

    An absent endpoint is created, one on another configuration is updated, one that is on its way is
    waited for, one that is there is left alone. One that serves a newer model is left alone too, and the
    task skipped. An endpoint that SageMaker rolled back is a failure.

    What a killed task asked for goes on at SageMaker: an update has the old machines answer until the new
    ones do, so that to end it by itself is safer than to break it off half way. A retry, or whoever clears
    the task, finds out what came of it.

    Args:
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check; the endpoint is not touched unless it approves.
        registered: The `Registered` claim check; its entry must still be Approved when the endpoint is moved.
        allow_older: Whether the model may take the place of one that learned from newer data.
        ephemeral: Whether to put it on an endpoint of its own instead.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields(*CLAIMS, "registered", "allow_older", "ephemeral")
    template_fields_renderers: ClassVar[dict[str, str]] = {"registered": "json", **RENDERERS}
    operator_extra_links = (EndpointLink(),)

    def __init__(
        self,
        *,
        trained_model: Any,
        verdict: Any,
        registered: Any,
        allow_older: Any = False,
        ephemeral: Any = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, deferrable=False, **kwargs)
        self.trained_model = trained_model
        self.verdict = verdict
        self.registered = registered
        self.allow_older = allow_older
        self.ephemeral = ephemeral

    def execute(self, context: Context) -> dict[str, object]:
        """Moves the endpoint; returns `Deployment` for XCom, with no smoke case run yet."""
        with aws_faults("Deploying"):
            trained = approved_model(self.trained_model, self.verdict)
            registered = read_claim(Registered, self.registered)
            settings = serving_settings(trained, self.ephemeral, context)
            request = wanted_config(trained, settings, region_of(self.hook))
            config = str(request["EndpointConfigName"])
            EndpointLink.leave(context, self.hook.get_conn(), endpoint=settings.endpoint_name)
            record = MoveRecord(context, config)
            move = EndpointMove(
                self.hook,
                settings,
                config,
                package_arn=registered.package_arn,
                recency=recency_of(trained),
                allow_older=self.allow_older is True,
                record=record,
                log=self.log,
            )
            replaced = move.run()
            with aws_faults(f"{settings.endpoint_name} is live on {config}, and not tested yet"):
                replaced = self._without_shadow(replaced, settings, record)
            return Deployment(
                endpoint_name=settings.endpoint_name,
                endpoint_config_name=config,
                model_name=str(request["ProductionVariants"][0]["ModelName"]),
                job_name=trained.job_name,
                snapshot_id=trained.snapshot_id,
                smoke_cases=0,
                replaced=replaced,
                ephemeral=self.ephemeral is True,
            ).to_xcom()

    def _without_shadow(self, replaced: str | None, settings: Settings, record: MoveRecord) -> str | None:
        """What a shadow test that was cut short left on is not what to go back to, and is deleted."""
        before = EndpointUpdate(self.hook, settings, self.log).before_shadow(replaced)
        if before != replaced:
            # Written first: of a deleted one nobody could say what was live before it.
            asked = record.read()
            record.write(Asked(str(before), asked.modified if asked else ""))
            client: Any = self.hook.get_conn()
            try:
                client.delete_endpoint_config(EndpointConfigName=replaced)
            except (ClientError, BotoCoreError) as error:
                self.log.warning("The shadow test's %s could not be deleted: %s", replaced, explain(error))
        return before

    def on_kill(self) -> None:
        """Leaves the endpoint to SageMaker, and says so."""
        self.log.warning(
            "Killed. What was asked of the endpoint goes on at SageMaker; until that ends the old model "
            "answers. Clear this task to see what came of it."
        )

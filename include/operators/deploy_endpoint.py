"""Moves the endpoint to an approved model, and confirms that it is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from airflow.providers.amazon.aws.operators.sagemaker import SageMakerEndpointOperator
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.sdk import Context

from include.contracts import Deployment
from include.operators.create_serving import CLAIMS, RENDERERS, approved_model, region_of, wanted_config
from include.operators.endpoint_watch import EndpointWatch, refuse_unless_live
from include.operators.guard import aws_faults
from include.operators.links import EndpointLink
from include.sagemaker.endpoint import create_endpoint_request, update_endpoint_request
from include.sagemaker.endpoint_state import EndpointState
from include.settings import Settings, get_settings

# What an update replaced outlives a killed worker here, in the task's own store.
_RECORD = "endpoint_update"


class DeployEndpointOperator(SageMakerEndpointOperator):
    """Moves the endpoint to the approved model, and confirms that it is there.

    An absent endpoint is created, one on another configuration is updated, one that is on its way is
    waited for, one that is there is left alone. An endpoint that SageMaker rolled back is a failure.

    Args:
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check; the endpoint is not touched unless it approves.
        allow_older: Whether the model may take the place of one that learned from newer data.
        ephemeral: Whether to put it on an endpoint of its own instead.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields(*CLAIMS, "allow_older", "ephemeral")
    template_fields_renderers: ClassVar[dict[str, str]] = RENDERERS
    operator_extra_links = (EndpointLink(),)

    def __init__(
        self,
        *,
        trained_model: Any,
        verdict: Any,
        allow_older: Any = False,
        ephemeral: Any = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, deferrable=False, **kwargs)
        self.trained_model = trained_model
        self.verdict = verdict
        self.allow_older = allow_older
        self.ephemeral = ephemeral

    def execute(self, context: Context) -> dict[str, object]:
        """Moves the endpoint; returns `Deployment` for XCom, with no smoke case run yet."""
        settings = get_settings()
        with aws_faults("Deploying"):
            trained = approved_model(self.trained_model, self.verdict)
            request = wanted_config(trained, settings, region_of(self.hook))
            config = str(request["EndpointConfigName"])
            EndpointLink.leave(context, self.hook.get_conn(), endpoint=settings.endpoint_name)
            replaced = self._move(context, config, settings)
            return Deployment(
                endpoint_name=settings.endpoint_name,
                endpoint_config_name=config,
                model_name=str(request["ProductionVariants"][0]["ModelName"]),
                job_name=trained.job_name,
                snapshot_id=trained.snapshot_id,
                smoke_cases=0,
                replaced=replaced,
            ).to_xcom()

    def _move(self, context: Context, wanted: str, settings: Settings) -> str | None:
        """Brings the endpoint to the wanted configuration; returns the one that it replaced, if any."""
        endpoint = settings.endpoint_name
        watch = EndpointWatch(self.hook, endpoint, settings.poll_seconds, self.log)
        store = _Record(context, wanted)
        record = store.read()
        first = watch.look(wanted)
        # A retry after a kill finds the change that it asked for still on its way.
        attached = first.state == "moving" and (
            first.moves_to == wanted or (record is not None and first.moves_to is None)
        )
        state = watch.settle(wanted) if first.state == "moving" else first
        if state.state == "live":
            return (_comes_from(first, wanted) if record is None else record) or None
        tried = attached or (record is not None and bool(state.reason))
        if not tried and state.state != "failed":
            record = self._submit(state, settings, wanted, store)
            state = watch.settle(wanted, submitted=True)
        if state.state != "live":
            store.forget()
        refuse_unless_live(state, f"The move of {endpoint} to {wanted}")
        return record or None

    def _submit(self, state: EndpointState, settings: Settings, wanted: str, store: _Record) -> str:
        endpoint = settings.endpoint_name
        replaced = (state.live_config or "") if state.state == "elsewhere" else ""
        # Written first: a worker that dies after the request still knows what was live before.
        store.write(replaced)
        if state.state == "absent":
            self.log.info("Creating endpoint %s on %s.", endpoint, wanted)
            request = create_endpoint_request(endpoint, wanted, settings)
            self.hook.create_endpoint(request, wait_for_completion=False)
        else:
            self.log.info("Updating endpoint %s from %s to %s.", endpoint, replaced, wanted)
            self.hook.update_endpoint(update_endpoint_request(endpoint, wanted), wait_for_completion=False)
        return replaced


def _comes_from(first: EndpointState, wanted: str) -> str | None:
    moved = first.state == "moving" and first.live_config != wanted
    return first.live_config if moved else None


class _Record:
    """What this task asked of the endpoint, kept across its retries.

    An empty text stands for a created endpoint, which replaced nothing.
    """

    def __init__(self, context: Context, wanted: str) -> None:
        # Not there where a test calls `execute` itself.
        self._store: Any = context.get("task_state_store")
        self._wanted = wanted

    def read(self) -> str | None:
        record = self._store.get(_RECORD) if self._store is not None else None
        if isinstance(record, dict) and record.get("wanted") == self._wanted:
            return str(record["replaced"])
        return None

    def write(self, replaced: str) -> None:
        if self._store is not None:
            self._store.set(_RECORD, {"wanted": self._wanted, "replaced": replaced})

    def forget(self) -> None:
        if self._store is not None:
            self._store.delete(_RECORD)

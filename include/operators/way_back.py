"""Takes an endpoint back to what it was on before, and finishes that where a killed task began it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import ClientError

from include.operators.endpoint_move import MAX_DECISIONS
from include.operators.endpoint_update import EndpointUpdate
from include.operators.guard import aws_faults
from include.sagemaker.errors import is_busy

if TYPE_CHECKING:
    from logging import Logger

    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from airflow.sdk import Context

    from include.contracts import Deployment
    from include.operators.endpoint_watch import EndpointWatch
    from include.sagemaker.endpoint_state import EndpointState
    from include.settings import Settings

# That it was begun outlives a killed worker here, in the task's own store.
_BEGUN = "way_back"


class WayBack:
    """The way back from one deployment.

    Args:
        hook: The provider's SageMaker hook.
        settings: Those of the endpoint.
        deployed: What is live now, and what was before.
        watch: On the endpoint.
        context: Of the task; has no store where a test calls `execute` itself.
        log: The task's log.
    """

    def __init__(
        self,
        hook: SageMakerHook,
        settings: Settings,
        deployed: Deployment,
        watch: EndpointWatch,
        context: Context,
        log: Logger | Any,
    ) -> None:
        self._deployed = deployed
        self._watch = watch
        self._log = log
        self._store: Any = context.get("task_state_store")
        self._update = EndpointUpdate(hook, settings, log)

    def finish(self) -> None:
        """Ends what an earlier try began; does nothing where none did, or its request never left.

        Raises:
            AirflowFailException: It was begun, and this is what came of it.
        """
        begun = self._store.get(_BEGUN) if self._store is not None else None
        if not isinstance(begun, dict) or begun.get("config") != self._deployed.endpoint_config_name:
            return
        self._log.info("An earlier try began to put %s back.", self._deployed.replaced)
        state = self._watch.settle(str(self._deployed.replaced))
        asked = state.modified != begun["modified"] and bool(state.reason)
        if state.live_config == self._deployed.endpoint_config_name and not asked:
            self._forget()
            return
        self._confirm(state, str(begun["said"]))

    def go(self, said: str, seen: EndpointState) -> NoReturn:
        """Puts the previous configuration back and fails the task, saying what is live now.

        Args:
            said: Why.
            seen: The endpoint at rest, as it answered.
        """
        endpoint, config = self._deployed.endpoint_name, self._deployed.endpoint_config_name
        previous = self._deployed.replaced
        if self._deployed.ephemeral:
            raise AirflowFailException(f"{said}. It was made for this test; nothing else was touched.")
        if not previous:
            raise AirflowFailException(
                f"{said}. There is no previous configuration to put back: it is still live on {config}. Take "
                f"it off with aws sagemaker delete-endpoint --endpoint-name {endpoint}, or update it to a "
                "configuration that worked."
            )
        self._log.error("%s. Putting %s back.", said, previous)
        if self._store is not None:
            self._store.set(_BEGUN, {"config": config, "said": said, "modified": seen.modified})
        with aws_faults(f"{said}. It is still live on {config}, since {previous} could not be put back"):
            self._submit(previous, said)
            state = self._watch.settle(previous, submitted=True)
        self._confirm(state, said)

    def _submit(self, previous: str, said: str) -> None:
        config = self._deployed.endpoint_config_name
        for _ in range(MAX_DECISIONS):
            try:
                # At once, and unwatched: nothing can be worse than what is live.
                self._update.submit(previous, config, alarms=None)
                return
            except ClientError as error:
                if not is_busy(error):
                    raise
            state = self._watch.settle(config)
            if state.state != "live":
                self._forget()
                raise AirflowFailException(f"{said}. Something else has changed it since: {state.message}")
        raise AirflowException(f"{said}. Something else changes {self._deployed.endpoint_name} all the time.")

    def _confirm(self, state: EndpointState, said: str) -> NoReturn:
        previous = self._deployed.replaced
        if state.state != "live":
            self._forget()
            raise AirflowFailException(f"{said}. Putting {previous} back did not succeed: {state.message}")
        with aws_faults(f"{said}. The previous configuration {previous} is live again, without autoscaling"):
            self._update.scale()
        self._forget()
        raise AirflowFailException(f"{said}. The previous configuration {previous} is live again.")

    def _forget(self) -> None:
        if self._store is not None:
            self._store.delete(_BEGUN)

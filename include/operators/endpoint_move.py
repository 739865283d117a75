"""Brings an endpoint to a configuration: what to ask of SageMaker, when not to, and what came of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from botocore.exceptions import ClientError

from include.operators.endpoint_update import EndpointUpdate
from include.operators.endpoint_watch import EndpointWatch, limit_seconds, refuse_unless_live
from include.sagemaker.endpoint import create_endpoint_request
from include.sagemaker.errors import is_busy, is_existing
from include.sagemaker.recency import Recency

if TYPE_CHECKING:
    from logging import Logger

    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from airflow.sdk import Context

    from include.sagemaker.endpoint_state import EndpointState
    from include.settings import Settings

# What an update replaced outlives a killed worker here, in the task's own store.
_RECORD = "endpoint_update"
# How often another run may be quicker before this one gives up.
MAX_DECISIONS = 10


class MoveRecord:
    """What a task asked of the endpoint, kept across its retries.

    An empty text stands for a created endpoint, which replaced nothing.

    Args:
        context: Of the task; has no store where a test calls `execute` itself.
        wanted: Configuration that is asked for.
    """

    def __init__(self, context: Context, wanted: str) -> None:
        self._store: Any = context.get("task_state_store")
        self._wanted = wanted

    def read(self) -> str | None:
        """Returns the configuration that the move replaces; None where none was asked for."""
        record = self._store.get(_RECORD) if self._store is not None else None
        if isinstance(record, dict) and record.get("wanted") == self._wanted:
            return str(record["replaced"])
        return None

    def write(self, replaced: str) -> None:
        """Keeps it."""
        if self._store is not None:
            self._store.set(_RECORD, {"wanted": self._wanted, "replaced": replaced})

    def forget(self) -> None:
        """Says that no move is under way."""
        if self._store is not None:
            self._store.delete(_RECORD)


class EndpointMove:
    """One move of one endpoint.

    Args:
        hook: The provider's SageMaker hook.
        settings: Those of the endpoint.
        wanted: Configuration to bring it to.
        recency: How new the model of that configuration is.
        allow_older: Whether it may take the place of a newer one.
        record: What earlier tries asked for.
        log: The task's log.
    """

    def __init__(
        self,
        hook: SageMakerHook,
        settings: Settings,
        wanted: str,
        *,
        recency: Recency,
        allow_older: bool,
        record: MoveRecord,
        log: Logger | Any,
    ) -> None:
        self._hook = hook
        self._settings = settings
        self._endpoint = settings.endpoint_name
        self._wanted = wanted
        self._recency = recency
        self._allow_older = allow_older
        self._record = record
        self._log = log
        self._watch = EndpointWatch(hook, self._endpoint, settings.poll_seconds, log, limit_seconds(settings))
        self._update = EndpointUpdate(hook, settings, log)

    def run(self) -> str | None:
        """Moves the endpoint; returns the configuration that was live before, None for none.

        Raises:
            AirflowSkipException: What is live is newer.
            AirflowFailException: The endpoint was rolled back, or needs a person.
            AirflowException: A retry may find machines, or the endpoint at rest.
        """
        for _ in range(MAX_DECISIONS):
            record = self._record.read()
            first = self._watch.look(self._wanted)
            moving = first.state == "moving"
            state = self._watch.settle(self._wanted) if moving else first
            if state.state == "live":
                self._update.try_to_scale()
                return (_comes_from(first, self._wanted) if record is None else record) or None
            # A retry after a kill finds the change that it asked for still on its way, or undone.
            attached = moving and _goes_to(first, self._wanted, asked=record is not None)
            undone = record is not None and bool(state.reason)
            if attached or undone or state.state == "failed":
                self._refuse(state, first.live_config if record is None else record)
            replaced = self._submit(state)
            if replaced is not None:
                state = self._watch.settle(self._wanted, submitted=True)
                if state.state != "live":
                    self._refuse(state, replaced)
                self._update.try_to_scale()
                return replaced or None
            time.sleep(self._settings.poll_seconds)
        raise AirflowException(
            f"Something else changed endpoint {self._endpoint} first, {MAX_DECISIONS} times in a row."
        )

    def _submit(self, state: EndpointState) -> str | None:
        """Asks for the move; returns what it replaces, None where something else was quicker."""
        self._refuse_older(state)
        absent = state.state == "absent"
        alarms = () if absent else self._update.alarms(despite=self._allow_older)
        replaced = state.live_config or ""
        # Written first: a worker that dies after the request still knows what was live before.
        self._record.write(replaced)
        try:
            if absent:
                self._log.info("Creating endpoint %s on %s.", self._endpoint, self._wanted)
                request = create_endpoint_request(self._endpoint, self._wanted, self._settings)
                self._hook.create_endpoint(request, wait_for_completion=False)
            else:
                self._log.info("Updating endpoint %s from %s to %s.", self._endpoint, replaced, self._wanted)
                self._update.submit(self._wanted, replaced, alarms)
        except ClientError as error:
            self._record.forget()
            if not (is_existing(error) if absent else is_busy(error)):
                raise
            self._log.info("Something else changed endpoint %s a moment ago.", self._endpoint)
            return None
        return replaced

    def _refuse_older(self, state: EndpointState) -> None:
        if self._allow_older or not state.live_config:
            return
        live = self._update.recency(state.live_config)
        if self._recency < live:
            raise AirflowSkipException(
                f"Endpoint {self._endpoint} is live on {state.live_config}, whose model is newer ({live}) "
                f"than that of {self._wanted} ({self._recency}): it stays, and this one is left in the "
                "registry. To put this one live all the same, run with the Param 'Deploy over a newer one'."
            )

    def _refuse(self, state: EndpointState, came_from: str | None) -> NoReturn:
        """Says why the endpoint is not on the wanted configuration."""
        if state.state == "elsewhere":
            self._update.try_to_scale()
        self._record.forget()
        if state.state == "elsewhere" and came_from and state.live_config != came_from:
            self._refuse_older(state)
            raise AirflowFailException(
                f"Something else moved {self._endpoint} from {self._wanted} on to {state.live_config}. Clear "
                "this task if it shall come back."
            )
        refuse_unless_live(state, f"The move of {self._endpoint} to {self._wanted}")
        raise AssertionError(state)


def _comes_from(first: EndpointState, wanted: str) -> str | None:
    moved = first.state == "moving" and first.live_config != wanted
    return first.live_config if moved else None


def _goes_to(first: EndpointState, wanted: str, *, asked: bool) -> bool:
    return first.moves_to == wanted or (asked and first.moves_to is None)

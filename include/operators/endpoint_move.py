"""Brings an endpoint to a configuration: what to ask of SageMaker, when not to, and what came of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from botocore.exceptions import ClientError

from include.operators.endpoint_update import EndpointUpdate
from include.operators.endpoint_watch import EndpointWatch, limit_seconds, refuse_unless_live
from include.sagemaker.endpoint import create_endpoint_request
from include.sagemaker.errors import is_busy, is_existing
from include.sagemaker.recency import Recency
from include.sagemaker.registry import describe_package

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


class Asked(NamedTuple):
    """What an earlier try was about to ask for.

    Attributes:
        replaced: The configuration that was live; empty for a created endpoint, which replaced nothing.
        modified: When the endpoint had last changed by then.
    """

    replaced: str
    modified: str


class MoveRecord:
    """What a task asked of the endpoint, kept across its retries.

    Args:
        context: Of the task; has no store where a test calls `execute` itself.
        wanted: Configuration that is asked for.
    """

    def __init__(self, context: Context, wanted: str) -> None:
        self._store: Any = context.get("task_state_store")
        self._wanted = wanted

    def read(self) -> Asked | None:
        """Returns what was asked for, None for nothing; whether the request arrived it cannot know."""
        record = self._store.get(_RECORD) if self._store is not None else None
        if isinstance(record, dict) and record.get("wanted") == self._wanted:
            return Asked(str(record["replaced"]), str(record.get("modified", "")))
        return None

    def write(self, asked: Asked) -> None:
        """Keeps it."""
        if self._store is not None:
            self._store.set(_RECORD, {"wanted": self._wanted, **asked._asdict()})

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
        package_arn: The model's entry in the registry, which must be Approved when it is asked for.
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
        package_arn: str,
        recency: Recency,
        allow_older: bool,
        record: MoveRecord,
        log: Logger | Any,
    ) -> None:
        self._hook = hook
        self._settings = settings
        self._endpoint = settings.endpoint_name
        self._wanted = wanted
        self._package_arn = package_arn
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
            asked = self._record.read()
            first = self._watch.look(self._wanted)
            moving = first.state == "moving"
            state = self._watch.settle(self._wanted) if moving else first
            if state.state == "live":
                self._update.try_to_scale()
                return (asked.replaced if asked else _comes_from(first, self._wanted)) or None
            attached = moving and first.moves_to == self._wanted
            # A retry after a kill may find that what it asked for is undone. What SageMaker says of an
            # endpoint that has not changed since is an old story.
            undone = asked is not None and bool(state.reason) and state.modified != asked.modified
            if attached or undone or state.state == "failed":
                self._refuse(state, asked.replaced if asked else first.live_config)
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
        self._refuse_unapproved()
        absent = state.state == "absent"
        alarms = () if absent else self._update.alarms(despite=self._allow_older)
        replaced = state.live_config or ""
        # Written first: a worker that dies after the request still knows what was live before.
        self._record.write(Asked(replaced, state.modified))
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

    def _refuse_unapproved(self) -> None:
        """Asks the registry: a task may be cleared long after a person, a test or a roll-back said no."""
        package = describe_package(self._hook.get_conn(), self._package_arn)
        if package.approval != "Approved":
            raise AirflowFailException(
                f"Version {package.version}, behind {self._wanted}, is {package.approval} in the registry "
                f"({package.approval_description or 'without a reason'}). Approve it there, then clear this "
                "task, or leave the endpoint as it is."
            )

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

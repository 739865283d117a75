"""Looks at an endpoint until it has settled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import ClientError

from include.sagemaker.endpoint import deployment_seconds
from include.sagemaker.endpoint_state import EndpointState, endpoint_state, is_capacity_fault
from include.sagemaker.errors import is_missing

if TYPE_CHECKING:
    from logging import Logger

    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

    from include.settings import Settings

# Creating, and taking an update back, may take as long as a new fleet does.
LIMIT_SECONDS = 3600


def limit_seconds(settings: Settings) -> int:
    """Returns how long to wait for an endpoint: longer than SageMaker gives an update and its roll-back."""
    return max(LIMIT_SECONDS, deployment_seconds(settings) + LIMIT_SECONDS // 2)


class EndpointWatch:
    """One endpoint, seen through the provider's hook.

    Args:
        hook: The provider's SageMaker hook.
        endpoint: Name of the endpoint.
        poll_seconds: Pause between two looks.
        log: Where changes of state are told.
        limit: Seconds after which it is no longer waited for.
    """

    def __init__(
        self,
        hook: SageMakerHook,
        endpoint: str,
        poll_seconds: int,
        log: Logger | Any,
        limit: int = LIMIT_SECONDS,
    ) -> None:
        self._hook = hook
        self._endpoint = endpoint
        self._poll_seconds = poll_seconds
        self._log = log
        self._limit = limit
        self._said = ""

    def look(self, wanted: str) -> EndpointState:
        """Returns what the endpoint is, held against the configuration that is wanted on it."""
        try:
            description = self._hook.describe_endpoint(self._endpoint)
        except ClientError as error:
            if not is_missing(error):
                raise
            description = None
        state = endpoint_state(description, self._endpoint, wanted)
        if state.message != self._said:
            self._log.info("%s", state.message)
            self._said = state.message
        return state

    def settle(self, wanted: str, *, submitted: bool = False) -> EndpointState:
        """Waits until the endpoint no longer moves.

        Args:
            wanted: Configuration to hold it against.
            submitted: A change was asked for a moment ago. An answer of before it is then not yet
                believed: the endpoint must have been seen moving, or look the same twice.

        Raises:
            AirflowException: It still moves after the limit; a retry goes on waiting.
        """
        deadline = time.monotonic() + self._limit
        believed = not submitted
        while True:
            state = self.look(wanted)
            if state.state == "live" or (state.state != "moving" and believed):
                return state
            if time.monotonic() > deadline:
                raise AirflowException(f"{state.message} It has been for {self._limit} s.")
            believed = True
            time.sleep(self._poll_seconds)


def refuse_unless_live(state: EndpointState, doing: str) -> None:
    """Confirms a change against what was asked for.

    Raises:
        AirflowException: SageMaker had no machines for it; a retry may find some.
        AirflowFailException: The endpoint was rolled back, or needs a person.
    """
    if state.state == "live":
        return
    if state.state == "elsewhere":
        reason = state.reason or "SageMaker gave no reason; see the endpoint's log in CloudWatch."
        message = (
            f"{doing} was rolled back by SageMaker: {reason} "
            f"The endpoint is still live on {state.live_config}."
        )
    else:
        message = state.message
    may_mend = state.state == "elsewhere" and is_capacity_fault(state.reason)
    raise (AirflowException if may_mend else AirflowFailException)(message)

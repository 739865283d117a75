"""Puts a shadow test's configuration on an endpoint, and the one from before back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import ClientError

from include.operators.create_serving import create_unless_there
from include.operators.endpoint_update import EndpointUpdate
from include.operators.endpoint_watch import EndpointWatch, limit_seconds, refuse_unless_live
from include.sagemaker.errors import is_busy, is_missing
from include.sagemaker.inventory import existing

if TYPE_CHECKING:
    from logging import Logger

    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from airflow.sdk import Context

    from include.settings import Settings

# Since when a test is on outlives a killed worker here, in the task's own store.
_BEGUN = "shadow_test"


class Live(NamedTuple):
    """What an endpoint at rest is on.

    Attributes:
        config: Its configuration.
        before: The one that was live before the shadow test which that is of; itself where it is of none.
    """

    config: str
    before: str


class Begun:
    """Since when a task's test is on, kept across its retries: autoscaling changes the endpoint's own time.

    Args:
        context: Of the task; has no store where a test calls `execute` itself.
        config: Configuration of the test.
    """

    def __init__(self, context: Context, config: str) -> None:
        self._store: Any = context.get("task_state_store")
        self._config = config

    def read(self) -> datetime | None:
        """Returns it; None where no test of this configuration is known to have begun."""
        record = self._store.get(_BEGUN) if self._store is not None else None
        if isinstance(record, dict) and record.get("config") == self._config:
            return datetime.fromisoformat(str(record["since"]))
        return None

    def write(self, since: datetime) -> None:
        """Keeps it."""
        if self._store is not None:
            self._store.set(_BEGUN, {"config": self._config, "since": since.isoformat()})

    def forget(self) -> None:
        """Says that no test has begun."""
        if self._store is not None:
            self._store.delete(_BEGUN)


class ShadowMove:
    """One endpoint, with a shadow or without.

    Both ways SageMaker moves all traffic at once, and unwatched: what answers customers stays the same model.

    Args:
        hook: The provider's SageMaker hook.
        settings: Those of the endpoint.
        log: The task's log.
    """

    def __init__(self, hook: SageMakerHook, settings: Settings, log: Logger | Any) -> None:
        self._hook = hook
        self._endpoint = settings.endpoint_name
        self._log = log
        self._watch = EndpointWatch(hook, self._endpoint, settings.poll_seconds, log, limit_seconds(settings))
        self.update = EndpointUpdate(hook, settings, log)

    def look(self) -> Live | None:
        """Waits until the endpoint is at rest, and returns what it is on; None where there is none.

        Raises:
            AirflowException: It still moves after the limit.
            AirflowFailException: It needs a person.
        """
        state = self._watch.settle("")
        if state.state == "absent":
            return None
        if state.state == "failed":
            raise AirflowFailException(state.message)
        config = str(state.live_config)
        return Live(config, self.update.before_shadow(config) or config)

    def is_on(self) -> bool:
        """Tells, without waiting, whether the endpoint is on a shadow test, or moves to or from one."""
        told = existing(lambda: self._hook.describe_endpoint(self._endpoint)) or {}
        configs = [
            part.get("EndpointConfigName") for part in (told, told.get("PendingDeploymentSummary", {}))
        ]
        return any(config and self.update.before_shadow(config) != config for config in configs)

    def begin(
        self, live: Live, request: Mapping[str, Any], begun: Begun, since: datetime | None = None
    ) -> datetime:
        """Puts a shadow on, unless it is on; returns since when.

        Args:
            live: What the endpoint is on.
            request: The CreateEndpointConfig request of the test.
            begun: Where it is kept for a retry.
            since: Since when it is on, where the task knows.
        """
        name = str(request["EndpointConfigName"])
        if live.config != name:
            create_unless_there(
                name, dict(request), self._hook.create_endpoint_config, self._hook.describe_endpoint_config
            )
            self._log.info("Copying the traffic of %s: from %s to %s.", self._endpoint, live.config, name)
            begun.forget()
            self._move(name, live.config)
        elif known := since or begun.read():
            return known
        # A change of the number of machines moves it on, hence only where nothing better is known.
        modified: datetime = self._hook.describe_endpoint(self._endpoint)["LastModifiedTime"]
        begun.write(modified.astimezone(UTC))
        return modified.astimezone(UTC)

    def end(self) -> str | None:
        """Takes a shadow off, whoever put it on; returns what is live then, None where there was none."""
        live = self.look()
        if live is None or live.config == live.before:
            return None
        self._log.info("Ending the shadow test on %s: %s is put back.", self._endpoint, live.before)
        self._move(live.before, live.config)
        self.update.scale()
        client: Any = self._hook.get_conn()
        try:
            client.delete_endpoint_config(EndpointConfigName=live.config)
        except ClientError as error:
            if not is_missing(error):
                raise
        return live.before

    def _move(self, config: str, live: str) -> None:
        try:
            self.update.submit(config, live, alarms=None)
        except ClientError as error:
            if is_busy(error):
                raise AirflowException(f"Something else changes {self._endpoint} just now.") from error
            raise
        state = self._watch.settle(config, submitted=True)
        refuse_unless_live(state, f"The move of {self._endpoint} to {config}")

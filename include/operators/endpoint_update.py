"""Changes an endpoint that serves: asks its alarms first, and keeps autoscaling out of the way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk.exceptions import AirflowException
from botocore.exceptions import BotoCoreError, ClientError

from include.contracts import SettingsError
from include.sagemaker.endpoint import VARIANT, deployment_config, update_endpoint_request
from include.sagemaker.errors import explain, is_denied, is_missing
from include.sagemaker.naming import PREFIX
from include.sagemaker.recency import Recency, recency_in
from include.sagemaker.scaling import (
    find_target_request,
    policy_request,
    register_request,
    target,
    wants_scaling,
)
from include.sagemaker.shadow import shadow_of

if TYPE_CHECKING:
    from logging import Logger

    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

    from include.settings import Settings


def find_alarms(cloudwatch: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns CloudWatch alarms by their names.

    Raises:
        SettingsError: One does not exist.
    """
    answer = cloudwatch.describe_alarms(AlarmNames=list(names))
    found = {str(alarm["AlarmName"]): alarm for alarm in answer["MetricAlarms"]}
    if missing := [name for name in names if name not in found]:
        raise SettingsError(
            f"No alarm {', '.join(missing)} is there to watch a new model. Deploy include/cloud/aws.yaml, or "
            "have updates go unwatched: PMS_ROLLBACK_ON_ALARMS=false."
        )
    return found


class EndpointUpdate:
    """One endpoint, changed through the provider's hook.

    Args:
        hook: The provider's SageMaker hook.
        settings: Name, machines and alarms of the endpoint.
        log: Where changes are told.
    """

    def __init__(self, hook: SageMakerHook, settings: Settings, log: Logger | Any) -> None:
        self._hook = hook
        self._settings = settings
        self._log = log

    def _client(self, service: str) -> Any:
        return AwsBaseHook(aws_conn_id=self._hook.aws_conn_id, client_type=service).get_conn()

    @cached_property
    def _scaling(self) -> Any:
        return self._client("application-autoscaling")

    def recency(self, config: str) -> Recency:
        """Returns how new the model of a configuration is, as far as that can be known."""
        return recency_in(self.tags(config))

    def before_shadow(self, config: str | None) -> str | None:
        """Returns the configuration that a shadow test began on; one that is none of a test is itself."""
        return config and (shadow_of(self.tags(config)) or config)

    def tags(self, config: str) -> list[dict[str, str]]:
        """Returns the tags of a configuration; none of one that is deleted, or not the project's to look at.

        Raises:
            ClientError: It is the project's, and cannot be looked at all the same.
        """
        try:
            arn = str(self._hook.describe_endpoint_config(config)["EndpointConfigArn"])
            client: Any = self._hook.get_conn()
            found: list[dict[str, str]] = client.list_tags(ResourceArn=arn)["Tags"]
            return found
        except ClientError as error:
            if not _may_be_unknown(error, config):
                raise
            return []

    def alarms(self, *, despite: bool) -> tuple[str, ...]:
        """Returns the alarms that shall take an update back.

        Args:
            despite: A person wants this update whatever the alarms say of the model that it replaces. Those
                that have gone off are left out, for they would take it back at once.

        Raises:
            SettingsError: An alarm does not exist.
            AirflowException: One has gone off before the update; it may be quiet when this is tried again.
        """
        names = self._settings.alarm_names
        if not names:
            return ()
        states = find_alarms(self._client("cloudwatch"), names)
        ringing = {name: states[name] for name in names if states[name].get("StateValue") == "ALARM"}
        if ringing and not despite:
            told = "; ".join(f"{name}: {alarm.get('StateReason')}" for name, alarm in ringing.items())
            raise AirflowException(
                f"An alarm has gone off before the update, and would take any update back: {told} Nothing "
                "was changed. Clear this task once it is quiet. If it is the live model that is at fault, "
                "deploy without alarms (PMS_ROLLBACK_ON_ALARMS=false), or run the DAG roll_back_endpoint."
            )
        if ringing:
            self._log.warning("Not watched by %s, which has gone off already.", ", ".join(ringing))
        return tuple(name for name in names if name not in ringing)

    def submit(self, config: str, live: str | None, alarms: tuple[str, ...] | None) -> None:
        """Asks SageMaker to update.

        Args:
            config: Configuration to move to.
            live: The one that is left.
            alarms: What takes the update back; None to move all traffic at once, whatever the settings say.

        Raises:
            ClientError: SageMaker refused.
        """
        scaled = bool(self._target())
        kept = scaled and self._can_stay_scaled(config, live)
        deployment = None
        if alarms is not None:
            deployment = deployment_config(self._settings, alarms, self._instances() if kept else None)
        request = update_endpoint_request(
            self._settings.endpoint_name, config, deployment=deployment, keep_capacity=kept
        )
        if scaled and not kept:
            self._log.info("Taking autoscaling off: SageMaker changes no machines under it.")
            self._scaling.deregister_scalable_target(**target(self._settings.endpoint_name))
        try:
            self._hook.update_endpoint(request, wait_for_completion=False)
        except (ClientError, BotoCoreError):
            if scaled and not kept:
                self.try_to_scale()
            raise

    def _can_stay_scaled(self, config: str, live: str | None) -> bool:
        return wants_scaling(self._settings) and self._machines(config) == self._machines(live)

    def _instances(self) -> int | None:
        """Returns how many machines autoscaling has made of those of the settings; None where not told."""
        variants = self._hook.describe_endpoint(self._settings.endpoint_name).get("ProductionVariants", [])
        counts = [one.get("CurrentInstanceCount") for one in variants if one["VariantName"] == VARIANT]
        return counts[0] if counts else None

    def _target(self) -> list[Any]:
        request = find_target_request(self._settings.endpoint_name)
        found: list[Any] = self._scaling.describe_scalable_targets(**request)["ScalableTargets"]
        return found

    def _machines(self, config: str | None) -> str | None:
        """Returns the type of machine of a configuration, None where there is none to know."""
        try:
            described = self._hook.describe_endpoint_config(str(config))
        except ClientError as error:
            if not _may_be_unknown(error, str(config)):
                raise
            return None
        variants = described["ProductionVariants"]
        types = [variant.get("InstanceType") for variant in variants if variant["VariantName"] == VARIANT]
        return types[0] if types else None

    def try_to_scale(self) -> None:
        """Does what `scale` does where another fault, or a model that is live already, matters more."""
        try:
            self.scale()
        except (ClientError, BotoCoreError) as error:
            self._log.error("Autoscaling could not be set up: %s", explain(error))

    def scale(self) -> None:
        """Sets autoscaling up as the settings say, or takes it off; it may run twice."""
        settings = self._settings
        if wants_scaling(settings):
            self._scaling.register_scalable_target(**register_request(settings))
            self._scaling.put_scaling_policy(**policy_request(settings))
            self._log.info(
                "Autoscaling: %d to %d instances, %d requests a minute each.",
                settings.endpoint_instance_count,
                settings.endpoint_max_instances,
                settings.endpoint_invocations_per_instance,
            )
        elif self._target():
            self._scaling.deregister_scalable_target(**target(settings.endpoint_name))
            self._log.info("Autoscaling is switched off.")


def _may_be_unknown(error: ClientError, config: str) -> bool:
    """Tells whether a configuration is deleted since, or another's, which the project's role may not see."""
    return is_missing(error) or (is_denied(error) and not config.startswith(f"{PREFIX}-"))

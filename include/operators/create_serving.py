"""Creates what an endpoint serves of an approved model: the SageMaker model and its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerEndpointConfigOperator,
    SageMakerModelOperator,
)
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import ClientError

from include.contracts import BadInputError, TrainedModel, Verdict
from include.operators.guard import aws_faults, read_claim
from include.sagemaker.endpoint import (
    differences,
    endpoint_config_request,
    ephemeral_settings,
    model_request,
)
from include.sagemaker.errors import is_existing, is_missing
from include.sagemaker.images import serving_image
from include.sagemaker.naming import ephemeral_endpoint_name
from include.settings import Settings, get_settings

CLAIMS = ("trained_model", "verdict")
RENDERERS = {"trained_model": "json", "verdict": "json"}


def approved_model(trained_model: object, verdict: object) -> TrainedModel:
    """Returns the model that may be deployed.

    Args:
        trained_model: Claim check of the trained model.
        verdict: Claim check of the gate's verdict.

    Raises:
        AirflowFailException: The verdict is about another model, or does not approve this one.
    """
    trained, decided = read_claim(TrainedModel, trained_model), read_claim(Verdict, verdict)
    if (decided.job_name, decided.snapshot_id) != (trained.job_name, trained.snapshot_id):
        raise AirflowFailException(
            f"The verdict is about {decided.job_name} on {decided.snapshot_id}, not about "
            f"{trained.job_name} on {trained.snapshot_id}: clear the gate."
        )
    if decided.approved is not True:
        reasons = "; ".join(check.reason for check in decided.failures) or "no reason is recorded"
        raise AirflowFailException(f"The gate did not approve {trained.job_name}: {reasons}.")
    return trained


def region_of(hook: SageMakerHook) -> str | None:
    """Returns the region of the hook's connection."""
    client: Any = hook.get_conn()
    return str(client.meta.region_name) if client.meta.region_name else None


def serving_settings(trained: TrainedModel, ephemeral: object, context: Context) -> Settings:
    """Returns the settings of the endpoint that a run brings a model to.

    Args:
        trained: The model.
        ephemeral: Whether it is an endpoint of the run's own; its name is a function of model and run.
        context: The task's context.
    """
    settings = get_settings()
    if ephemeral is not True:
        return settings
    run_id = str(context["run_id"])
    name = ephemeral_endpoint_name(settings.endpoint_name, trained.job_name, run_id)
    return ephemeral_settings(settings, name)


def wanted_model(trained: TrainedModel, settings: Settings, region: str | None) -> dict[str, Any]:
    """Returns the CreateModel request that these settings make of a trained model."""
    return model_request(trained, settings, image=serving_image(settings, region), environment={})


def wanted_config(trained: TrainedModel, settings: Settings, region: str | None) -> dict[str, Any]:
    """Returns the CreateEndpointConfig request that these settings make of a trained model."""
    model = str(wanted_model(trained, settings, region)["ModelName"])
    return endpoint_config_request(trained, model, settings)


def create_unless_there(
    name: str,
    request: dict[str, Any],
    create: Callable[[dict[str, Any]], object],
    describe: Callable[[str], Mapping[str, Any]],
) -> bool:
    """Creates a thing that never changes; returns whether this call did.

    Raises:
        BadInputError: The name is taken by something else.
    """
    try:
        found = describe(name)
    except ClientError as error:
        if not is_missing(error):
            raise
        try:
            create(request)
            return True
        except ClientError as refused:
            if not is_existing(refused):
                raise
        found = describe(name)
    different = differences(request, found)
    if different:
        raise BadInputError(
            f"{name} exists with other content ({'; '.join(different)}). Something else made it: delete it, "
            "then clear this task."
        )
    return False


class CreateModelOperator(SageMakerModelOperator):
    """Creates the SageMaker model of an approved artefact, or finds it; its name derives from its content.

    Args:
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check; nothing is created unless it approves.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields(*CLAIMS)
    template_fields_renderers: ClassVar[dict[str, str]] = RENDERERS

    def __init__(self, *, trained_model: Any, verdict: Any, **kwargs: Any) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, **kwargs)
        self.trained_model = trained_model
        self.verdict = verdict

    def execute(self, context: Context) -> dict[str, str]:
        """Creates the model; returns its name."""
        with aws_faults("Creating the model"):
            trained = approved_model(self.trained_model, self.verdict)
            self.config = wanted_model(trained, get_settings(), region_of(self.hook))
            name = str(self.config["ModelName"])
            created = create_unless_there(name, self.config, self.hook.create_model, self.hook.describe_model)
            self.log.info("Model %s %s.", name, "was created" if created else "exists and is used again")
            return {"model_name": name}


class CreateEndpointConfigOperator(SageMakerEndpointConfigOperator):
    """Creates the endpoint configuration of an approved model, or finds it.

    Args:
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check; nothing is created unless it approves.
        ephemeral: Whether it is for an endpoint of the run's own.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields(*CLAIMS, "ephemeral")
    template_fields_renderers: ClassVar[dict[str, str]] = RENDERERS

    def __init__(self, *, trained_model: Any, verdict: Any, ephemeral: Any = False, **kwargs: Any) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, **kwargs)
        self.trained_model = trained_model
        self.verdict = verdict
        self.ephemeral = ephemeral

    def execute(self, context: Context) -> dict[str, str]:
        """Creates the configuration; returns its name."""
        with aws_faults("Creating the endpoint configuration"):
            trained = approved_model(self.trained_model, self.verdict)
            settings = serving_settings(trained, self.ephemeral, context)
            self.config = wanted_config(trained, settings, region_of(self.hook))
            name = str(self.config["EndpointConfigName"])
            created = create_unless_there(
                name, self.config, self.hook.create_endpoint_config, self.hook.describe_endpoint_config
            )
            self.log.info(
                "Configuration %s %s.", name, "was created" if created else "exists and is used again"
            )
            if not created:
                self._tag(name)
            return {"endpoint_config_name": name}

    def _tag(self, name: str) -> None:
        """Has a configuration that was there say how new its model is, though another tool made it."""
        client: Any = self.hook.get_conn()
        arn = str(self.hook.describe_endpoint_config(name)["EndpointConfigArn"])
        found = {tag["Key"]: tag["Value"] for tag in client.list_tags(ResourceArn=arn)["Tags"]}
        missing = [tag for tag in self.config["Tags"] if found.get(tag["Key"]) != tag["Value"]]
        if missing:
            client.add_tags(ResourceArn=arn, Tags=missing)
            self.log.info("Configuration %s was tagged as the project's.", name)

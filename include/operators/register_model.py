"""Keeps every judged model in the registry, with its verdict: those that were rejected as well."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from botocore.exceptions import ClientError

from include.contracts import Registered, TrainedModel, Verdict
from include.operators.create_serving import wanted_model
from include.operators.guard import aws_faults, read_claim
from include.operators.links import RegistryLink
from include.sagemaker.errors import is_missing
from include.sagemaker.images import serving_image
from include.sagemaker.packages import package_request
from include.sagemaker.registry import ensure_group, register
from include.settings import PROJECT_ROOT, Settings, get_settings


class RegisterModelOperator(BaseOperator):
    """Registers a model with its verdict as a version of the model package group.

    It runs after a rejection, too, and registers that; where the gate came to no verdict there is nothing to
    keep, and it skips itself. The same verdict is registered once, however often the task runs.

    Args:
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check; None where the gate did not get so far.
        require_approval: Whether what the gate approves waits for a person's word.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("trained_model", "verdict", "require_approval", "aws_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"trained_model": "json", "verdict": "json"}
    operator_extra_links = (RegistryLink(),)

    def __init__(
        self,
        *,
        trained_model: Any,
        verdict: Any,
        require_approval: Any = False,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.trained_model = trained_model
        self.verdict = verdict
        self.require_approval = require_approval
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Registers the model; returns `Registered` for XCom."""
        if self.verdict is None:
            raise AirflowSkipException("The gate came to no verdict: there is nothing to register.")
        trained, verdict = read_claim(TrainedModel, self.trained_model), read_claim(Verdict, self.verdict)
        if verdict.job_name != trained.job_name:
            raise AirflowFailException(
                f"The verdict is about {verdict.job_name}, not about {trained.job_name}: clear the gate."
            )
        settings = get_settings()
        group = settings.model_package_group
        with aws_faults(f"Registering {trained.job_name}"):
            hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
            client: Any = hook.get_conn()
            RegistryLink.leave(context, client)
            request = package_request(
                group,
                trained,
                verdict,
                image=serving_image(settings, client.meta.region_name),
                model_name=str(wanted_model(trained, settings, client.meta.region_name)["ModelName"]),
                require_approval=self.require_approval is True,
                job=_training_job(client, trained.job_name),
                git_revision=git_revision(settings),
            )
            ensure_group(client, group, settings.resource_tags)
            package, made = register(client, request)
        self.log.info(
            "%s is version %d of %s%s: %s.",
            trained.job_name,
            package.version,
            group,
            "" if made else ", since an earlier try",
            package.approval,
        )
        return Registered(
            package_arn=package.arn,
            group_name=group,
            version=package.version,
            approval=package.approval,
            job_name=trained.job_name,
            snapshot_id=trained.snapshot_id,
        ).to_xcom()


def git_revision(settings: Settings) -> str | None:
    """Returns the revision of the project, marked where files differ from it; None where nothing knows it."""
    if settings.git_revision:
        return settings.git_revision
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # an image without git, or without the repository
    return done.stdout.strip() or None


def _training_job(client: Any, name: str) -> Mapping[str, Any]:
    try:
        described: Mapping[str, Any] = client.describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if is_missing(error):
            return {}  # deleted since; model and verdict are there all the same
        raise
    return described

"""Chooses the registered model that the endpoint goes back to, and keeps in the registry that it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from include.contracts import Approval, Deployment, Registered
from include.operators.endpoint_watch import EndpointWatch, limit_seconds
from include.operators.guard import aws_faults, read_claim, refuse_unknown_params
from include.operators.links import RegistryLink
from include.sagemaker.champion import find_champion
from include.sagemaker.registry import clean_text, describe_package, record_approval
from include.sagemaker.rollback import Choice, again, choose, claims_of, note_of, packages_of
from include.settings import Settings, get_settings

# What was chosen outlives a retry and a clear here: by then the chosen model may be the live one.
_CHOICE = "roll_back_choice"
# Stands where a configuration is named: which one it is, is not known before the endpoint has settled.
_SOUGHT = "the one to go back to"


class ChoosePackageOperator(BaseOperator):
    """Chooses a version of the model package group and hands on what a deploy of it needs.

    The endpoint is waited for while it moves: what comes before the live model is known only then. Returns
    `trained_model`, `verdict` and `registered`, as a run of the pipeline would, and `before`, the entry of
    the model that was live (None where it has none).

    Args:
        version: Version to go back to; None or empty for the approved one before the live one.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("version", "aws_conn_id")
    operator_extra_links = (RegistryLink(),)

    def __init__(self, *, version: Any = None, aws_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(multiple_outputs=True, **kwargs)
        self.version = version
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Chooses; returns the claim checks, JSON-ready.

        Raises:
            AirflowFailException: There is no way back to that version, or to any; or an unknown Param.
        """
        refuse_unknown_params(self, context)
        settings = get_settings()
        group = settings.model_package_group
        version = None if self.version in (None, "") else int(self.version)
        with aws_faults(f"Rolling {settings.endpoint_name} back"):
            hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
            RegistryLink.leave(context, hook.get_conn())
            choice = self._choose(context, hook, settings, version)
            claims = claims_of(hook.s3_hook.get_conn(), group, choice.package)
        self.log.info(
            "%s goes from %s to version %d (%s).",
            settings.endpoint_name,
            f"version {choice.leaves.version}" if choice.leaves else "a model without an entry",
            choice.package.version,
            choice.package.job_name,
        )
        leaves = choice.leaves
        return {
            "trained_model": claims.trained_model.to_xcom(),
            "verdict": claims.verdict.to_xcom(),
            "registered": claims.registered.to_xcom(),
            "before": {"package_arn": leaves.arn, "version": leaves.version} if leaves else None,
        }

    def _choose(
        self, context: Context, hook: SageMakerHook, settings: Settings, version: int | None
    ) -> Choice:
        client: Any = hook.get_conn()
        group = settings.model_package_group
        # Not there where a test calls `execute` itself.
        store: Any = context.get("task_state_store")
        made = store.get(_CHOICE) if store is not None else None
        if isinstance(made, dict):
            self.log.info("Version %d was chosen by an earlier try.", made["version"])
            return again(packages_of(client, group, made["version"]), made["version"], made["leaves"])
        EndpointWatch(
            hook, settings.endpoint_name, settings.poll_seconds, self.log, limit_seconds(settings)
        ).settle(_SOUGHT)
        rival = find_champion(client, settings.endpoint_name)
        if rival.fault and version is None:
            raise AirflowFailException(f"{rival.fault} So nothing comes before it: name a version.")
        live_uri = rival.champion.model_uri if rival.champion else None
        choice = choose(packages_of(client, group, version), live_uri, version)
        if store is not None:
            leaves = choice.leaves.version if choice.leaves else None
            store.set(_CHOICE, {"version": choice.package.version, "leaves": leaves})
        return choice


class RecordRollbackOperator(BaseOperator):
    """Keeps in the registry who went back to which version, when and why.

    Both entries say so; what they said before is kept behind it. Safe to repeat.

    Args:
        registered: The `Registered` claim check of the model that is live now.
        before: What `ChoosePackageOperator` says was live before; None where that has no entry.
        deployed: The `Deployment` claim check, confirmed by the smoke test.
        reason: Why.
        reject_current: Whether the model that was live becomes Rejected, so that nothing goes back to it.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = (
        "registered",
        "before",
        "deployed",
        "reason",
        "reject_current",
        "aws_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "registered": "json",
        "before": "json",
        "deployed": "json",
    }
    operator_extra_links = (RegistryLink(),)

    def __init__(
        self,
        *,
        registered: Any,
        before: Any,
        deployed: Any,
        reason: Any,
        reject_current: Any = True,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.registered = registered
        self.before = before
        self.deployed = deployed
        self.reason = reason
        self.reject_current = reject_current
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Notes the roll-back; returns the `Deployment` that is live."""
        registered, deployed = read_claim(Registered, self.registered), read_claim(Deployment, self.deployed)
        why = f"{_when()} by {_who(context)}, because: {clean_text(str(self.reason), 300)}"
        run_id = str(context.get("run_id", ""))
        with aws_faults("Recording the roll-back"):
            hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
            client: Any = hook.get_conn()
            RegistryLink.leave(context, client)
            came = ""
            if self.before:
                arn, version = str(self.before["package_arn"]), int(self.before["version"])
                verdict: Approval | None = "Rejected" if self.reject_current is True else None
                said = f"Rolled back from, to version {registered.version}, {why}"
                self._note(client, arn, said, run_id, verdict)
                came = f" from version {version}"
            self._note(client, registered.package_arn, f"Rolled back to{came} {why}", run_id, None)
        self.log.info("%s is on version %d.", deployed.endpoint_name, registered.version)
        return deployed.to_xcom()

    def _note(self, client: Any, arn: str, said: str, run_id: str, approval: Approval | None) -> None:
        package = describe_package(client, arn)
        wanted = approval or package.approval
        note = note_of(said, run_id, package.approval_description)
        if note is not None or wanted != package.approval:
            record_approval(client, arn, wanted, note or package.approval_description or said)
            self.log.info("Version %d is %s: %s", package.version, wanted, clean_text(said))


def _when() -> str:
    return datetime.now(UTC).strftime("on %Y-%m-%d %H:%M UTC")


def _who(context: Context | Mapping[str, Any]) -> str:
    name = getattr(context.get("dag_run"), "triggering_user_name", None)
    return clean_text(str(name), 100) if name else "somebody"

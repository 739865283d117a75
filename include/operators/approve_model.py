"""Lets a person have the last word over what the gate approved, where the run asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.standard.exceptions import HITLRejectException, HITLTriggerEventError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from include.contracts import Approval, Registered, Verdict
from include.operators.guard import aws_faults, read_claim
from include.sagemaker.registry import clean_text, describe_package, record_approval
from include.settings import get_settings


class ApprovalRefusedError(AirflowFailException):
    """A person said no, or nobody said yes in time. Not retried: a retry would ask again."""


class ApproveModelOperator(ApprovalOperator):
    """Passes what the registry has as Approved; asks a person where the run requires it.

    The question waits under Airflow's Required Actions and occupies no worker. The answer goes into the
    registry with the name of who gave it. A no, and no answer in time, fail the run for good: nothing after
    this task runs.

    Args:
        registered: The `Registered` claim check.
        verdict: The `Verdict` claim check, for the question.
        require_approval: Whether a person is asked.
        approval_hours: How long the question waits.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = (
        *ApprovalOperator.template_fields,
        "registered",
        "verdict",
        "require_approval",
        "approval_hours",
        "aws_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"registered": "json", "verdict": "json"}

    def __init__(
        self,
        *,
        registered: Any,
        verdict: Any,
        require_approval: Any = False,
        approval_hours: Any = 24,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            subject="May this model be deployed?", defaults=self.REJECT, fail_on_reject=True, **kwargs
        )
        self.registered = registered
        self.verdict = verdict
        self.require_approval = require_approval
        self.approval_hours = approval_hours
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Passes an approved model at once, or asks and waits; returns `Registered` for XCom."""
        registered = read_claim(Registered, self.registered)
        with aws_faults(f"Approval of {registered.job_name}"):
            package = describe_package(self._client(), registered.package_arn)
        if package.approval == "Approved":
            self.log.info("Version %d is Approved.", package.version)
            return _answered(registered, "Approved")
        if self.require_approval is not True:
            raise AirflowFailException(
                f"Version {package.version} of {registered.group_name} is registered as {package.approval} "
                f"({package.approval_description or 'without a reason'}). Approve it there, then clear this "
                "task, or leave the endpoint as it is."
            )
        verdict = read_claim(Verdict, self.verdict)
        self.subject = f"May {registered.job_name} be deployed?"
        self.body = question(registered, verdict)
        self.response_timeout = timedelta(hours=float(self.approval_hours))
        return super().execute(context)  # raises, in order to wait

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, object]:
        """Records the answer; returns `Registered` for XCom where it is yes.

        Raises:
            ApprovalRefusedError: A person said no, nobody answered, or the answer cannot be used.
        """
        registered = read_claim(Registered, self.registered)
        run = f"run {context.get('run_id', '')}"
        try:
            super().execute_complete(context, event)
        except (HITLRejectException, HITLTriggerEventError) as refusal:
            said = self._refusal(event)
            self._record(registered, "Rejected", f"{said} ({run})")
            raise ApprovalRefusedError(
                f"{said} {registered.job_name} is not deployed; the live endpoint is untouched."
            ) from refusal
        self._record(registered, "Approved", f"Approved by {responder(event)} ({run})")
        return _answered(registered, "Approved")

    def _refusal(self, event: Mapping[str, Any]) -> str:
        if "error" in event and event.get("error_type") != "timeout":
            return f"The answer could not be used: {event['error']}"
        if "error" in event or event.get("timedout"):
            return f"Nobody answered within {float(self.approval_hours):g} hours, which means no."
        return f"Refused by {responder(event)}."

    def _record(self, registered: Registered, approval: Approval, said: str) -> None:
        with aws_faults(f"Recording the answer about {registered.job_name}"):
            record_approval(self._client(), registered.package_arn, approval, said)
        self.log.info("%s", clean_text(said))

    def _client(self) -> Any:
        hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
        return hook.get_conn()


def responder(event: Mapping[str, Any]) -> str:
    """Returns who answered, as Airflow's login knows them."""
    user = event.get("responded_by_user") or {}
    name, id_ = str(user.get("name") or ""), str(user.get("id") or "")
    return clean_text(f"{name} ({id_})" if name and id_ and name != id_ else name or id_ or "somebody", 200)


def question(registered: Registered, verdict: Verdict) -> str:
    """Returns what a person is shown, as Markdown: metrics beside the live model's, override, warnings."""
    champion = verdict.baselines.get("champion", {})
    lines = [
        f"Version {registered.version} of `{registered.group_name}`, trained on `{registered.snapshot_id}`.",
        "",
        "| metric | this model | live model |",
        "|---|---|---|",
        *(
            f"| {_code(name)} | {value:.4f} | {f'{champion[name]:.4f}' if name in champion else ''} |"
            for name, value in verdict.metrics.items()
        ),
        "",
    ]
    if verdict.override_reason:
        lines += [
            f"**The gate rejected it**; it was overridden, because: {_code(verdict.override_reason)}",
            "",
        ]
    if warned := [check.name for check in verdict.checks if check.status == "warned"]:
        lines += ["Warnings: " + ", ".join(_code(name) for name in warned[:20]), ""]
    lines.append("The run's tab *Model card* shows all that was measured. No answer in time means no.")
    return "\n".join(lines)


def _code(text: str) -> str:
    """Returns foreign text as a code span, in which Markdown has no meaning."""
    return f"`{clean_text(text, 500).replace('`', chr(39)).replace('|', '¦')}`"


def _answered(registered: Registered, approval: Approval) -> dict[str, object]:
    return registered.model_copy(update={"approval": approval}).to_xcom()

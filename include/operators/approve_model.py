"""Lets a person have the last word over what the gate approved, where the run asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.standard.exceptions import HITLRejectException, HITLTriggerEventError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import Approval, Registered, Verdict
from include.operators.guard import aws_faults, read_claim
from include.sagemaker.registry import clean_text, describe_package, record_approval
from include.settings import get_settings

# Nothing of one verdict stands here: Airflow keeps the first text of a question that is asked again.
SUBJECT = "May this model be deployed?"
BODY = (
    "The gate approved the model of this run. What was measured, what it is held against and what the gate "
    "warned of is in the run's tab *Model card*; the page *Models* shows it beside the models before it. "
    "No answer in time means no."
)


class ApprovalRefusedError(AirflowFailException):
    """A person said no, or nobody said yes in time. Not retried: a retry would ask again."""


class ApproveModelOperator(ApprovalOperator):
    """Passes what the registry has as Approved; asks a person where the run requires it.

    The question waits under Airflow's Required Actions and occupies no worker. The answer goes into the
    registry with the name of who gave it. A no, and no answer in time, fail the run for good: nothing after
    this task runs.

    Args:
        registered: The `Registered` claim check.
        verdict: The `Verdict` claim check; nobody is asked about what the gate did not approve.
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
        super().__init__(subject=SUBJECT, body=BODY, defaults=self.REJECT, fail_on_reject=True, **kwargs)
        self.registered = registered
        self.verdict = verdict
        self.require_approval = require_approval
        self.approval_hours = approval_hours
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Passes an approved model at once, or asks and waits; returns `Registered` for XCom."""
        registered = read_claim(Registered, self.registered)
        if read_claim(Verdict, self.verdict).approved is not True:
            raise AirflowFailException(
                f"The gate did not approve {registered.job_name}, whatever a person says. To "
                "deploy it all the same, trigger a run with the Param *Override the gate, because*."
            )
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
            try:
                self._record(registered, "Rejected", f"{said} ({run})")
            except AirflowException as fault:
                # A retry would ask again, and a no would become a new question.
                self.log.error("%s It stays Pending in the registry, because: %s", said, fault)
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


def _answered(registered: Registered, approval: Approval) -> dict[str, object]:
    return registered.model_copy(update={"approval": approval}).to_xcom()

"""Takes the project down: lists what would go, asks a person, and deletes exactly that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.standard.exceptions import HITLRejectException, HITLTriggerEventError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from include.operators.approve_model import ApprovalRefusedError, responder
from include.operators.guard import aws_faults, read_claim, refuse_unknown_params
from include.sagemaker.prices import load_prices
from include.sagemaker.removal import Removal
from include.sagemaker.tear_down import Clients, PlanClaim, keep_plan, plan_of, read_plan
from include.settings import get_settings

SUBJECT = "May all of this be deleted?"
_JSON: dict[str, str] = {"plan": "json"}


def clients_of(aws_conn_id: str) -> Clients:
    """Returns the clients of an Airflow connection."""
    kinds = ("sagemaker", "application-autoscaling", "s3")
    return Clients(*(AwsBaseHook(aws_conn_id=aws_conn_id, client_type=kind).get_conn() for kind in kinds))


class PlanTearDownOperator(BaseOperator):
    """Lists everything that has the project's tag, with what it costs, and deletes nothing.

    A run has one plan: where this task is cleared, the first one stands. Returns a `PlanClaim`.

    Args:
        data: Whether the files on S3 are to go, too.
        registry: Whether the versions in the registry are to go, too.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("data", "registry", "aws_conn_id")

    def __init__(
        self, *, data: Any = False, registry: Any = False, aws_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.registry = registry
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Plans; returns the claim check, JSON-ready.

        Raises:
            AirflowFailException: The run was given a Param that there is not.
            AirflowSkipException: There is nothing to delete.
        """
        refuse_unknown_params(self, context)
        settings = get_settings()
        with aws_faults("Planning the tear-down"):
            clients = clients_of(self.aws_conn_id)
            plan = plan_of(
                clients,
                settings,
                load_prices(),
                data=self.data is True,
                registry=self.registry is True,
            )
            if not plan.things:
                raise AirflowSkipException("Nothing has the project's tag: there is nothing to delete.")
            plan, claim = keep_plan(clients.s3, settings.home, str(context["run_id"]), plan)
        self.log.info("This would go:\n%s\nThe plan lies at %s.", plan.as_text(most=None), claim.uri)
        return claim.to_xcom()


class ApproveTearDownOperator(ApprovalOperator):
    """Asks a person whether what is planned may go; silence is a no.

    Args:
        plan: The `PlanClaim`.
        hours: How long the question waits.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "plan", "hours")
    template_fields_renderers: ClassVar[dict[str, str]] = _JSON

    def __init__(self, *, plan: Any, hours: Any = 1, **kwargs: Any) -> None:
        super().__init__(subject=SUBJECT, defaults=self.REJECT, fail_on_reject=True, **kwargs)
        self.plan = plan
        self.hours = hours

    def execute(self, context: Context) -> dict[str, object]:
        """Asks and waits; nothing of it holds a worker."""
        claim = read_claim(PlanClaim, self.plan)
        self.body = f"{claim.text}\n\nAll of it is in {claim.uri}. No answer in time means no."
        self.response_timeout = timedelta(hours=float(self.hours))
        return super().execute(context)  # raises, in order to wait

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, object]:
        """Returns who agreed, and to which plan.

        Raises:
            ApprovalRefusedError: A person said no, nobody answered, or the answer cannot be used.
        """
        claim = read_claim(PlanClaim, self.plan)
        try:
            super().execute_complete(context, event)
        except (HITLRejectException, HITLTriggerEventError) as refusal:
            silent = event.get("timedout") or event.get("error_type") == "timeout"
            who = "Nobody answered in time" if silent else f"Refused by {responder(event)}"
            raise ApprovalRefusedError(f"{who}: nothing is deleted.") from refusal
        return {"approved_by": responder(event), "sha256": claim.sha256}


class TearDownOperator(BaseOperator):
    """Deletes what was planned and agreed to, and nothing else; goes on after a failure.

    What has changed since the plan is left and named: an endpoint on another configuration, files that were
    written later, a group with new versions; and so is what an endpoint needs that is still there. Safe to
    repeat.

    Args:
        plan: The `PlanClaim`.
        approved: What `ApproveTearDownOperator` returned.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("plan", "approved", "aws_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {**_JSON, "approved": "json"}

    def __init__(self, *, plan: Any, approved: Any, aws_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.approved = approved
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Deletes; returns counts, and what was left.

        Raises:
            AirflowFailException: Nobody agreed to this plan, or some of it cannot be deleted.
            AirflowException: Some of it could not be deleted for now.
        """
        claim = read_claim(PlanClaim, self.plan)
        if not isinstance(self.approved, dict) or self.approved.get("sha256") != claim.sha256:
            raise AirflowFailException("Nobody agreed to this plan: trigger a new run.")
        with aws_faults("The tear-down"):
            clients = clients_of(self.aws_conn_id)
            plan = read_plan(clients.s3, claim)
            self.log.info("%s agreed to delete %s things.", self.approved.get("approved_by"), claim.things)
            outcome = Removal(clients, plan, get_settings().poll_seconds).run()
        for name in outcome.deleted:
            self.log.info("Deleted or stopped: %s.", name)
        for name, why in outcome.left.items():
            self.log.warning("Left: %s: %s.", name, why)
        if outcome.failed:
            failures = "\n".join(f"{name}: {why}" for name, why in outcome.failed.items())
            fault = AirflowException if outcome.worth_retry else AirflowFailException
            raise fault(f"{len(outcome.failed)} things could not be deleted:\n{failures}")
        return {"deleted": len(outcome.deleted), "gone": len(outcome.gone), "left": outcome.left}

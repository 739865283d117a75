"""Sends a challenger a copy of the live traffic for a while, before it may go live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NoReturn

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from botocore.exceptions import BotoCoreError, ClientError

from include.contracts import Registered, ShadowReport, Verdict
from include.operators.create_serving import CLAIMS, RENDERERS, approved_model, region_of, wanted_model
from include.operators.guard import aws_faults, read_claim
from include.operators.links import CardLink, EndpointLink
from include.operators.shadow_move import Begun, ShadowMove
from include.operators.shadow_report import Plan, compare_variants, keep_report, stored_report
from include.sagemaker.inventory import seen
from include.sagemaker.recency import recency_of
from include.sagemaker.registry import describe_package, record_approval, record_card
from include.sagemaker.shadow import shadow_config_request, why_not
from include.settings import get_settings

# CloudWatch and data capture tell of a request a while after it.
LATE_POLLS = 4


class ShadowTestOperator(BaseOperator):
    """Gives a challenger a copy of every live request, and compares its answers with the live model's.

    Afterwards the configuration from before is put back, whatever came of it, so that the deploy which
    follows moves from it, and SageMaker's way back leads to it. A challenger that fails requests which the
    live model answers fails the task, for good. A retry goes on with the test that it finds.

    Skipped where there is nothing to test: no minutes, nothing live, a serverless endpoint, one of the run's
    own, or a model that is live already or will not be deployed for being older.

    Args:
        minutes: How long; 0 for no test.
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check.
        registered: The `Registered` claim check; set to Rejected where the challenger fails.
        allow_older: Whether the model may take the place of one that learned from newer data.
        ephemeral: Whether the model goes to an endpoint of the run's own.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = (
        "minutes",
        *CLAIMS,
        "registered",
        "allow_older",
        "ephemeral",
        "aws_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"registered": "json", **RENDERERS}
    operator_extra_links = (CardLink(), EndpointLink())

    def __init__(
        self,
        *,
        minutes: Any,
        trained_model: Any,
        verdict: Any,
        registered: Any,
        allow_older: Any = False,
        ephemeral: Any = False,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.minutes = minutes
        self.trained_model = trained_model
        self.verdict = verdict
        self.registered = registered
        self.allow_older = allow_older
        self.ephemeral = ephemeral
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Begins or finds the test; returns `ShadowReport` for XCom."""
        return self._test(context)

    def resume(self, context: Context, event: object, since: str) -> dict[str, object]:
        """Goes on when the time is over."""
        return self._test(context, since=datetime.fromisoformat(since))

    def on_kill(self) -> None:
        """Leaves the test on, and says so."""
        self.log.warning(
            "Killed. A retry goes on with the test; where none follows, end_shadow_test takes the shadow off."
        )

    def _test(self, context: Context, since: datetime | None = None) -> dict[str, object]:
        with aws_faults("The shadow test"):
            if not self.minutes:
                raise AirflowSkipException("No shadow test is asked for.")
            settings = get_settings()
            if self.ephemeral is True or settings.endpoint_serverless:
                raise AirflowSkipException(
                    "An endpoint of the run's own, or a serverless one, has no shadow."
                )
            hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
            EndpointLink.leave(context, hook.get_conn(), endpoint=settings.endpoint_name)
            move = ShadowMove(hook, settings, self.log)
            try:
                plan = self._plan(hook, move)
            except AirflowSkipException as nothing:
                if since is None:
                    raise
                # Skipped, the deploy would follow with no test.
                raise AirflowFailException(
                    f"Something else moved {settings.endpoint_name} meanwhile, and the test was not ended: "
                    f"{nothing} Clear this task to test anew."
                ) from nothing
            registered = read_claim(Registered, self.registered)
            s3: Any = hook.s3_hook.get_conn()
            report = stored_report(s3, plan)
            if report is None:
                if since and plan.live.config != plan.config:
                    raise AirflowFailException(
                        f"Something else moved {settings.endpoint_name} to {plan.live.config} meanwhile."
                    )
                _refuse_unapproved(hook, registered)
                begun = Begun(context, plan.config)
                start = move.begin(plan.live, plan.request, begun, since)
                end = start + timedelta(minutes=float(self.minutes))
                told = end + timedelta(seconds=LATE_POLLS * settings.poll_seconds)
                if datetime.now(UTC) < told:
                    self.log.info("Both variants answer until %s.", f"{end:%Y-%m-%d %H:%M:%S} UTC")
                    self.defer(
                        trigger=DateTimeTrigger(moment=told),
                        method_name="resume",
                        kwargs={"since": start.isoformat()},
                    )
                report = self._report(plan, s3, start, end)
            move.end()
            self._note(hook, registered, report)
            if not report.passed:
                # A failing task returns nothing, and the report is most wanted just then.
                if task := context.get("ti"):
                    task.xcom_push(key="return_value", value=report.to_xcom())
                _refuse(report)
            return report.to_xcom()

    def _plan(self, hook: SageMakerHook, move: ShadowMove) -> Plan:
        """Finds out what to test.

        Raises:
            AirflowSkipException: There is nothing to test.
        """
        settings = get_settings()
        trained, verdict = (
            approved_model(self.trained_model, self.verdict),
            read_claim(Verdict, self.verdict),
        )
        live = move.look()
        if live is None:
            raise AirflowSkipException("Nothing is live that the model could be tested beside.")
        described = seen(lambda: hook.describe_endpoint_config(live.before))
        reason = why_not(described, settings) if described else "the live configuration cannot be looked at"
        if described is None or reason:
            raise AirflowSkipException(f"No shadow test: {reason}.")
        model = str(wanted_model(trained, settings, region_of(hook))["ModelName"])
        if described["ProductionVariants"][0]["ModelName"] == model:
            raise AirflowSkipException(f"{model} is the live model itself.")
        newer = move.update.recency(live.before)
        if self.allow_older is not True and recency_of(trained) < newer:
            raise AirflowSkipException(f"The live model is newer ({newer}): this one is not deployed.")
        tags = move.update.tags(live.before)
        request = shadow_config_request(described, tags, trained, model, settings)
        return Plan(trained, verdict, live, dict(described), model, request)

    def _report(self, plan: Plan, s3: Any, start: datetime, end: datetime) -> ShadowReport:
        cloudwatch: Any = AwsBaseHook(aws_conn_id=self.aws_conn_id, client_type="cloudwatch").get_conn()
        report = compare_variants(plan, s3, cloudwatch, start, end)
        self.log.info("%s", report.model_dump_json(indent=1))
        return keep_report(plan, s3, report)

    def _note(self, hook: SageMakerHook, registered: Registered, report: ShadowReport) -> None:
        """Has the registry say what came of the test; a record decides nothing."""
        client, arn = hook.get_conn(), registered.package_arn
        try:
            # First, for it keeps the model from being deployed by another way.
            if not report.passed:
                record_approval(client, arn, "Rejected", f"Beside the live model: {report.reason}")
            if report.card_uri:
                record_card(client, arn, report.card_uri)
        except (ClientError, BotoCoreError):
            self.log.exception("Version %s could not be told of the test.", registered.version)


def _refuse_unapproved(hook: SageMakerHook, registered: Registered) -> None:
    package = describe_package(hook.get_conn(), registered.package_arn)
    if package.approval != "Approved":
        raise AirflowFailException(
            f"Version {package.version} is {package.approval} in the registry and gets no traffic "
            f"({package.approval_description or 'without a reason'}). Approve it there, then clear this task."
        )


def _refuse(report: ShadowReport) -> NoReturn:
    raise AirflowFailException(
        f"The model did not stand its test beside the live one: {report.reason} {report.live_config} stays "
        "live. To test it again, run the pipeline anew and approve its new entry in the registry. "
        f"Report: {report.report_uri}"
    )

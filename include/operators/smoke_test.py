"""Asks the endpoint what the gate asked the model, and takes it back where the answers differ."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from include.contracts import BadInputError, Deployment, Registered, SmokeCase
from include.operators.create_serving import CLAIMS, RENDERERS, approved_model
from include.operators.endpoint_update import EndpointUpdate
from include.operators.endpoint_watch import EndpointWatch, limit_seconds
from include.operators.guard import aws_faults, read_claim
from include.operators.links import EndpointLink
from include.operators.records import leave_record
from include.sagemaker.errors import error_code, error_message, is_missing
from include.sagemaker.registry import record_approval
from include.sagemaker.smoke import compare_answers, parse_answer, read_smoke_cases, request_body
from include.sagemaker.storage import parse_s3_uri
from include.settings import get_settings


class SmokeTestOperator(BaseOperator):
    """Asks the endpoint for sessions of the test set and demands the answers that the gate saw.

    Where they differ, the configuration that was live before is put back and the task fails.

    Args:
        deployed: The `Deployment` claim check of the endpoint's move.
        registered: The `Registered` claim check; set to Rejected where the answers differ.
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("deployed", "registered", *CLAIMS, "aws_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "deployed": "json",
        "registered": "json",
        **RENDERERS,
    }
    operator_extra_links = (EndpointLink(),)

    def __init__(
        self,
        *,
        deployed: Any,
        registered: Any,
        trained_model: Any,
        verdict: Any,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deployed = deployed
        self.registered = registered
        self.trained_model = trained_model
        self.verdict = verdict
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Runs the cases; returns `Deployment` for XCom with their number."""
        with aws_faults("The smoke test"):
            trained = approved_model(self.trained_model, self.verdict)
            deployed = read_claim(Deployment, self.deployed)
            registered = read_claim(Registered, self.registered)
            hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
            EndpointLink.leave(context, hook.get_conn(), endpoint=deployed.endpoint_name)
            settings = get_settings()
            watch = EndpointWatch(
                hook, deployed.endpoint_name, settings.poll_seconds, self.log, limit_seconds(settings)
            )
            state = watch.look(deployed.endpoint_config_name)
            if state.state != "live":
                raise AirflowFailException(
                    f"{state.message} Something else has changed it since: nothing was tested."
                )
            try:
                cases = self._cases(hook, trained.evaluation_uri)
                wrong = self._wrong_answers(deployed.endpoint_name, cases)
            except BadInputError as error:
                # An endpoint that cannot be held against anything must not stay live either.
                cases, wrong = (), [str(error)]
            if wrong:
                self._refuse(hook, registered, wrong)
                self._undo(hook, watch, deployed, wrong)
            self.log.info("%s of %s cases are as the gate saw them.", len(cases), len(cases))
            live = deployed.model_copy(update={"smoke_cases": len(cases)})
            leave_record(context, hook.s3_hook.get_conn(), get_settings(), live)
            return live.to_xcom()

    def _cases(self, hook: SageMakerHook, uri: str) -> tuple[SmokeCase, ...]:
        bucket, key = parse_s3_uri(uri)
        s3: Any = hook.s3_hook.get_conn()
        try:
            archive = s3.get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                raise BadInputError(f"The evaluation archive {uri} is gone.") from error
            raise
        with archive["Body"] as body:
            return read_smoke_cases(body)

    def _wrong_answers(self, endpoint: str, cases: Sequence[SmokeCase]) -> list[str]:
        runtime: Any = AwsBaseHook(aws_conn_id=self.aws_conn_id, client_type="sagemaker-runtime").get_conn()
        wrong: list[str] = []
        milliseconds: list[float] = []
        for number, case in enumerate(cases, 1):
            asked = time.perf_counter()
            reasons = _ask(runtime, endpoint, case)
            milliseconds.append((time.perf_counter() - asked) * 1000)
            wrong += [f"case {number} (a session of {len(case.session)}): {reason}" for reason in reasons]
        self.log.info(
            "latency_ms: median %.1f, highest %.1f, first %.1f, over %s requests",
            median(milliseconds),
            max(milliseconds),
            milliseconds[0],
            len(milliseconds),
        )
        return wrong

    def _refuse(self, hook: SageMakerHook, registered: Registered, wrong: Sequence[str]) -> None:
        """Has the registry say so, or a later roll-back would bring the model up again."""
        said = "It did not answer on the endpoint as the gate saw: " + "; ".join(wrong[:10])
        try:
            record_approval(hook.get_conn(), registered.package_arn, "Rejected", said)
        # Putting the endpoint right comes first, and must not fail for a record.
        except (ClientError, BotoCoreError):
            self.log.exception("Version %s could not be set to Rejected: do it by hand.", registered.version)

    def _undo(
        self, hook: SageMakerHook, watch: EndpointWatch, deployed: Deployment, wrong: Sequence[str]
    ) -> None:
        """Puts the previous configuration back and fails the task, saying what is live now."""
        endpoint, previous = deployed.endpoint_name, deployed.replaced
        reasons = f"Endpoint {endpoint} does not answer what the gate saw: " + "; ".join(wrong[:10])
        if deployed.ephemeral:
            raise AirflowFailException(f"{reasons}. It was made for this test; nothing else was touched.")
        if not previous:
            raise AirflowFailException(
                f"{reasons}. There is no previous configuration to put back: it is still live on "
                f"{deployed.endpoint_config_name}. Take it off with "
                f"aws sagemaker delete-endpoint --endpoint-name {endpoint}, or update it to a configuration "
                "that worked."
            )
        self.log.error("%s. Putting %s back.", reasons, previous)
        update = EndpointUpdate(hook, get_settings(), self.log)
        # At once, and unwatched: nothing can be worse than what is live.
        update.submit(previous, deployed.endpoint_config_name, alarms=None)
        state = watch.settle(previous, submitted=True)
        if state.state == "live":
            update.scale()
            raise AirflowFailException(f"{reasons}. The previous configuration {previous} is live again.")
        raise AirflowFailException(
            f"{reasons}. Putting {previous} back did not succeed either: {state.message}"
        )


def _ask(runtime: Any, endpoint: str, case: SmokeCase) -> list[str]:
    try:
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint,
            ContentType="application/json",
            Accept="application/json",
            Body=request_body(case),
        )
        return compare_answers(case, parse_answer(answer["Body"].read()))
    except ClientError as error:
        # The container itself refused or broke: that is its answer. Other faults are the transport's.
        if error_code(error) != "ModelError":
            raise
        return [f"the model failed: {error_message(error)}"]
    except ValueError as error:
        return [str(error)]

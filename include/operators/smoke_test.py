"""Asks the endpoint what the gate asked the model, and takes it back where the answers differ."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any, ClassVar, NamedTuple

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from include.contracts import BadInputError, Deployment, Registered, SmokeCase
from include.operators.create_serving import CLAIMS, RENDERERS, approved_model
from include.operators.endpoint_move import MAX_DECISIONS
from include.operators.endpoint_update import EndpointUpdate
from include.operators.endpoint_watch import EndpointWatch, limit_seconds
from include.operators.guard import aws_faults, read_claim
from include.operators.links import EndpointLink
from include.operators.records import leave_record
from include.operators.way_back import WayBack
from include.sagemaker.endpoint_state import EndpointState
from include.sagemaker.errors import error_code, error_message, explain, is_missing, is_permanent
from include.sagemaker.registry import record_approval
from include.sagemaker.smoke import compare_answers, parse_answer, read_smoke_cases, request_body
from include.sagemaker.storage import parse_s3_uri
from include.settings import get_settings


class _Test(NamedTuple):
    """What came of one test.

    Attributes:
        cases: How many were asked.
        wrong: What is wrong; empty where nothing is.
        blames: Whether that is the model's fault, and not of what kept it from being tested.
    """

    cases: int
    wrong: list[str]
    blames: bool = True


class SmokeTestOperator(BaseOperator):
    """Asks the endpoint for sessions of the test set and demands the answers that the gate saw.

    Where they differ, the configuration that was live before is put back and the task fails. An endpoint that
    something else has moved on meanwhile is left alone, and so is the model's entry in the registry.

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
            way_back = WayBack(hook, settings, deployed, watch, context, self.log)
            way_back.finish()
            test, state = self._test(hook, watch, deployed, trained.evaluation_uri)
            if test.wrong:
                if test.blames:
                    self._refuse(hook, registered, test.wrong)
                way_back.go(_said(deployed, test), state)
            self.log.info("%s of %s cases are as the gate saw them.", test.cases, test.cases)
            if not deployed.ephemeral:
                with aws_faults(f"The endpoint is live on {deployed.endpoint_config_name} and answers well"):
                    EndpointUpdate(hook, settings, self.log).scale()
            live = deployed.model_copy(update={"smoke_cases": test.cases})
            leave_record(context, hook.s3_hook.get_conn(), settings, live)
            return live.to_xcom()

    def _test(
        self, hook: SageMakerHook, watch: EndpointWatch, deployed: Deployment, evaluation_uri: str
    ) -> tuple[_Test, EndpointState]:
        """Asks the endpoint at rest; answers that came while it changed are nobody's, and asked for anew."""
        config = deployed.endpoint_config_name
        for _ in range(MAX_DECISIONS):
            state = watch.settle(config)
            if state.state != "live":
                raise AirflowFailException(
                    f"{state.message} Something else has changed it since: no model was judged."
                )
            test = self._ask_all(hook, deployed.endpoint_name, evaluation_uri)
            if not test.wrong or watch.look(config) == state:
                return test, state
        raise AirflowException(f"Something else changes {deployed.endpoint_name} all the time.")

    def _ask_all(self, hook: SageMakerHook, endpoint: str, evaluation_uri: str) -> _Test:
        # An endpoint that cannot be held against anything must not stay live either.
        try:
            cases = self._cases(hook, evaluation_uri)
            return _Test(len(cases), self._wrong_answers(endpoint, cases))
        except BadInputError as error:
            return _Test(0, [str(error)])
        except (ClientError, BotoCoreError) as error:
            if not is_permanent(error):
                raise
            return _Test(0, [explain(error)], blames=False)

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


def _said(deployed: Deployment, test: _Test) -> str:
    what = "does not answer what the gate saw" if test.blames else "could not be held against the gate"
    return f"Endpoint {deployed.endpoint_name} {what}: {'; '.join(test.wrong[:10])}"


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

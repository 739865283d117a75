"""Puts an approved model behind the endpoint: model, configuration, endpoint, smoke test."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerEndpointConfigOperator,
    SageMakerEndpointOperator,
    SageMakerModelOperator,
)
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from include.contracts import BadInputError, Deployment, Registered, SmokeCase, TrainedModel, Verdict
from include.operators.endpoint_watch import EndpointWatch, refuse_unless_live
from include.operators.guard import aws_faults, read_claim
from include.operators.links import EndpointLink
from include.operators.records import leave_record
from include.sagemaker.endpoint import (
    EndpointState,
    create_endpoint_request,
    differences,
    endpoint_config_request,
    model_request,
    update_endpoint_request,
)
from include.sagemaker.errors import error_code, error_message, is_existing, is_missing
from include.sagemaker.images import serving_image
from include.sagemaker.registry import record_approval
from include.sagemaker.smoke import compare_answers, parse_answer, read_smoke_cases, request_body
from include.sagemaker.storage import parse_s3_uri
from include.settings import Settings, get_settings

# What an update replaced outlives a killed worker here, in the task's own store.
_RECORD = "endpoint_update"
_CLAIMS = ("trained_model", "verdict")
_RENDERERS = {"trained_model": "json", "verdict": "json"}


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


def wanted_model(trained: TrainedModel, settings: Settings, region: str | None) -> dict[str, Any]:
    """Returns the CreateModel request that these settings make of a trained model."""
    return model_request(
        trained,
        image=serving_image(settings, region),
        role_arn=settings.sagemaker_role_arn,
        environment={},
    )


def wanted_config(trained: TrainedModel, settings: Settings, region: str | None) -> dict[str, Any]:
    """Returns the CreateEndpointConfig request that these settings make of a trained model."""
    return endpoint_config_request(
        trained,
        str(wanted_model(trained, settings, region)["ModelName"]),
        instance_type=settings.endpoint_instance_type,
    )


def _create_unless_there(
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

    template_fields: Sequence[str] = aws_template_fields(*_CLAIMS)
    template_fields_renderers: ClassVar[dict[str, str]] = _RENDERERS

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
            created = _create_unless_there(
                name, self.config, self.hook.create_model, self.hook.describe_model
            )
            self.log.info("Model %s %s.", name, "was created" if created else "exists and is used again")
            return {"model_name": name}


class CreateEndpointConfigOperator(SageMakerEndpointConfigOperator):
    """Creates the endpoint configuration of an approved model, or finds it.

    Args:
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check; nothing is created unless it approves.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields(*_CLAIMS)
    template_fields_renderers: ClassVar[dict[str, str]] = _RENDERERS

    def __init__(self, *, trained_model: Any, verdict: Any, **kwargs: Any) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, **kwargs)
        self.trained_model = trained_model
        self.verdict = verdict

    def execute(self, context: Context) -> dict[str, str]:
        """Creates the configuration; returns its name."""
        with aws_faults("Creating the endpoint configuration"):
            trained = approved_model(self.trained_model, self.verdict)
            self.config = wanted_config(trained, get_settings(), region_of(self.hook))
            name = str(self.config["EndpointConfigName"])
            created = _create_unless_there(
                name, self.config, self.hook.create_endpoint_config, self.hook.describe_endpoint_config
            )
            self.log.info(
                "Configuration %s %s.", name, "was created" if created else "exists and is used again"
            )
            return {"endpoint_config_name": name}


class DeployEndpointOperator(SageMakerEndpointOperator):
    """Moves the endpoint to the approved model, and confirms that it is there.

    An absent endpoint is created, one on another configuration is updated, one that is on its way is
    waited for, one that is there is left alone. An endpoint that SageMaker rolled back is a failure.

    Args:
        trained_model: The `TrainedModel` claim check.
        verdict: The `Verdict` claim check; the endpoint is not touched unless it approves.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields(*_CLAIMS)
    template_fields_renderers: ClassVar[dict[str, str]] = _RENDERERS
    operator_extra_links = (EndpointLink(),)

    def __init__(self, *, trained_model: Any, verdict: Any, **kwargs: Any) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, deferrable=False, **kwargs)
        self.trained_model = trained_model
        self.verdict = verdict

    def execute(self, context: Context) -> dict[str, object]:
        """Moves the endpoint; returns `Deployment` for XCom, with no smoke case run yet."""
        settings = get_settings()
        with aws_faults("Deploying"):
            trained = approved_model(self.trained_model, self.verdict)
            request = wanted_config(trained, settings, region_of(self.hook))
            config = str(request["EndpointConfigName"])
            EndpointLink.leave(context, self.hook.get_conn(), endpoint=settings.endpoint_name)
            replaced = self._move(context, config, settings)
            return Deployment(
                endpoint_name=settings.endpoint_name,
                endpoint_config_name=config,
                model_name=str(request["ProductionVariants"][0]["ModelName"]),
                job_name=trained.job_name,
                snapshot_id=trained.snapshot_id,
                smoke_cases=0,
                replaced=replaced,
            ).to_xcom()

    def _move(self, context: Context, wanted: str, settings: Settings) -> str | None:
        """Brings the endpoint to the wanted configuration; returns the one that it replaced, if any."""
        endpoint = settings.endpoint_name
        watch = EndpointWatch(self.hook, endpoint, settings.poll_seconds, self.log)
        store = _Record(context, wanted)
        record = store.read()
        first = watch.look(wanted)
        # A retry after a kill finds the change that it asked for still on its way.
        attached = first.state == "moving" and (
            first.moves_to == wanted or (record is not None and first.moves_to is None)
        )
        state = watch.settle(wanted) if first.state == "moving" else first
        if state.state == "live":
            return (_comes_from(first, wanted) if record is None else record) or None
        tried = attached or (record is not None and bool(state.reason))
        if not tried and state.state != "failed":
            record = self._submit(state, endpoint, wanted, store)
            state = watch.settle(wanted, submitted=True)
        if state.state != "live":
            store.forget()
        refuse_unless_live(state, f"The move of {endpoint} to {wanted}")
        return record or None

    def _submit(self, state: EndpointState, endpoint: str, wanted: str, store: _Record) -> str:
        replaced = (state.live_config or "") if state.state == "elsewhere" else ""
        # Written first: a worker that dies after the request still knows what was live before.
        store.write(replaced)
        if state.state == "absent":
            self.log.info("Creating endpoint %s on %s.", endpoint, wanted)
            self.hook.create_endpoint(create_endpoint_request(endpoint, wanted), wait_for_completion=False)
        else:
            self.log.info("Updating endpoint %s from %s to %s.", endpoint, replaced, wanted)
            self.hook.update_endpoint(update_endpoint_request(endpoint, wanted), wait_for_completion=False)
        return replaced


def _comes_from(first: EndpointState, wanted: str) -> str | None:
    moved = first.state == "moving" and first.live_config != wanted
    return first.live_config if moved else None


class _Record:
    """What this task asked of the endpoint, kept across its retries.

    An empty text stands for a created endpoint, which replaced nothing.
    """

    def __init__(self, context: Context, wanted: str) -> None:
        # Not there where a test calls `execute` itself.
        self._store: Any = context.get("task_state_store")
        self._wanted = wanted

    def read(self) -> str | None:
        record = self._store.get(_RECORD) if self._store is not None else None
        if isinstance(record, dict) and record.get("wanted") == self._wanted:
            return str(record["replaced"])
        return None

    def write(self, replaced: str) -> None:
        if self._store is not None:
            self._store.set(_RECORD, {"wanted": self._wanted, "replaced": replaced})

    def forget(self) -> None:
        if self._store is not None:
            self._store.delete(_RECORD)


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

    template_fields: Sequence[str] = ("deployed", "registered", *_CLAIMS, "aws_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "deployed": "json",
        "registered": "json",
        **_RENDERERS,
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
            watch = EndpointWatch(hook, deployed.endpoint_name, get_settings().poll_seconds, self.log)
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
        if not previous:
            raise AirflowFailException(
                f"{reasons}. There is no previous configuration to put back: it is still live on "
                f"{deployed.endpoint_config_name}. Take it off with "
                f"aws sagemaker delete-endpoint --endpoint-name {endpoint}, or update it to a configuration "
                "that worked."
            )
        self.log.error("%s. Putting %s back.", reasons, previous)
        hook.update_endpoint(update_endpoint_request(endpoint, previous), wait_for_completion=False)
        state = watch.settle(previous, submitted=True)
        if state.state == "live":
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

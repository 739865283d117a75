from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import Deployment, Registered, TrainedModel, Verdict
from include.operators.deploy_model import (
    CreateEndpointConfigOperator,
    CreateModelOperator,
    DeployEndpointOperator,
    SmokeTestOperator,
    wanted_config,
)
from include.settings import Settings
from tests.operators.fake_sagemaker import FakeSageMaker, TaskStore, refusal

pytestmark = pytest.mark.usefixtures("naps", "sagemaker")

ENDPOINT = "shop-recommender"
SMOKE = [{"session": ["a", "b"], "skus": [f"s{n}" for n in range(20)]}, {"session": ["c"], "skus": ["d"]}]

REGISTERED = Registered(
    package_arn="arn:aws:sagemaker:us-east-1:123456789012:model-package/shop-recommender/3",
    group_name="shop-recommender",
    version=3,
    approval="Approved",
    job_name="pms-1",
    snapshot_id="snap-1",
)


@pytest.fixture
def claims(trained: TrainedModel, approval: Verdict) -> dict[str, Any]:
    return {"trained_model": trained.to_xcom(), "verdict": approval.to_xcom()}


@pytest.fixture
def wanted(trained: TrainedModel, settings: Settings) -> str:
    return str(wanted_config(trained, settings, "us-east-1")["EndpointConfigName"])


def execute(kind: Any, claims: dict[str, Any], store: TaskStore | None = None, **extra: Any) -> Any:
    context: dict[str, Any] = {"run_id": "run"}
    if store is not None:
        context["task_state_store"] = store
    return kind(task_id="step", **claims, **extra).execute(context)


def deploy(claims: dict[str, Any], store: TaskStore | None = None) -> Deployment:
    return Deployment.model_validate(execute(DeployEndpointOperator, claims, store))


def in_service(config: str, **more: Any) -> dict[str, Any]:
    return {"EndpointName": ENDPOINT, "EndpointStatus": "InService", "EndpointConfigName": config, **more}


def updating(config: str, pending: str | None = None) -> dict[str, Any]:
    summary = {"PendingDeploymentSummary": {"EndpointConfigName": pending}} if pending else {}
    return in_service(config, EndpointStatus="Updating", **summary)


@pytest.mark.parametrize(
    "kind",
    [CreateModelOperator, CreateEndpointConfigOperator, DeployEndpointOperator],
    ids=lambda k: k.__name__,
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"approved": False}, "did not approve"),
        ({"job_name": "pms-another"}, "verdict is about pms-another"),
        ({"approved": None}, "no Verdict"),
    ],
)
def test_unapproved_model_changes_nothing(
    sagemaker: FakeSageMaker, claims: dict[str, Any], kind: Any, change: dict[str, Any], message: str
) -> None:
    claims["verdict"] = {**claims["verdict"], **change}
    with pytest.raises(AirflowFailException, match=message):
        execute(kind, claims)
    assert sagemaker.calls == []


@pytest.mark.parametrize(
    ("kind", "operation"),
    [(CreateModelOperator, "CreateModel"), (CreateEndpointConfigOperator, "CreateEndpointConfig")],
)
def test_model_and_config_are_created_once(
    sagemaker: FakeSageMaker, claims: dict[str, Any], kind: Any, operation: str
) -> None:
    assert execute(kind, claims) == execute(kind, claims)
    assert len(sagemaker.made(operation)) == 1


def test_model_and_config_fit_together(
    sagemaker: FakeSageMaker, claims: dict[str, Any], trained: TrainedModel
) -> None:
    model = execute(CreateModelOperator, claims)["model_name"]
    config = execute(CreateEndpointConfigOperator, claims)["endpoint_config_name"]
    assert sagemaker.models[model]["PrimaryContainer"]["ModelDataUrl"] == trained.model_uri
    assert sagemaker.configs[config]["ProductionVariants"][0]["ModelName"] == model


def test_name_taken_by_other_content_is_refused(sagemaker: FakeSageMaker, claims: dict[str, Any]) -> None:
    name = execute(CreateModelOperator, claims)["model_name"]
    sagemaker.models[name]["PrimaryContainer"] = {"Image": "other", "ModelDataUrl": "s3://other/m.tar.gz"}
    with pytest.raises(AirflowFailException, match="exists with other content"):
        execute(CreateModelOperator, claims)


def test_absent_endpoint_is_created(sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str) -> None:
    deployed = deploy(claims)
    [request] = sagemaker.made("CreateEndpoint")
    assert (request["EndpointName"], request["EndpointConfigName"]) == (ENDPOINT, wanted)
    assert (deployed.endpoint_config_name, deployed.replaced) == (wanted, None)


def test_endpoint_on_another_config_is_updated(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    assert deploy(claims).replaced == "cfg-old"
    assert [name for name, _ in sagemaker.calls] == ["UpdateEndpoint"]


def test_endpoint_that_is_there_is_left_alone(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service(wanted)]
    assert deploy(claims).replaced is None
    assert sagemaker.calls == []


@pytest.mark.parametrize(
    "pending", ["wanted", None], ids=["named by SageMaker", "known from the task's store"]
)
def test_killed_between_update_and_confirm_makes_no_second_update(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str, pending: str | None
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = lambda config: [updating("cfg-old", pending and config)]
    with pytest.raises(AirflowException, match="3600 s"):
        deploy(claims, store)
    sagemaker.endpoints[ENDPOINT] = [updating("cfg-old", pending and wanted), in_service(wanted)]
    assert deploy(claims, store).replaced == "cfg-old"
    assert len(sagemaker.made("UpdateEndpoint")) == 1


def test_retry_after_the_update_has_ended_still_knows_what_it_replaced(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    deploy(claims, store)
    assert deploy(claims, store).replaced == "cfg-old"
    assert len(sagemaker.calls) == 1


def test_update_to_another_config_is_waited_for_first(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [updating("cfg-old", "cfg-other"), in_service("cfg-other")]
    assert deploy(claims).replaced == "cfg-other"


@pytest.mark.parametrize("status", ["SystemUpdating", "RollingBack"])
def test_endpoint_that_may_not_be_changed_now_is_waited_for(
    sagemaker: FakeSageMaker, claims: dict[str, Any], status: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", EndpointStatus=status), in_service("cfg-old")]
    assert deploy(claims).replaced == "cfg-old"


def rolled_back(config: str) -> list[dict[str, Any]]:
    reason = "The primary container for production variant AllTraffic did not pass the ping health check."
    return [{"EndpointStatus": "Updating"}, {"EndpointStatus": "InService", "FailureReason": reason}]


def test_silent_rollback_is_red_with_sagemakers_reason(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = rolled_back
    with pytest.raises(AirflowFailException) as failure:
        deploy(claims)
    assert "ping health check" in str(failure.value)
    assert "still live on cfg-old" in str(failure.value)


def test_rollback_while_no_worker_was_there_is_red_and_not_tried_again(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = lambda config: [updating("cfg-old", config)]
    with pytest.raises(AirflowException):
        deploy(claims, store)
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", FailureReason="alarm went off")]
    with pytest.raises(AirflowFailException, match="alarm went off"):
        deploy(claims, store)
    assert len(sagemaker.made("UpdateEndpoint")) == 1
    # A person who clears the task after that means it.
    sagemaker.after_update = FakeSageMaker().after_update
    assert deploy(claims, store).replaced == "cfg-old"


def test_rollback_for_want_of_machines_is_retried(sagemaker: FakeSageMaker, claims: dict[str, Any]) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    reason = "Unable to provision requested ML compute capacity: InsufficientInstanceCapacity"
    sagemaker.after_update = lambda config: [{"EndpointStatus": "InService", "FailureReason": reason}]
    with pytest.raises(AirflowException) as failure:
        deploy(claims)
    assert not isinstance(failure.value, AirflowFailException)


def test_answer_from_before_the_update_is_not_taken_for_a_rollback(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", FailureReason="an old story")]
    sagemaker.after_update = lambda config: [
        {"EndpointStatus": "InService"},
        {"EndpointStatus": "Updating"},
        {"EndpointStatus": "InService", "EndpointConfigName": config},
    ]
    assert deploy(claims).replaced == "cfg-old"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("Failed", "delete-endpoint --endpoint-name shop-recommender"),
        ("UpdateRollbackFailed", "mixture of two configurations"),
        ("OutOfService", "takes no requests"),
    ],
)
def test_endpoint_that_needs_a_person_says_how_to_mend_it(
    sagemaker: FakeSageMaker, claims: dict[str, Any], status: str, message: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", EndpointStatus=status, FailureReason="disk full")]
    with pytest.raises(AirflowFailException, match=message) as failure:
        deploy(claims)
    assert "disk full" in str(failure.value)
    assert sagemaker.calls == []


def evaluation(cases: Any) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        content = json.dumps(cases).encode()
        member = tarfile.TarInfo("./evaluation/smoke.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def smoke(
    aws: Any, sagemaker: FakeSageMaker, claims: dict[str, Any], trained: TrainedModel, wanted: str
) -> Callable[..., Deployment]:
    """Runs the smoke test on an endpoint that is live on the wanted configuration."""

    def run(
        answers: Callable[[list[str], int], list[str]], cases: Any = SMOKE, replaced: str | None = "cfg-old"
    ) -> Deployment:
        key = trained.evaluation_uri.removeprefix("s3://post-modern-stack/")
        aws.put_object(Bucket="post-modern-stack", Key=key, Body=evaluation(cases))
        sagemaker.endpoints[ENDPOINT] = [in_service(wanted)]

        def answer(request: dict[str, Any]) -> bytes:
            [instance] = json.loads(request["Body"])["instances"]
            skus = answers(instance["session"], instance["k"])
            return json.dumps({"predictions": [{"skus": skus, "scores": [], "fallback": "none"}]}).encode()

        sagemaker.answer = answer
        deployed = Deployment(
            endpoint_name=ENDPOINT,
            endpoint_config_name=wanted,
            model_name="pms-model",
            job_name=trained.job_name,
            snapshot_id=trained.snapshot_id,
            smoke_cases=0,
            replaced=replaced,
        )
        result = execute(
            SmokeTestOperator, claims, deployed=deployed.to_xcom(), registered=REGISTERED.to_xcom()
        )
        return Deployment.model_validate(result)

    return run


def right(session: list[str], k: int) -> list[str]:
    [case] = [case for case in SMOKE if case["session"] == session]
    assert k == len(case["skus"])
    return list(case["skus"])


def test_right_answers_make_the_deployment_final(
    aws: Any, sagemaker: FakeSageMaker, smoke: Callable[..., Deployment], wanted: str
) -> None:
    deployed = smoke(right)
    assert (deployed.smoke_cases, deployed.replaced) == (2, "cfg-old")
    kept = aws.get_object(Bucket="post-modern-stack", Key="shop/runs/run/deployment.json")["Body"].read()
    assert Deployment.model_validate_json(kept) == deployed
    assert [name for name, _ in sagemaker.calls] == ["InvokeEndpoint"] * 2


def test_wrong_answers_put_the_previous_config_back(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    with pytest.raises(AirflowFailException, match="previous configuration cfg-old is live again") as failure:
        smoke(lambda session, k: ["nonsense"] * k)
    assert "case 1 (a session of 2): a product is recommended twice" in str(failure.value)
    assert [r["EndpointConfigName"] for r in sagemaker.made("UpdateEndpoint")] == ["cfg-old"]


def test_a_model_whose_answers_are_wrong_is_rejected_in_the_registry(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sagemaker.registry, "update", lambda region, request: {})
    with pytest.raises(AirflowFailException, match="is live again"):
        smoke(lambda session, k: ["nonsense"] * k)
    [said] = sagemaker.made("UpdateModelPackage")
    assert (said["ModelPackageArn"], said["ModelApprovalStatus"]) == (REGISTERED.package_arn, "Rejected")
    assert "case 1 (a session of 2)" in said["ApprovalDescription"]


def test_a_registry_that_cannot_be_told_does_not_keep_the_endpoint_wrong(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    sagemaker.faults["UpdateModelPackage"] = refusal("UpdateModelPackage", "ThrottlingException", "slow", 400)
    with pytest.raises(AirflowFailException, match="previous configuration cfg-old is live again"):
        smoke(lambda session, k: ["nonsense"] * k)


def test_wrong_answers_of_the_first_endpoint_say_that_it_is_still_live(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment], wanted: str
) -> None:
    with pytest.raises(AirflowFailException, match=f"still live on {wanted}"):
        smoke(lambda session, k: ["nonsense"] * k, replaced=None)
    assert sagemaker.made("UpdateEndpoint") == []


def test_failed_return_to_the_previous_config_is_told(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    sagemaker.after_update = lambda config: [{"EndpointStatus": "UpdateRollbackFailed"}]
    with pytest.raises(AirflowFailException, match="did not succeed either"):
        smoke(lambda session, k: [])


@pytest.mark.parametrize("cases", [[], {"session": "x"}, [{"session": ["a"]}]], ids=["none", "one", "half"])
def test_endpoint_that_cannot_be_checked_does_not_stay_live(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment], cases: Any
) -> None:
    with pytest.raises(AirflowFailException, match="smoke.json"):
        smoke(right, cases=cases)
    assert len(sagemaker.made("UpdateEndpoint")) == 1


def test_model_that_breaks_on_a_request_is_a_wrong_answer(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    sagemaker.faults["InvokeEndpoint"] = refusal("InvokeEndpoint", "ModelError", "out of memory", 424)
    with pytest.raises(AirflowFailException, match="the model failed: out of memory"):
        smoke(right)


def test_transport_fault_is_retried_and_leaves_the_endpoint_alone(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    sagemaker.faults["InvokeEndpoint"] = refusal("InvokeEndpoint", "ServiceUnavailable", "busy", 503)
    with pytest.raises(AirflowException) as failure:
        smoke(right)
    assert not isinstance(failure.value, AirflowFailException)
    assert sagemaker.made("UpdateEndpoint") == []


def test_endpoint_changed_by_somebody_else_is_not_tested(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sagemaker, "_DescribeEndpoint", lambda **_: in_service("cfg-of-somebody"))
    with pytest.raises(AirflowFailException, match="Something else has changed it"):
        smoke(right)
    assert sagemaker.calls == []

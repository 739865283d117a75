from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import Deployment, Registered, TrainedModel
from include.operators.endpoint_update import EndpointUpdate
from include.operators.smoke_test import SmokeTestOperator
from tests.operators.deploying import ENDPOINT, choose, execute, in_service, scaled, updating
from tests.operators.fake_sagemaker import MORNING, FakeSageMaker, TaskStore, refusal

pytestmark = pytest.mark.usefixtures("naps", "sagemaker", "alarms")

SMOKE = [{"session": ["a", "b"], "skus": [f"s{n}" for n in range(20)]}, {"session": ["c"], "skus": ["d"]}]

REGISTERED = Registered(
    package_arn="arn:aws:sagemaker:us-east-1:123456789012:model-package/shop-recommender/3",
    group_name="shop-recommender",
    version=3,
    approval="Approved",
    job_name="pms-1",
    snapshot_id="snap-1",
)


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
        answers: Callable[[list[str], int], list[str]],
        cases: Any = SMOKE,
        replaced: str | None = "cfg-old",
        ephemeral: bool = False,
        store: TaskStore | None = None,
        begins: list[dict[str, Any]] | None = None,
    ) -> Deployment:
        key = trained.evaluation_uri.removeprefix("s3://post-modern-stack/")
        aws.put_object(Bucket="post-modern-stack", Key=key, Body=evaluation(cases))
        sagemaker.endpoints[ENDPOINT] = begins or [in_service(wanted)]

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
            ephemeral=ephemeral,
        )
        handed = {"deployed": deployed.to_xcom(), "registered": REGISTERED.to_xcom()}
        result = execute(SmokeTestOperator, claims, store, **handed)
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


def test_wrong_answers_of_an_ephemeral_endpoint_touch_nothing_else(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    with pytest.raises(AirflowFailException, match="made for this test; nothing else was touched"):
        smoke(lambda session, k: ["nonsense"] * k, replaced=None, ephemeral=True)
    assert (sagemaker.made("UpdateEndpoint"), sagemaker.made("DeleteEndpoint")) == ([], [])


def test_failed_return_to_the_previous_config_is_told(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    sagemaker.after_update = lambda config: [{"EndpointStatus": "UpdateRollbackFailed"}]
    with pytest.raises(AirflowFailException, match="did not succeed: .*mixture of two"):
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


def nonsense(session: list[str], k: int) -> list[str]:
    return ["nonsense"] * k


def test_endpoint_that_something_else_moves_during_the_test_is_left_alone_and_no_model_blamed(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment], wanted: str
) -> None:
    moved = [in_service(wanted), updating(wanted, "cfg-next"), in_service("cfg-next")]
    with pytest.raises(AirflowFailException, match="cfg-next.*no model was judged"):
        smoke(nonsense, begins=moved)
    assert sagemaker.made("UpdateEndpoint") == []
    assert sagemaker.made("UpdateModelPackage") == []


def test_answers_that_came_while_the_endpoint_changed_are_asked_for_anew(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment], wanted: str
) -> None:
    """It went on to another model and came back: only its last change tells."""
    later = MORNING + timedelta(minutes=5)
    begins = [in_service(wanted, LastModifiedTime=MORNING), in_service(wanted, LastModifiedTime=later)]
    answered: list[str] = []

    def at_first_another_model(session: list[str], k: int) -> list[str]:
        answered.append("once")
        return nonsense(session, k) if len(answered) <= len(SMOKE) else right(session, k)

    assert smoke(at_first_another_model, begins=begins).smoke_cases == 2
    assert sagemaker.made("UpdateEndpoint") == []


@pytest.mark.parametrize("status", ["Updating", "SystemUpdating"])
def test_endpoint_that_autoscaling_or_maintenance_changes_is_waited_for(
    smoke: Callable[..., Deployment], wanted: str, status: str
) -> None:
    begins = [in_service(wanted, EndpointStatus=status), in_service(wanted)]
    assert smoke(right, begins=begins).smoke_cases == 2


@pytest.mark.parametrize("operation", ["InvokeEndpoint", "GetObject"])
def test_model_that_may_not_be_tested_does_not_stay_live_and_is_not_blamed(
    sagemaker: FakeSageMaker,
    smoke: Callable[..., Deployment],
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
) -> None:
    denied = refusal(operation, "AccessDeniedException", "not you", 403)
    sagemaker.faults["InvokeEndpoint"] = denied
    if operation == "GetObject":

        def refuse(*_: Any) -> None:
            raise denied

        monkeypatch.setattr(SmokeTestOperator, "_cases", refuse)
    with pytest.raises(AirflowFailException, match=f"Allow {operation}.*cfg-old is live again"):
        smoke(right)
    assert sagemaker.made("UpdateModelPackage") == []


def test_retry_of_a_task_that_was_killed_on_the_way_back_finishes_it(
    sagemaker: FakeSageMaker,
    smoke: Callable[..., Deployment],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
) -> None:
    choose(monkeypatch, endpoint_max_instances=4)
    store = TaskStore()
    sagemaker.after_update = lambda config: [updating(wanted, config)]
    with pytest.raises(AirflowException, match="It has been for"):
        smoke(nonsense, store=store)
    begins = [updating(wanted, "cfg-old"), in_service("cfg-old")]
    with pytest.raises(AirflowFailException, match="case 1 .*cfg-old is live again"):
        smoke(right, store=store, begins=begins)
    assert len(sagemaker.made("UpdateEndpoint")) == 1
    assert scaled() == [(1, 4, 6000.0)]


def test_retry_tests_again_where_the_way_back_was_never_asked_for(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    store = TaskStore()
    sagemaker.faults["UpdateEndpoint"] = refusal("UpdateEndpoint", "ThrottlingException", "slow down")
    with pytest.raises(AirflowException, match="It is still live on pms-"):
        smoke(nonsense, store=store)
    assert smoke(right, store=store).smoke_cases == 2


def test_way_back_that_sagemaker_takes_back_is_told_by_the_retry(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment], wanted: str
) -> None:
    store = TaskStore()
    sagemaker.after_update = lambda config: [updating(wanted, config)]
    with pytest.raises(AirflowException, match="It has been for"):
        smoke(nonsense, store=store)
    begins = [in_service(wanted, FailureReason="No ping.", LastModifiedTime=MORNING)]
    with pytest.raises(AirflowFailException, match="did not succeed: .*No ping"):
        smoke(nonsense, store=store, begins=begins)
    assert len(sagemaker.made("UpdateEndpoint")) == 1


def test_way_back_waits_for_what_changes_the_endpoint_just_then(
    sagemaker: FakeSageMaker, smoke: Callable[..., Deployment]
) -> None:
    sagemaker.faults["UpdateEndpoint"] = refusal(
        "UpdateEndpoint", "ValidationException", "Cannot update in-progress endpoint"
    )
    with pytest.raises(AirflowFailException, match="cfg-old is live again"):
        smoke(nonsense)


def test_autoscaling_that_cannot_be_set_up_is_told_with_what_is_live(
    smoke: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    def refuse(update: EndpointUpdate) -> None:
        raise refusal("RegisterScalableTarget", "AccessDeniedException", "not you")

    monkeypatch.setattr(EndpointUpdate, "scale", refuse)
    with pytest.raises(AirflowFailException, match=f"live on {wanted} and answers well: Register"):
        smoke(right)

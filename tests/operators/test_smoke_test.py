from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import Deployment, Registered, TrainedModel
from include.operators.smoke_test import SmokeTestOperator
from tests.operators.deploying import ENDPOINT, execute, in_service
from tests.operators.fake_sagemaker import FakeSageMaker, refusal

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
            ephemeral=ephemeral,
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

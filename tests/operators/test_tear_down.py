"""Taking the project down, against the emulator: what is planned, what is asked, what goes and what stays."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskAwaitingInput,
)

from include.operators.approve_model import ApprovalRefusedError
from include.operators.tear_down import ApproveTearDownOperator, PlanTearDownOperator, TearDownOperator
from include.sagemaker.registry import ensure_group
from include.sagemaker.tear_down import PlanClaim
from include.settings import get_settings
from tests.local.cloud import BUCKET, Cloud, started
from tests.operators.emulated import connect, make_config, make_endpoint, make_model, names, wipe
from tests.operators.fake_sagemaker import refusal

OTHERS = [{"Key": "project", "Value": "another"}]
ADA = {"id": "ada", "name": "Ada Lovelace"}
DIMENSION = "sagemaker:variant:DesiredInstanceCount"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with started(tmp_path_factory.mktemp("state")) as cloud:
        yield cloud


@pytest.fixture
def cloud(emulator: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    connect(emulator, monkeypatch)
    yield emulator
    wipe(emulator)
    for endpoint in scaled(emulator):
        emulator.client("application-autoscaling").deregister_scalable_target(
            ServiceNamespace="sagemaker",
            ResourceId=f"endpoint/{endpoint}/variant/AllTraffic",
            ScalableDimension=DIMENSION,
        )
    get_settings.cache_clear()


def plan(run_id: str = "run-1", **choices: bool) -> dict[str, Any]:
    operator = PlanTearDownOperator(task_id="plan", **choices)
    return operator.execute({"run_id": run_id})  # type: ignore[typeddict-item]


def planned(cloud: Cloud, claim: dict[str, Any]) -> set[str]:
    key = claim["uri"].removeprefix(f"s3://{BUCKET}/")
    content = json.loads(cloud.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    return {f"{thing['kind']} {thing['name']}" for thing in content["things"]}


def delete(claim: dict[str, Any], **changes: Any) -> dict[str, Any]:
    agreed = {"approved_by": "Ada", "sha256": claim["sha256"], **changes}
    return TearDownOperator(task_id="delete", plan=claim, approved=agreed).execute({})  # type: ignore[typeddict-item]


def scale(cloud: Cloud, endpoint: str) -> None:
    cloud.client("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=f"endpoint/{endpoint}/variant/AllTraffic",
        ScalableDimension=DIMENSION,
        MinCapacity=1,
        MaxCapacity=2,
    )


def scaled(cloud: Cloud) -> set[str]:
    client = cloud.client("application-autoscaling")
    found = client.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    return {target["ResourceId"].split("/")[1] for target in found}


@pytest.fixture
def project(cloud: Cloud) -> Cloud:
    """A live endpoint, one that a test left, and other people's beside them."""
    config = make_model(cloud, "pms-1")
    for endpoint in ("shop-recommender", "pms-test-1"):
        make_endpoint(cloud, endpoint, config)
        scale(cloud, endpoint)
    make_model(cloud, "pms-theirs", tags=OTHERS)
    make_model(cloud, "pms-untagged", tags=[])
    make_endpoint(cloud, "theirs", "pms-theirs-config", OTHERS)
    scale(cloud, "theirs")
    return cloud


OURS = {
    "scalable_target shop-recommender/variant/AllTraffic",
    "scalable_target pms-test-1/variant/AllTraffic",
    "endpoint shop-recommender",
    "endpoint pms-test-1",
    "endpoint_config pms-1-config",
    "model pms-1",
}
THEIRS = {
    "endpoints": {"theirs"},
    "configs": {"pms-theirs-config", "pms-untagged-config"},
    "models": {"pms-theirs", "pms-untagged"},
}


def test_the_projects_things_go_and_other_peoples_stay(project: Cloud) -> None:
    before = names(project)
    claim = plan()
    assert planned(project, claim) == OURS
    assert names(project) == before, "a dry run deletes nothing"
    assert claim["usd_a_month"] == pytest.approx(2 * 0.115 * 730)
    assert "**Endpoints: 2**" in claim["text"] and "$168 a month ends" in claim["text"]
    assert delete(claim) == {"deleted": 6, "gone": 0, "left": {}}
    assert names(project) == THEIRS
    assert scaled(project) == {"theirs"}
    assert project.invoke("theirs")["model"] == "fine"
    assert delete(claim) == {"deleted": 0, "gone": 6, "left": {}}
    with pytest.raises(AirflowSkipException, match="nothing to delete"):
        plan("run-2")
    project.client("application-autoscaling").deregister_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId="endpoint/theirs/variant/AllTraffic",
        ScalableDimension=DIMENSION,
    )


def test_an_endpoint_that_has_moved_since_the_plan_goes_on_answering(cloud: Cloud) -> None:
    make_endpoint(cloud, "shop-recommender", make_model(cloud, "pms-1"))
    scale(cloud, "shop-recommender")
    newer = make_config(cloud, "pms-1-other-config", "pms-1")
    claim = plan()
    cloud.sagemaker.update_endpoint(EndpointName="shop-recommender", EndpointConfigName=newer)
    assert cloud.settled("shop-recommender")["EndpointConfigName"] == newer
    left = delete(claim)["left"]
    assert "is on pms-1-other-config now" in left["endpoint shop-recommender"]
    assert left["endpoint_config pms-1-other-config"] == "an endpoint is on it"
    assert left["model pms-1"] == "an endpoint serves it"
    assert "scalable_target shop-recommender/variant/AllTraffic" in left
    assert names(cloud)["configs"] == {newer} and scaled(cloud) == {"shop-recommender"}
    assert cloud.invoke("shop-recommender")["model"] == "fine"


def test_a_thing_that_was_made_anew_since_the_plan_stays(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(cloud, "pms-1")
    claim = plan()
    describe = type(cloud.sagemaker)._make_api_call

    def later(client: Any, operation: str, request: Any) -> Any:
        answer = describe(client, operation, request)
        if operation in {"DescribeModel", "DescribeEndpointConfig"}:
            answer["CreationTime"] = datetime.now(UTC).replace(year=2100)
        return answer

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", later)
    assert set(delete(claim)["left"]) == {"endpoint_config pms-1-config", "model pms-1"}


def test_running_jobs_are_stopped(cloud: Cloud) -> None:
    ours, theirs = (
        cloud.job_request("import time; time.sleep(60)", Tags=told)
        for told in ([{"Key": "project", "Value": "post-modern-stack"}], OTHERS)
    )
    for request in (ours, theirs):
        cloud.sagemaker.create_training_job(**request)
    claim = plan()
    assert planned(cloud, claim) == {f"training_job {ours['TrainingJobName']}"}
    assert delete(claim)["deleted"] == 1
    assert cloud.finished(ours["TrainingJobName"])["TrainingJobStatus"] == "Stopped"
    there = cloud.sagemaker.describe_training_job(TrainingJobName=theirs["TrainingJobName"])
    assert there["TrainingJobStatus"] == "InProgress"
    cloud.sagemaker.stop_training_job(TrainingJobName=theirs["TrainingJobName"])
    assert delete(claim)["gone"] == 1


def register(cloud: Cloud, group: str) -> str:
    image = {"Image": "i:1", "ModelDataUrl": cloud.put("shop/models/m/model.tar.gz", b"x")}
    arn: str = cloud.sagemaker.create_model_package(
        ModelPackageGroupName=group,
        InferenceSpecification={
            "Containers": [image],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )["ModelPackageArn"]
    return arn


def test_registry_and_files_go_where_that_is_asked_for(cloud: Cloud) -> None:
    client = cloud.sagemaker
    ensure_group(client, "shop-recommender")
    client.create_model_package_group(ModelPackageGroupName="theirs", Tags=OTHERS)
    first, _ = register(cloud, "shop-recommender"), register(cloud, "theirs")
    cloud.put("elsewhere/file", b"x")
    make_model(cloud, "pms-1")
    assert planned(cloud, plan("without")) == {"endpoint_config pms-1-config", "model pms-1"}

    claim = plan("with", registry=True, data=True)
    assert planned(cloud, claim) >= {f"model_package {first}", "model_package_group shop-recommender"}
    late = register(cloud, "shop-recommender")
    assert "model_package_group shop-recommender" in delete(claim)["left"]
    kept = {entry["Key"] for entry in cloud.s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert kept >= {"elsewhere/file", "shop/tear_down/without.json", "shop/tear_down/with.json"}
    assert kept.isdisjoint({"shop/models/pms-1/output/model.tar.gz"})
    client.delete_model_package(ModelPackageName=late)
    assert delete(claim)["left"].keys() <= {f"objects s3://{BUCKET}/shop"}
    groups = client.list_model_package_groups()["ModelPackageGroupSummaryList"]
    assert [group["ModelPackageGroupName"] for group in groups] == ["theirs"]


def test_files_that_were_written_since_the_plan_stay(cloud: Cloud) -> None:
    cloud.put("shop/old", b"x")
    claim = plan(data=True)
    key = claim["uri"].removeprefix(f"s3://{BUCKET}/")
    content = json.loads(cloud.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    assert [thing["note"] for thing in content["things"]] == ["1 files, 0.0 MB"]
    # S3 tells moments by the second.
    time.sleep(1.1)
    cloud.put("shop/new", b"x")
    left = delete(claim)["left"]
    assert left == {
        f"objects s3://{BUCKET}/shop": "1 files were written since the plan; the other 1 are deleted"
    }
    assert cloud.s3.get_object(Bucket=BUCKET, Key="shop/new")["Body"].read() == b"x"


def test_a_whole_bucket_is_never_the_projects_place(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(cloud, monkeypatch, prefix="")
    with pytest.raises(AirflowFailException, match="the whole bucket"):
        plan(data=True)


def test_it_goes_on_after_a_failure_and_tells_all(cloud: Cloud) -> None:
    make_model(cloud, "pms-1")
    make_model(cloud, "pms-2")
    claim = plan()
    denied = {"operation": "DeleteModel", "code": "AccessDeniedException", "status": 400, "times": 2}
    cloud.set_faults("POST", [denied])
    try:
        with pytest.raises(AirflowFailException, match=r"(?s)2 things could not.*model pms-.*model pms-"):
            delete(claim)
    finally:
        cloud.set_faults("DELETE")
    assert names(cloud)["configs"] == set()
    assert delete(claim) == {"deleted": 2, "gone": 2, "left": {}}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ThrottlingException", "Rate exceeded"),
        ("ValidationException", "Cannot update in-progress endpoint"),
    ],
)
def test_what_passes_is_worth_a_retry(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    make_model(cloud, "pms-1")
    claim = plan()
    passed_on = type(cloud.sagemaker)._make_api_call

    def throttled(client: Any, operation: str, request: Any) -> Any:
        if operation == "DeleteModel":
            raise refusal(operation, code, said)
        return passed_on(client, operation, request)

    with monkeypatch.context() as for_now, pytest.raises(AirflowException) as fault:
        for_now.setattr("botocore.client.BaseClient._make_api_call", throttled)
        delete(claim)
    assert not isinstance(fault.value, AirflowFailException)
    assert delete(claim) == {"deleted": 1, "gone": 1, "left": {}}


def test_what_may_not_be_looked_at_is_somebody_elses(cloud: Cloud) -> None:
    """The role of `aws.yaml` sees nothing of what has other names than the project's."""
    make_model(cloud, "pms-1")
    cloud.set_faults(
        "POST", [{"operation": "ListTags", "code": "AccessDeniedException", "status": 400, "times": 1}]
    )
    try:
        assert planned(cloud, plan()) == {"model pms-1"}
    finally:
        cloud.set_faults("DELETE")


def test_a_run_has_one_plan(cloud: Cloud) -> None:
    make_model(cloud, "pms-1")
    first = plan()
    make_model(cloud, "pms-2")
    assert plan() == first
    assert len(planned(cloud, plan("run-2"))) == 4


@pytest.mark.parametrize("agreed", [None, {}, {"approved_by": "Eve", "sha256": "0" * 64}])
def test_nothing_goes_that_nobody_agreed_to(cloud: Cloud, agreed: Any) -> None:
    make_model(cloud, "pms-1")
    operator = TearDownOperator(task_id="delete", plan=plan(), approved=agreed)
    with pytest.raises(AirflowFailException, match="Nobody agreed"):
        operator.execute({})  # type: ignore[typeddict-item]
    assert names(cloud)["models"] == {"pms-1"}


def test_a_plan_that_was_changed_is_not_the_one_that_was_agreed_to(cloud: Cloud) -> None:
    make_model(cloud, "pms-1")
    claim = plan()
    cloud.put(claim["uri"].removeprefix(f"s3://{BUCKET}/"), b"{}")
    with pytest.raises(AirflowFailException, match="is not the plan that was agreed to"):
        delete(claim)


CLAIM = PlanClaim(uri="s3://b/p.json", sha256="a" * 64, things=1, usd_a_month=84, text="- `pms-1`").to_xcom()


def answer(option: str | None, **changes: Any) -> Any:
    event = {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime(2026, 11, 24, tzinfo=UTC),
        "responded_by_user": ADA,
        **changes,
    }
    operator = ApproveTearDownOperator(task_id="approve", plan=CLAIM, hours=2)
    return operator.execute_complete({}, event)  # type: ignore[typeddict-item]


def test_a_person_is_shown_the_list_and_silence_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[dict[str, Any]] = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **question: questions.append(question))
    operator = ApproveTearDownOperator(task_id="approve", plan=CLAIM, hours=2)
    context: Any = {"task_instance": SimpleNamespace(id="ti-1")}
    with pytest.raises(TaskAwaitingInput) as waits:
        operator.execute(context)
    assert waits.value.timeout.total_seconds() == 7200
    [question] = questions
    assert "`pms-1`" in question["body"] and "s3://b/p.json" in question["body"]
    assert question["defaults"] == ["Reject"]


def test_a_yes_is_for_the_plan_that_was_shown() -> None:
    assert answer("Approve") == {"approved_by": "Ada Lovelace (ada)", "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("option", "changes", "said"),
    [
        ("Reject", {}, "Refused by Ada Lovelace"),
        ("Reject", {"timedout": True, "responded_by_user": None}, "Nobody answered in time"),
        (None, {"error": "late", "error_type": "timeout"}, "Nobody answered in time"),
    ],
)
def test_a_no_deletes_nothing(option: str | None, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ApprovalRefusedError, match=f"{said}.*: nothing is deleted"):
        answer(option, **changes)

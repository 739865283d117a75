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
from include.sagemaker import removal
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
    make_model(cloud, "pms-2")
    claim = plan(data=True, registry=True)
    cloud.sagemaker.update_endpoint(EndpointName="shop-recommender", EndpointConfigName=newer)
    assert cloud.settled("shop-recommender")["EndpointConfigName"] == newer
    left = delete(claim)["left"]
    assert "is on pms-1-other-config now" in left["endpoint shop-recommender"]
    assert left["endpoint_config pms-1-other-config"] == "an endpoint is on it"
    # A shadow test, or an update that fails, goes back to it.
    assert left["endpoint_config pms-1-config"] == "an endpoint serves its model"
    assert left["model pms-1"] == "an endpoint serves it"
    assert left[f"objects s3://{BUCKET}/shop"] == "an endpoint still needs it"
    assert "scalable_target shop-recommender/variant/AllTraffic" in left
    assert names(cloud)["configs"] == {newer, "pms-1-config"} and scaled(cloud) == {"shop-recommender"}
    assert names(cloud)["models"] == {"pms-1"}
    assert cloud.invoke("shop-recommender")["model"] == "fine"
    assert artefacts(cloud) >= {"shop/models/pms-1/output/model.tar.gz"}


def artefacts(cloud: Cloud) -> set[str]:
    return {entry["Key"] for entry in cloud.s3.list_objects_v2(Bucket=BUCKET)["Contents"]}


@pytest.mark.parametrize(
    ("code", "said", "worth_retry"),
    [
        ("AccessDeniedException", "not authorized", False),
        ("ValidationException", "Cannot update in-progress endpoint", True),
    ],
)
def test_an_endpoint_that_could_not_be_deleted_keeps_all_that_it_needs(
    cloud: Cloud, code: str, said: str, worth_retry: bool
) -> None:
    make_endpoint(cloud, "shop-recommender", make_model(cloud, "pms-1"))
    scale(cloud, "shop-recommender")
    ensure_group(cloud.sagemaker, "shop-recommender")
    version = register(cloud, "shop-recommender")
    claim = plan(data=True, registry=True)
    before, files = names(cloud), artefacts(cloud)
    cloud.set_faults("POST", [{"operation": "DeleteEndpoint", "code": code, "status": 400, "reason": said}])
    try:
        with pytest.raises(AirflowException, match="1 things could not") as fault:
            delete(claim)
    finally:
        cloud.set_faults("DELETE")
    assert isinstance(fault.value, AirflowFailException) is not worth_retry
    assert (names(cloud), artefacts(cloud)) == (before, files)
    assert scaled(cloud) == {"shop-recommender"}
    cloud.sagemaker.describe_model_package(ModelPackageName=version)
    assert delete(claim) == {"deleted": 7, "gone": 0, "left": {}}


def test_another_persons_endpoint_keeps_what_its_model_was_made_from(cloud: Cloud) -> None:
    make_endpoint(cloud, "theirs", make_model(cloud, "pms-theirs", tags=OTHERS), OTHERS)
    ensure_group(cloud.sagemaker, "shop-recommender")
    register(cloud, "shop-recommender", "shop/models/pms-theirs/output/model.tar.gz")
    other = register(cloud, "shop-recommender")
    left = delete(plan(data=True, registry=True))["left"]
    assert {kind.split()[0] for kind in left} == {"model_package", "model_package_group", "objects"}
    assert f"model_package {other}" not in left
    assert artefacts(cloud) >= {"shop/models/pms-theirs/output/model.tar.gz"}


def test_endpoints_that_are_long_in_going_are_waited_for_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_endpoint(cloud, "shop-recommender", make_model(cloud, "pms-1"))
    make_model(cloud, "pms-2")
    claim = plan(data=True)
    monkeypatch.setattr(removal, "WAIT_SECONDS", 2)
    passed_on = type(cloud.sagemaker)._make_api_call

    def never_gone(client: Any, operation: str, request: Any) -> Any:
        if operation == "DeleteEndpoint":
            return {}
        answer = passed_on(client, operation, request)
        return {**answer, "EndpointStatus": "Deleting"} if operation == "DescribeEndpoint" else answer

    begun = time.monotonic()
    with monkeypatch.context() as for_now, pytest.raises(AirflowException, match="5 things") as fault:
        for_now.setattr("botocore.client.BaseClient._make_api_call", never_gone)
        delete(claim)
    assert not isinstance(fault.value, AirflowFailException)
    assert time.monotonic() - begun < 6
    assert delete(claim) == {"deleted": 6, "gone": 0, "left": {}}


def test_files_that_may_not_be_deleted_are_no_matter_of_time(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.put("shop/old", b"x")
    claim = plan(data=True)
    passed_on = type(cloud.sagemaker)._make_api_call

    def refused(client: Any, operation: str, request: Any) -> Any:
        if operation == "DeleteObjects":
            return {"Errors": [{"Key": "shop/old", "Code": "AccessDenied", "Message": "Access Denied"}]}
        return passed_on(client, operation, request)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", refused)
    with pytest.raises(AirflowFailException, match="shop/old: Access Denied"):
        delete(claim)


def test_what_another_endpoint_is_on_need_not_be_seen(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    make_endpoint(cloud, "theirs", make_model(cloud, "their-model", tags=OTHERS), OTHERS)
    make_model(cloud, "pms-1")
    claim = plan()
    passed_on = type(cloud.sagemaker)._make_api_call

    def refused(client: Any, operation: str, request: Any) -> Any:
        if operation == "DescribeEndpointConfig" and request["EndpointConfigName"] == "their-model-config":
            raise refusal(operation, "AccessDeniedException", "not authorized")
        return passed_on(client, operation, request)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", refused)
    assert delete(claim) == {"deleted": 2, "gone": 0, "left": {}}


def test_tags_are_asked_for_by_name_alone(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(cloud, "their-model", tags=OTHERS)
    make_model(cloud, "pms-1")
    passed_on, asked = type(cloud.sagemaker)._make_api_call, list[str]()

    def counted(client: Any, operation: str, request: Any) -> Any:
        asked.extend(request.get("ResourceArn", "").split("/")[-1:] if operation == "ListTags" else [])
        return passed_on(client, operation, request)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", counted)
    plan()
    assert sorted(asked) == ["pms-1", "pms-1-config"]


ANEW = {"DescribeModel", "DescribeEndpointConfig", "DescribeModelPackage", "DescribeModelPackageGroup"}


def test_a_thing_that_was_made_anew_since_the_plan_stays(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(cloud, "pms-1")
    ensure_group(cloud.sagemaker, "shop-recommender")
    version = register(cloud, "shop-recommender")
    claim = plan(registry=True)
    describe = type(cloud.sagemaker)._make_api_call

    def later(client: Any, operation: str, request: Any) -> Any:
        answer = describe(client, operation, request)
        if operation in ANEW:
            answer["CreationTime"] = datetime.now(UTC).replace(year=2100)
        return answer

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", later)
    assert set(delete(claim)["left"]) == {
        "endpoint_config pms-1-config",
        "model pms-1",
        f"model_package {version}",
        "model_package_group shop-recommender",
    }


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


def register(cloud: Cloud, group: str, key: str | None = None) -> str:
    uri = f"s3://{BUCKET}/{key}" if key else cloud.put("shop/models/m/model.tar.gz", b"x")
    image = {"Image": "i:1", "ModelDataUrl": uri}
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

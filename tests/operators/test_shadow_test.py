"""The shadow test on the emulator's endpoint, with customers that ask all the while."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskDeferred

from include.contracts import Registered, ShadowReport, ShadowVariant, TrainedModel, Verdict
from include.operators.create_serving import wanted_config
from include.operators.end_shadow_test import EndShadowTestOperator
from include.operators.endpoint_watch import EndpointWatch
from include.operators.shadow_move import Live, ShadowMove
from include.operators.shadow_report import Plan, compare_variants, measure_both
from include.operators.shadow_test import ShadowTestOperator
from include.sagemaker.captured import Exchange
from include.sagemaker.champion import find_champion
from include.sagemaker.registry import describe_package, record_approval
from include.settings import get_settings
from tests.cards.cards import full_card
from tests.faults.endpoint import claims_of, deployable
from tests.local.cloud import Cloud, Shop, started
from tests.operators.deploying import ENDPOINT, choose, deploy, execute
from tests.operators.fake_sagemaker import TaskStore, refusal

OURS = "post-modern-stack"
REPORTS = f"s3://{OURS}/shop/reports/job/run"
SECONDS = 2.0


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with started(tmp_path_factory.mktemp("state")) as cloud:
        yield cloud


@pytest.fixture
def live(
    cloud: Cloud, trained: TrainedModel, approval: Verdict, monkeypatch: Any
) -> Iterator[dict[str, Any]]:
    """An endpoint that serves the model `base`; yields what the gate handed over of it."""
    # The emulator tells of a request within a second.
    monkeypatch.setattr("include.operators.shadow_test.LATE_POLLS", 2)
    with deployable(cloud, monkeypatch):
        claims = claims_of(cloud, trained, approval, "base", "2026-02-01")
        deploy(claims)
        yield claims


@pytest.fixture
def challenge(cloud: Cloud, trained: TrainedModel, approval: Verdict) -> Callable[..., dict[str, Any]]:
    """Makes a challenger that behaves so, registered and with a card."""

    def make(behaviour: str, data_until: str = "2026-02-02") -> dict[str, Any]:
        folder = f"{REPORTS}-{cloud.name()}"
        judged = {"report_uri": f"{folder}/report.json", "card_uri": f"{folder}/card.html"}
        claims = claims_of(cloud, trained, approval.model_copy(update=judged), behaviour, data_until)
        key = judged["card_uri"].removeprefix(f"s3://{OURS}/").removesuffix("html") + "json"
        cloud.s3.put_object(Bucket=OURS, Key=key, Body=full_card().model_dump_json())
        model = TrainedModel.model_validate(claims["trained_model"])
        group = cloud.name("group")
        cloud.sagemaker.create_model_package_group(ModelPackageGroupName=group)
        arn = cloud.sagemaker.create_model_package(
            ModelPackageGroupName=group,
            ModelApprovalStatus="Approved",
            InferenceSpecification={
                "Containers": [{"Image": "registry/serving:1", "ModelDataUrl": model.model_uri}],
                "SupportedContentTypes": ["application/json"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
            CustomerMetadataProperties={"training_job": model.job_name, "card_uri": judged["card_uri"]},
        )["ModelPackageArn"]
        registered = Registered(
            package_arn=arn,
            group_name=group,
            version=1,
            approval="Approved",
            job_name=model.job_name,
            snapshot_id=model.snapshot_id,
        )
        return {**claims, "registered": registered.to_xcom()}

    return make


def config_of(claims: dict[str, Any]) -> str:
    model = TrainedModel.model_validate(claims["trained_model"])
    return str(wanted_config(model, get_settings(), "us-east-1")["EndpointConfigName"])


def on(cloud: Cloud) -> str:
    return str(cloud.settled(ENDPOINT)["EndpointConfigName"])


def task(claims: dict[str, Any], minutes: float = SECONDS / 60, **changes: Any) -> ShadowTestOperator:
    return ShadowTestOperator(task_id="step", minutes=minutes, **claims, **changes)


def run(claims: dict[str, Any], **changes: Any) -> ShadowReport:
    """The whole test, as Airflow goes through it."""
    operator = task(claims, **changes)
    try:
        return ShadowReport.model_validate(operator.execute({"run_id": "run"}))  # type: ignore[typeddict-item]
    except TaskDeferred as deferred:
        wait(deferred)
        return resume(claims, deferred, **changes)


def wait(deferred: TaskDeferred) -> None:
    moment = deferred.trigger.moment  # type: ignore[attr-defined]
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))


def resume(claims: dict[str, Any], deferred: TaskDeferred, **changes: Any) -> ShadowReport:
    method = getattr(task(claims, **changes), deferred.method_name)
    return ShadowReport.model_validate(method({"run_id": "run"}, event=None, **(deferred.kwargs or {})))


def text(cloud: Cloud, uri: str) -> str:
    key = uri.removeprefix(f"s3://{OURS}/")
    return str(cloud.s3.get_object(Bucket=OURS, Key=key)["Body"].read().decode())


def gate_claims(claims: dict[str, Any]) -> dict[str, Any]:
    return {name: claims[name] for name in ("trained_model", "verdict")}


def test_challenger_answers_a_copy_and_no_customer_notices(
    cloud: Cloud, live: dict[str, Any], challenge: Callable[..., dict[str, Any]]
) -> None:
    claims = challenge("newer")
    with Shop(cloud, ENDPOINT) as shop:
        report = run(claims)
        assert on(cloud) == config_of(live) == report.live_config
        deployed = deploy(gate_claims(claims))
    # Not one request failed, and nobody was answered by the challenger before its deploy.
    assert shop.faults == []
    assert set(shop.said) <= {"base", "newer"}
    assert deployed.replaced == config_of(live)
    assert report.passed
    assert report.challenger.requests > 20
    assert (report.challenger.errors, report.live.errors) == (0, 0)
    assert report.live.requests >= report.challenger.requests
    assert report.challenger.latency_ms is not None
    # The fake server recommends one product in two by the model's name, and the other first.
    assert report.pairs == report.compared > 20
    assert (report.overlap, report.same_first) == (0.5, 1.0)
    assert ShadowReport.model_validate_json(text(cloud, report.report_uri)) == report
    page = text(cloud, str(report.card_uri))
    assert "Shadow test" in page and f"{report.pairs:,} requests" in page
    assert "Shadow test" not in text(cloud, str(claims["verdict"]["card_uri"]).replace(".html", ".json"))
    package = describe_package(cloud.sagemaker, claims["registered"]["package_arn"])
    assert (package.card_uri, package.approval) == (report.card_uri, "Approved")
    names = cloud.sagemaker.list_endpoint_configs(MaxResults=100)["EndpointConfigs"]
    assert report.shadow_config not in {one["EndpointConfigName"] for one in names}


def test_challenger_that_fails_requests_does_not_go_live(
    cloud: Cloud,
    live: dict[str, Any],
    challenge: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claims = challenge("status 500")
    with Shop(cloud, ENDPOINT) as shop, pytest.raises(AirflowFailException) as failure:
        run(claims)
    assert shop.faults == []
    assert set(shop.said) == {"base"}
    assert "copied requests failed" in str(failure.value)
    assert on(cloud) == config_of(live)
    package = describe_package(cloud.sagemaker, claims["registered"]["package_arn"])
    assert package.approval == "Rejected"
    assert "Failed" in text(cloud, str(package.card_uri))
    # Whoever clears the task is told the same, and nothing is tested again; a card that cannot be named
    # leaves nothing Approved.
    record_approval(cloud.sagemaker, claims["registered"]["package_arn"], "Approved", "By mistake.")
    refused = Mock(side_effect=refusal("UpdateModelPackage", "ThrottlingException", "Slow down."))
    monkeypatch.setattr("include.operators.shadow_test.record_card", refused)
    before = cloud.settled(ENDPOINT)["LastModifiedTime"]
    with pytest.raises(AirflowFailException, match="copied requests failed.*approve its new entry"):
        run(claims)
    assert cloud.settled(ENDPOINT)["LastModifiedTime"] == before
    assert describe_package(cloud.sagemaker, claims["registered"]["package_arn"]).approval == "Rejected"


def test_challenger_that_does_not_start_leaves_what_is_live(
    cloud: Cloud, live: dict[str, Any], challenge: Callable[..., dict[str, Any]]
) -> None:
    with Shop(cloud, ENDPOINT) as shop, pytest.raises(AirflowFailException, match="rolled back"):
        run(challenge("crash"))
    assert shop.faults == []
    assert on(cloud) == config_of(live)


def test_retry_goes_on_with_the_test_that_is_on(
    cloud: Cloud,
    live: dict[str, Any],
    challenge: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claims = challenge("newer")
    with pytest.raises(TaskDeferred) as first:
        task(claims).execute({})  # killed, with the shadow on
    told = cloud.settled(ENDPOINT)
    assert told["ShadowProductionVariants"][0]["VariantName"] == "Shadow"
    # Nobody takes the challenger for the live model.
    champion = find_champion(cloud.sagemaker, ENDPOINT).champion
    assert champion and champion.model_uri == live["trained_model"]["model_uri"]
    with pytest.raises(TaskDeferred) as second:
        task(claims).execute({})
    moments = [deferred.value.trigger.moment for deferred in (first, second)]  # type: ignore[attr-defined]
    assert moments[0] == moments[1]
    assert cloud.settled(ENDPOINT)["LastModifiedTime"] == told["LastModifiedTime"]
    # Killed once more, with the report written and the shadow on still.
    end = ShadowMove.end

    def dies(self: ShadowMove) -> None:
        raise AirflowException("the worker is gone")

    monkeypatch.setattr(ShadowMove, "end", dies)
    with pytest.raises(AirflowException, match="the worker is gone"):
        run(claims)
    assert on(cloud) == told["EndpointConfigName"]
    monkeypatch.setattr(ShadowMove, "end", end)
    report = ShadowReport.model_validate(task(claims).execute({}))
    assert report.started_at == told["LastModifiedTime"].astimezone(UTC).isoformat(timespec="seconds")
    assert "Nothing was compared" not in report.reason and "No request came" in report.reason
    assert on(cloud) == config_of(live)


def test_shadow_that_was_left_on_is_ended_and_never_gone_back_to(
    cloud: Cloud, live: dict[str, Any], challenge: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(TaskDeferred):
        task(challenge("left on")).execute({})
    shadow = on(cloud)
    # A run without a test deploys over it, and knows where it came from.
    claims = challenge("newer", "2026-02-03")
    store = TaskStore()
    assert deploy(gate_claims(claims), store).replaced == config_of(live) != shadow
    names = cloud.sagemaker.list_endpoint_configs(MaxResults=100)["EndpointConfigs"]
    assert shadow not in {one["EndpointConfigName"] for one in names}
    # A retry does not go by what is deleted.
    assert deploy(gate_claims(claims), store).replaced == config_of(live)
    with pytest.raises(TaskDeferred):
        task(challenge("newest", "2026-02-04")).execute({})
    execute(EndShadowTestOperator, {})
    assert on(cloud) == config_of(claims)
    with pytest.raises(AirflowSkipException):
        execute(EndShadowTestOperator, {})


def test_test_that_something_else_ended_is_no_test(
    cloud: Cloud, live: dict[str, Any], challenge: Callable[..., dict[str, Any]]
) -> None:
    claims = challenge("newer")
    with pytest.raises(TaskDeferred) as deferred:
        task(claims).execute({})
    execute(EndShadowTestOperator, {})
    with pytest.raises(AirflowFailException, match="Something else moved"):
        resume(claims, deferred.value)
    # Skipped for being live already, it would count as no reason against a deploy.
    deploy(gate_claims(claims))
    with pytest.raises(AirflowFailException, match="meanwhile.*the live model itself"):
        resume(claims, deferred.value)


@pytest.mark.parametrize("how", ["resumed", "retried"])
def test_autoscaling_makes_no_test_longer(
    cloud: Cloud, live: dict[str, Any], challenge: Callable[..., dict[str, Any]], how: str
) -> None:
    claims = challenge("newer")
    context: Any = {"run_id": "run", "task_state_store": TaskStore()}
    with pytest.raises(TaskDeferred) as deferred:
        task(claims).execute(context)
    before = cloud.settled(ENDPOINT)["LastModifiedTime"]
    cloud.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=ENDPOINT,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}],
    )
    assert cloud.settled(ENDPOINT)["LastModifiedTime"] > before
    wait(deferred.value)
    if how == "resumed":
        report = resume(claims, deferred.value)
    else:
        report = ShadowReport.model_validate(task(claims).execute(context))
    assert report.started_at == before.astimezone(UTC).isoformat(timespec="seconds")


@pytest.mark.parametrize(
    ("counts", "captured", "minutes_ago"),
    [
        ([(500, 0), (500, 200), (500, 500)], 480, 0),
        ([(500, 0), (500, 0), (500, 480), (500, 480)], 480, 0),  # the rest was dropped
        ([(0, 0)], 0, 0),
        ([(500, 1), (500, 1), (500, 480), (500, 480)], 480, 0),  # few beside what was captured
        ([(0, 0), (1, 1), (500, 500)], 480, 0),  # of both
        ([(500, 0)], 480, 3),
        ([(0, 0)], 480, 3),
    ],
)
def test_what_cloudwatch_tells_late_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, counts: list[tuple[int, int]], captured: int, minutes_ago: int
) -> None:
    told = [ShadowVariant(requests=requests, errors=0) for pair in counts for requests in pair]
    naps: list[float] = []
    monkeypatch.setattr("include.operators.shadow_report.measure", Mock(side_effect=told))
    monkeypatch.setattr("include.operators.shadow_report.time.sleep", naps.append)
    end = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    live, challenger = measure_both(Mock(), ENDPOINT, ("AllTraffic", "Shadow"), end, end, captured)
    assert (live.requests, challenger.requests) == counts[-1]
    assert len(naps) == len(counts) - 1


def test_what_data_capture_tells_late_is_compared(
    trained: TrainedModel, approval: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, counted = Exchange("asked", (("a", "b"),)), ShadowVariant(requests=3, errors=0)
    looks = iter([[exchange], [], [exchange] * 3, [exchange] * 3])
    monkeypatch.setattr("include.operators.shadow_report.read_exchanges", lambda *_: next(looks))
    monkeypatch.setattr("include.operators.shadow_report.measure", Mock(return_value=counted))
    described = {"ProductionVariants": [{"VariantName": "AllTraffic", "ModelName": "base"}]}
    request = {"EndpointConfigName": "test"}
    plan = Plan(trained, approval, Live("test", "before"), described, "newer", request)
    moment = datetime.now(UTC)
    report = compare_variants(plan, Mock(), Mock(), moment, moment)
    assert (report.pairs, report.overlap) == (3, 1.0)


def test_model_that_a_person_refused_gets_no_traffic(
    cloud: Cloud, live: dict[str, Any], challenge: Callable[..., dict[str, Any]]
) -> None:
    claims = challenge("newer")
    record_approval(cloud.sagemaker, claims["registered"]["package_arn"], "Rejected", "Not this one.")
    with pytest.raises(AirflowFailException, match=r"is Rejected .*Not this one.*Approve it there"):
        run(claims)
    assert on(cloud) == config_of(live)


def test_nothing_is_ended_or_waited_for_where_no_test_is_on(
    cloud: Cloud,
    live: dict[str, Any],
    challenge: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched, pytest.raises(AirflowSkipException, match="No shadow test is on"):
        patched.setattr(EndpointWatch, "settle", Mock(side_effect=AirflowException("It still moves.")))
        execute(EndShadowTestOperator, {})
    with pytest.raises(TaskDeferred):
        task(challenge("newer")).execute({})
    shadow = on(cloud)
    with pytest.raises(AirflowSkipException, match="no endpoint but its own"):
        execute(EndShadowTestOperator, {}, ephemeral=True)
    assert on(cloud) == shadow


def test_where_there_is_nothing_to_test_the_deploy_goes_on(
    cloud: Cloud,
    trained: TrainedModel,
    approval: Verdict,
    challenge: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with deployable(cloud, monkeypatch):
        claims = challenge("first")
        with pytest.raises(AirflowSkipException, match="Nothing is live"):
            run(claims)
        deploy(gate_claims(claims))
        for changes, reason in (
            ({"minutes": 0}, "is asked for"),
            ({"ephemeral": True}, "of the run's own"),
            ({}, "the live model itself"),
        ):
            with pytest.raises(AirflowSkipException, match=reason):
                run(claims, **changes)
        older = challenge("older", "2026-01-01")
        with pytest.raises(AirflowSkipException, match="newer"):
            run(older)
        choose(monkeypatch, endpoint_serverless="true")
        with pytest.raises(AirflowSkipException, match="serverless"):
            run(older)
        assert on(cloud) == config_of(claims) or get_settings().endpoint_serverless


def test_card_that_cannot_be_drawn_decides_nothing(
    cloud: Cloud, live: dict[str, Any], challenge: Callable[..., dict[str, Any]]
) -> None:
    claims = challenge("newer")
    card = str(claims["verdict"]["card_uri"]).removeprefix(f"s3://{OURS}/").replace(".html", ".json")
    cloud.s3.put_object(Bucket=OURS, Key=card, Body=json.dumps({"not": "a card"}))
    report = run(claims, minutes=0.02)
    assert (report.passed, report.card_uri) == (True, None)
    assert Path(report.report_uri).name == "shadow.json"

"""The registry's requests and readings, against the emulator's own registry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.contracts import Champion, Check, TrainedModel, Verdict
from include.gate.rules import load_rules
from include.local.emulator.resources.registry import Registry
from include.local.emulator.wire.errors import AwsError
from include.local.emulator.wire.shapes import check_request, service_model, violations
from include.sagemaker.packages import MOST_FACTS, TIMED, entry_of, package_request
from include.sagemaker.registry import (
    OVERRIDDEN,
    Package,
    clean_text,
    ensure_group,
    list_packages,
    read_package,
    record_approval,
    register,
)

GROUP, JOB = "shop-recommender", "pms-0123456789ab"
TRAINED = TrainedModel(
    job_name=JOB,
    job_arn=f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{JOB}",
    snapshot_id="snap-0123456789abcdef",
    model_uri=f"s3://bucket/shop/models/{JOB}/output/model.tar.gz",
    evaluation_uri=f"s3://bucket/shop/models/{JOB}/output/output.tar.gz",
    billable_seconds=42,
    data_until="2026-11-24",
    trained_at="2026-11-24T08:00:00+00:00",
)
JOB_DESCRIPTION = {
    "HyperParameters": {
        "epochs": "8",
        "architecture": '"gru"',
        "filters": '"a, b"',
        "_tuning_objective_metric": '"x"',
        "sagemaker_program": '"train.py"',
        "sagemaker_submit_directory": '"s3://bucket/shop/code/abc/sourcedir.tar.gz"',
    },
    "ResourceConfig": {"InstanceType": "ml.m5.large"},
}


def check(name: str, status: Any, value: float = 0.1) -> Check:
    return Check(
        name=name, status=status, value=value, comparison=">=", bound=0.2, sample_size=9, reason="because"
    )


def verdict(approved: bool = True, **changes: Any) -> Verdict:
    content: dict[str, Any] = {
        "approved": approved,
        "job_name": JOB,
        "snapshot_id": TRAINED.snapshot_id,
        "rules_version": 3,
        "checks": (check("lead", "passed" if approved else "failed"),),
        "metrics": {"hit_rate@20": 0.123456789, "mrr@20": 0.05},
        "baselines": {},
        "report_uri": f"s3://bucket/shop/reports/{JOB}/0123456789ab/report.json",
        "card_uri": f"s3://bucket/shop/reports/{JOB}/0123456789ab/card.html",
    }
    return Verdict(**{**content, **changes})


def request_of(decided: Verdict, require_approval: bool = False, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "image": "serving:1",
        "model_name": "pms-model",
        "job": JOB_DESCRIPTION,
        "git_revision": "f" * 40,
        **changes,
    }
    return package_request(GROUP, TRAINED, decided, require_approval=require_approval, **given)


class Client:
    """boto3's SageMaker client, as far as the registry goes, with every request checked."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.calls: list[str] = []

    def _call(self, operation: str, method: Any, request: dict[str, Any]) -> Any:
        self.calls.append(operation)
        try:
            return method("us-east-1", check_request(operation, request))
        except AwsError as error:
            raise ClientError({"Error": {"Code": error.code, "Message": error.message}}, operation) from error

    def describe_model_package_group(self, **request: Any) -> Any:
        return self._call("DescribeModelPackageGroup", self.registry.describe_group, request)

    def create_model_package_group(self, **request: Any) -> Any:
        return self._call("CreateModelPackageGroup", self.registry.create_group, request)

    def create_model_package(self, **request: Any) -> Any:
        return self._call("CreateModelPackage", self.registry.create, request)

    def describe_model_package(self, **request: Any) -> Any:
        return self._call("DescribeModelPackage", self.registry.describe, request)

    def update_model_package(self, **request: Any) -> Any:
        return self._call("UpdateModelPackage", self.registry.update, request)

    def list_model_packages(self, **request: Any) -> Any:
        return self._call("ListModelPackages", self.registry.list_packages, {**request, "MaxResults": 2})

    def get_paginator(self, name: str) -> Client:
        assert name == "list_model_packages"
        return self

    def paginate(self, **request: Any) -> Iterator[Any]:
        page = self.list_model_packages(**request)
        yield page
        while token := page.get("NextToken"):
            page = self.list_model_packages(**request, NextToken=token)
            yield page


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    ensure_group(made, GROUP)
    yield made


def test_what_is_registered_is_read_again(client: Client) -> None:
    champion = Champion(model_name="pms-live", model_uri="s3://bucket/live.tar.gz", job_name="pms-live-job")
    package, made = register(client, request_of(verdict(champion=champion)))
    assert made
    assert package == Package(
        arn=f"arn:aws:sagemaker:us-east-1:123456789012:model-package/{GROUP}/1",
        version=1,
        created=package.created,
        approval="Approved",
        job_name=JOB,
        snapshot_id=TRAINED.snapshot_id,
        model_uri=TRAINED.model_uri,
        model_name="pms-model",
        metrics={"hit_rate@20": 0.123457, "mrr@20": 0.05},
        card_uri=verdict().card_uri,
        entry=entry_of(GROUP, TRAINED, verdict(champion=champion), "pms-model"),
        job_arn=TRAINED.job_arn,
        report_uri=verdict().report_uri,
        data_until="2026-11-24",
        trained_at="2026-11-24T08:00:00+00:00",
    )
    described = client.describe_model_package(ModelPackageName=package.arn)
    told = described["CustomerMetadataProperties"]
    assert told["git_revision"] == described["MetadataProperties"]["CommitId"] == "f" * 40
    assert told["decision"] == "approved"
    assert told["champion"] == "pms-live-job"
    assert told["source_uri"] == "s3://bucket/shop/code/abc/sourcedir.tar.gz"
    assert told["instance_type"] == "ml.m5.large"
    # What SageMaker would refuse, a comma, is left out; the container's own parameters are nobody's choice.
    assert {key: value for key, value in told.items() if key.startswith("hyperparameter/")} == {
        "hyperparameter/epochs": "8",
        "hyperparameter/architecture": "gru",
    }
    report = described["ModelMetrics"]["ModelQuality"]["Statistics"]
    assert report == {"ContentType": "application/json", "S3Uri": verdict().report_uri}


@pytest.mark.parametrize(
    ("decided", "require_approval", "approval", "decision", "said"),
    [
        (verdict(), False, "Approved", "approved", "no rule of the gate failed."),
        (verdict(), True, "PendingManualApproval", "approved", "no rule"),
        (verdict(False), False, "Rejected", "rejected", "failed lead"),
        (verdict(False), True, "Rejected", "rejected", "failed lead"),
        (
            verdict(checks=(check("lead", "failed"),), override_reason="We need it, now!"),
            False,
            "Approved",
            "overridden",
            "Approved against the gate, because: We need it, now!",
        ),
    ],
)
def test_each_verdict_has_its_approval(
    decided: Verdict, require_approval: bool, approval: str, decision: str, said: str
) -> None:
    request = request_of(decided, require_approval)
    assert request["ModelApprovalStatus"] == approval
    assert request["CustomerMetadataProperties"]["decision"] == decision
    assert request["ModelPackageDescription"].startswith(f"{JOB}: {said}")


@pytest.mark.parametrize(
    "reason",
    ["short", 'commas, "quotes" & <b>tags</b>', f"{OVERRIDDEN}again", "ünï — 日本 🎉", "x" * 500],
)
def test_the_reason_of_an_override_is_kept_whole(client: Client, reason: str) -> None:
    decided = verdict(checks=(check("lead", "failed"),), override_reason=reason)
    assert register(client, request_of(decided))[0].override_reason == reason


def test_a_verdict_is_registered_once_and_another_one_anew(client: Client) -> None:
    first, _ = register(client, request_of(verdict(False)))
    # Measured again, with another time of a single answer; told by another revision of the project.
    measured = verdict(False, checks=(check("lead", "failed", 0.11), check("speed", "passed", 3.0)))
    again, made = register(client, request_of(measured, git_revision="0" * 40))
    assert (again.arn, made) == (first.arn, False)
    overridden = verdict(checks=(check("lead", "failed"),), override_reason="it is fine")
    assert register(client, request_of(overridden))[0].version == 2
    other_run = verdict(False, report_uri=f"s3://bucket/shop/reports/{JOB}/ba9876543210/report.json")
    assert register(client, request_of(other_run))[0].version == 3
    # A busy worker made the gate's clock warn.
    slow = verdict(False, checks=(check("lead", "failed"), check("answers_in_time_nearly_always", "warned")))
    assert register(client, request_of(slow))[0].arn == first.arn
    # Two tries at a time: neither finds the other's, and the token makes them one.
    assert client.create_model_package(**request_of(verdict(False)))["ModelPackageArn"] == first.arn


LIVE = Champion(model_name="pms-live", model_uri="s3://bucket/live.tar.gz")


@pytest.mark.parametrize(
    ("changes", "model_name"),
    [
        ({"champion": LIVE.model_copy(update={"model_uri": "s3://bucket/other.tar.gz"})}, "pms-model"),
        ({"champion": None}, "pms-model"),
        ({"metrics": {"hit_rate@20": 0.12, "mrr@20": 0.05}}, "pms-model"),
        ({"checks": (check("lead", "passed"), check("leak", "warned"))}, "pms-model"),
        ({}, "pms-on-another-image"),
    ],
    ids=["another live model", "nothing live", "other metrics", "a warning", "another serving image"],
)
def test_an_approval_holds_for_what_was_judged_alone(
    client: Client, changes: dict[str, Any], model_name: str
) -> None:
    first, _ = register(client, request_of(verdict(champion=LIVE), require_approval=True))
    record_approval(client, first.arn, "Approved", "Approved by Ada")
    judged_anew = request_of(verdict(**{"champion": LIVE, **changes}), True, model_name=model_name)
    package, made = register(client, judged_anew)
    assert made
    assert (package.version, package.approval) == (2, "PendingManualApproval")


def test_a_model_that_was_taken_back_is_not_approved_by_being_judged_anew(client: Client) -> None:
    first, _ = register(client, request_of(verdict()))
    record_approval(client, first.arn, "Rejected", "Rolled back from by Ada")
    again, made = register(client, request_of(verdict(champion=LIVE)))
    assert (made, again.version, again.approval) == (True, 2, "PendingManualApproval")
    assert again.approval_description is not None and "Rolled back from by Ada" in again.approval_description
    # Nor the third time, when the newest entry is one that waits, or one that the gate refused.
    third, _ = register(client, request_of(verdict(metrics={"mrr@20": 0.2})))
    assert third.approval == "PendingManualApproval"
    register(client, request_of(verdict(False)))
    fifth, _ = register(client, request_of(verdict(metrics={"mrr@20": 0.3})))
    assert fifth.approval == "PendingManualApproval"
    assert "taken back as version 1: " in (fifth.approval_description or "")
    record_approval(client, again.arn, "Approved", "Approved by Ada")
    assert register(client, request_of(verdict(metrics={"mrr@20": 0.1})))[0].approval == "Approved"


def test_a_model_that_the_gate_refused_is_approved_where_it_passes(client: Client) -> None:
    register(client, request_of(verdict(False)))
    assert register(client, request_of(verdict()))[0].approval == "Approved"


def test_the_rules_on_the_clock_are_known_by_name() -> None:
    rules = [rule for rule in load_rules().rules if rule.severity == "warn"]
    timed = [rule.name for rule in rules if rule.check == "single_answer_ms"]
    assert timed and all(name.startswith(TIMED) for name in timed)


def test_packages_are_listed_newest_first_over_pages(client: Client) -> None:
    versions = [
        register(client, request_of(verdict(rules_version=version)))[0].version for version in range(1, 6)
    ]
    assert [package.version for package in list_packages(client, GROUP)] == versions[::-1]
    assert [package.version for package in list_packages(client, GROUP, limit=2)] == [5, 4]


def test_a_package_that_is_deleted_while_it_is_read_hides_no_other(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in range(1, 4):
        register(client, request_of(verdict(rules_version=version)))
    describe = client.describe_model_package

    def gone(ModelPackageName: str) -> object:
        if ModelPackageName.endswith("/2"):
            refused = {"Error": {"Code": "ValidationException", "Message": "ModelPackage does not exist"}}
            raise ClientError(refused, "DescribeModelPackage")
        return describe(ModelPackageName=ModelPackageName)

    monkeypatch.setattr(client, "describe_model_package", gone)
    assert [package.version for package in list_packages(client, GROUP)] == [3, 1]


def test_a_search_for_an_earlier_entry_describes_the_jobs_own_packages_only(client: Client) -> None:
    other = request_of(verdict())
    other["ModelPackageDescription"], other["ClientToken"] = "pms-other: fine", "other"
    register(client, other)
    client.calls.clear()
    register(client, request_of(verdict()))
    assert client.calls.count("DescribeModelPackage") == 1


def test_a_group_that_is_not_there_holds_nothing() -> None:
    assert list_packages(Client(), "nobody") == []


def test_a_group_is_made_once_also_where_two_make_it_at_a_time(client: Client) -> None:
    ensure_group(client, GROUP)
    assert client.calls.count("CreateModelPackageGroup") == 1

    class Late(Client):
        def describe_model_package_group(self, **request: Any) -> Any:
            try:
                return super().describe_model_package_group(**request)
            finally:
                self.create_model_package_group(**request)

    ensure_group(Late(), GROUP)


def test_a_group_has_the_tags_that_everything_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    client, asked = Client(), list[dict[str, Any]]()
    monkeypatch.setattr(client, "create_model_package_group", lambda **request: asked.append(request))
    ensure_group(client, GROUP, {"team": "shop"})
    assert asked[0]["Tags"] == [
        {"Key": "team", "Value": "shop"},
        {"Key": "project", "Value": "post-modern-stack"},
    ]


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException"])
def test_a_refusal_is_not_an_empty_registry(client: Client, code: str, monkeypatch: Any) -> None:
    def refuse(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "ListModelPackages")

    monkeypatch.setattr(client, "list_model_packages", refuse)
    monkeypatch.setattr(client, "describe_model_package_group", refuse)
    with pytest.raises(ClientError):
        list_packages(client, GROUP)
    with pytest.raises(ClientError):
        ensure_group(client, GROUP)


def test_an_answer_is_recorded_as_one_bounded_line(client: Client) -> None:
    package, _ = register(client, request_of(verdict(), require_approval=True))
    record_approval(client, package.arn, "Rejected", "Refused by Eve\n\x00" + "x" * 2000)
    [listed] = list_packages(client, GROUP)
    assert listed.approval == "Rejected"
    assert listed.approval_description is not None
    assert listed.approval_description.startswith("Refused by Eve xxx")
    assert len(listed.approval_description) == 1024


def test_a_package_that_somebody_else_made_is_shown_with_what_it_has() -> None:
    description = {
        "ModelPackageArn": "arn:aws:sagemaker:us-east-1:123456789012:model-package/g/7",
        "ModelPackageVersion": 7,
        "CreationTime": datetime(2026, 1, 1, tzinfo=UTC),
        "CustomerMetadataProperties": {"metric/a": "many", "metric/b": "nan", "metric/c": "0.5"},
        "ModelPackageDescription": f"{OVERRIDDEN}not ours",
    }
    package = read_package(description)
    assert (package.version, package.approval) == (7, "PendingManualApproval")
    assert (package.job_name, package.model_uri, package.override_reason) == (None, None, None)
    assert package.metrics == {"c": 0.5}


def test_a_request_with_too_much_and_too_long_things_still_fits_sagemaker() -> None:
    names = tuple(check(f"hit_rate@20_by_category[<évil> 🎉\n{n}{'x' * 300}]", "failed") for n in range(30))
    decided = verdict(False, checks=names, card_uri=f"s3://bucket/{'x' * 300}/card.html")
    many = {f"p{number}": f'"{number}"' for number in range(80)} | {"long": f'"{"y" * 300}"', "empty": '""'}
    request = request_of(decided, job={"HyperParameters": many}, git_revision=None)
    shape = service_model().operation_model("CreateModelPackage").input_shape
    assert shape is not None
    assert list(violations(shape, request, closed=True)) == []
    told = request["CustomerMetadataProperties"]
    assert len(told) == MOST_FACTS
    assert "card_uri" not in told and "git_revision" not in told
    assert told["metric/hit_rate@20"] == "0.123457"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("a\r\n b\t\x1b[31mc", "a b [31mc"), ("  ", ""), ("é\u200bz", "é z"), ("x" * 9, "xxxx")],
)
def test_text_is_one_bounded_line(text: str, cleaned: str) -> None:
    assert clean_text(text, 4 if cleaned == "xxxx" else 1024) == cleaned

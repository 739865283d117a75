from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.cloud import BUCKET, Cloud


def specification(cloud: Cloud) -> dict[str, Any]:
    return {
        "Containers": [{"Image": "i:1", "ModelDataUrl": f"s3://{BUCKET}/{cloud.name('model')}.tar.gz"}],
        "SupportedContentTypes": ["application/json"],
        "SupportedResponseMIMETypes": ["application/json"],
    }


@pytest.fixture
def group(cloud: Cloud) -> str:
    name = cloud.name("group")
    cloud.sagemaker.create_model_package_group(
        ModelPackageGroupName=name, ModelPackageGroupDescription="ours", Tags=[{"Key": "k", "Value": "v"}]
    )
    return name


def create(cloud: Cloud, group: str, **request: Any) -> str:
    answer = cloud.sagemaker.create_model_package(
        ModelPackageGroupName=group, InferenceSpecification=specification(cloud), **request
    )
    return str(answer["ModelPackageArn"])


def arns(answer: dict[str, Any]) -> list[str]:
    return [entry["ModelPackageArn"] for entry in answer["ModelPackageSummaryList"]]


def test_a_group_is_described_tagged_and_listed(cloud: Cloud, group: str) -> None:
    described = cloud.sagemaker.describe_model_package_group(ModelPackageGroupName=group)
    assert described["ModelPackageGroupDescription"] == "ours"
    arn = described["ModelPackageGroupArn"]
    assert arn.endswith(f":model-package-group/{group}")
    assert cloud.sagemaker.describe_model_package_group(ModelPackageGroupName=arn)["CreationTime"]
    cloud.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "more", "Value": "w"}])
    assert len(cloud.sagemaker.list_tags(ResourceArn=arn)["Tags"]) == 2
    listed = cloud.sagemaker.list_model_package_groups(NameContains=group)["ModelPackageGroupSummaryList"]
    assert [entry["ModelPackageGroupName"] for entry in listed] == [group]


def test_packages_are_numbered_described_and_listed_newest_first(cloud: Cloud, group: str) -> None:
    first = create(cloud, group, CustomerMetadataProperties={"snapshot id": "a"})
    second = create(
        cloud, group, ModelPackageDescription="The second.", ModelApprovalStatus="Rejected", ClientToken="t-2"
    )
    assert [first.rsplit("/", 2)[1:], second.rsplit("/", 2)[1:]] == [[group, "1"], [group, "2"]]
    for name in (second, f"{group}/2"):
        described = cloud.sagemaker.describe_model_package(ModelPackageName=name)
        assert described["ModelPackageVersion"] == 2
        assert described["ModelApprovalStatus"] == "Rejected"
        assert "LastModifiedTime" not in described and "ModelPackageName" not in described
    assert cloud.sagemaker.describe_model_package(ModelPackageName=first)["ModelApprovalStatus"] == (
        "PendingManualApproval"
    )
    listed = cloud.sagemaker.list_model_packages(ModelPackageGroupName=group, SortOrder="Descending")
    assert arns(listed) == [second, first]
    assert listed["ModelPackageSummaryList"][0]["ModelPackageDescription"] == "The second."
    rejected = cloud.sagemaker.list_model_packages(
        ModelPackageGroupName=group, ModelApprovalStatus="Rejected"
    )
    assert arns(rejected) == [second]
    pages = cloud.sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group, PaginationConfig={"PageSize": 1}
    )
    assert [arns(page) for page in pages] == [[first], [second]]
    # As SageMaker, which lists packages of no group where none is named.
    assert arns(cloud.sagemaker.list_model_packages()) == []
    assert second in arns(cloud.sagemaker.list_model_packages(ModelPackageType="Versioned"))


def test_an_update_changes_approval_and_merges_what_the_customer_told(cloud: Cloud, group: str) -> None:
    arn = create(cloud, group, CustomerMetadataProperties={"a": "1", "b": "2"})
    cloud.sagemaker.update_model_package(
        ModelPackageArn=arn,
        ModelApprovalStatus="Approved",
        ApprovalDescription="by Ada",
        CustomerMetadataProperties={"b": "3"},
        CustomerMetadataPropertiesToRemove=["a"],
    )
    described = cloud.sagemaker.describe_model_package(ModelPackageName=arn)
    assert described["ModelApprovalStatus"] == "Approved"
    assert described["ApprovalDescription"] == "by Ada"
    assert described["CustomerMetadataProperties"] == {"b": "3"}
    assert described["LastModifiedTime"] > described["CreationTime"]


def test_the_same_token_makes_one_package_of_a_group(cloud: Cloud, group: str) -> None:
    other = cloud.name("group")
    cloud.sagemaker.create_model_package_group(ModelPackageGroupName=other)
    assert create(cloud, group, ClientToken="once") == create(cloud, group, ClientToken="once")
    assert create(cloud, other, ClientToken="once").endswith(f"{other}/1")
    assert create(cloud, group).endswith("/2")  # the client makes a token of its own


def test_a_version_number_is_never_given_again_and_a_full_group_stays(cloud: Cloud, group: str) -> None:
    arn = create(cloud, group)
    with pytest.raises(ClientError, match="ConflictException.*not empty"):
        cloud.sagemaker.delete_model_package_group(ModelPackageGroupName=group)
    cloud.sagemaker.delete_model_package(ModelPackageName=arn)
    with pytest.raises(ClientError, match="Could not find model package"):
        cloud.sagemaker.describe_model_package(ModelPackageName=arn)
    last = create(cloud, group)
    assert last.endswith("/2")
    cloud.sagemaker.delete_model_package(ModelPackageName=last)
    cloud.sagemaker.delete_model_package_group(ModelPackageGroupName=group)


@pytest.mark.parametrize(
    ("operation", "request_", "said"),
    [
        ("create_model_package_group", {"ModelPackageGroupName": "{group}"}, "already existing"),
        ("create_model_package_group", {"ModelPackageGroupName": "under_score"}, "regular expression"),
        ("describe_model_package_group", {"ModelPackageGroupName": "nobody"}, "does not exist"),
        ("list_model_packages", {"ModelPackageGroupName": "nobody"}, "does not exist"),
        ("create_model_package", {"ModelPackageGroupName": "nobody"}, "does not exist"),
        ("create_model_package", {}, "packages of a group only"),
        ("create_model_package", {"ModelPackageName": "single"}, "packages of a group only"),
        (
            "create_model_package",
            {"ModelPackageGroupName": "{group}", "Tags": [{"Key": "k", "Value": "v"}]},
            "Tags are not allowed",
        ),
        (
            "create_model_package",
            {"ModelPackageGroupName": "{group}", "CustomerMetadataProperties": {"why": "a, b"}},
            "regular expression",
        ),
        (
            "create_model_package",
            {"ModelPackageGroupName": "{group}", "ModelApprovalStatus": "Maybe"},
            "enum value set",
        ),
        (
            "update_model_package",
            {
                "ModelPackageArn": "arn:aws:sagemaker:us-east-1:123456789012:model-package/nobody/1",
                "ModelApprovalStatus": "Approved",
            },
            "Could not find model package",
        ),
    ],
)
def test_a_wrong_request_is_refused(
    cloud: Cloud, group: str, operation: str, request_: dict[str, Any], said: str
) -> None:
    request = {
        key: value.format(group=group) if isinstance(value, str) else value for key, value in request_.items()
    }
    with pytest.raises(ClientError, match=f"(?s)ValidationException.*{said}"):
        getattr(cloud.sagemaker, operation)(**request)


def test_regions_do_not_see_each_other(cloud: Cloud, group: str) -> None:
    with pytest.raises(ClientError, match="does not exist"):
        cloud.client("sagemaker", "eu-west-1").describe_model_package_group(ModelPackageGroupName=group)

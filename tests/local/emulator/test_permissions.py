from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.error import HTTPError

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sts.models import sts_backends

from include.local.emulator import permissions
from include.local.emulator.needs import Need
from tests.local.guarded import AIRFLOW, SAGEMAKER, Guarded, guarding
from tests.operators.conftest import LOADER


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarding(tmp_path_factory.mktemp("guarded")) as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def quick_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)


def client(guarded: Guarded, service: str, **keys: str) -> Any:
    config = Config(retries={"total_max_attempts": 1})
    return boto3.client(  # type: ignore[call-overload]
        service, endpoint_url=guarded.url, region_name="us-east-1", config=config, **keys
    )


def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


STRANGER = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "x"}


@pytest.mark.parametrize(
    ("service", "ask", "code"),
    [
        ("sagemaker", lambda it: it.list_models(), "UnrecognizedClientException"),
        ("s3", lambda it: it.list_objects_v2(Bucket="post-modern-stack"), "InvalidAccessKeyId"),
        ("sts", lambda it: it.get_caller_identity(), "InvalidClientTokenId"),
    ],
)
def test_a_key_that_nobody_has_is_refused_in_each_services_words(
    guarded: Guarded, service: str, ask: Any, code: str
) -> None:
    assert refused(lambda: ask(client(guarded, service, **STRANGER)))[0] == code


def test_a_session_ends(guarded: Guarded) -> None:
    keys = guarded.assume(AIRFLOW)
    client(guarded, "sts", **keys).get_caller_identity()
    session = sts_backends[DEFAULT_ACCOUNT_ID]["aws"].get_assumed_role_from_access_key(
        keys["aws_access_key_id"]
    )
    session.expiration = datetime.utcnow() - timedelta(seconds=1)
    assert refused(client(guarded, "sagemaker", **keys).list_models)[0] == "ExpiredTokenException"
    ask = client(guarded, "s3", **keys)
    assert refused(lambda: ask.list_objects_v2(Bucket="post-modern-stack"))[0] == "ExpiredToken"


def test_a_session_needs_its_own_token(guarded: Guarded) -> None:
    keys = guarded.assume(AIRFLOW) | {"aws_session_token": guarded.assume(AIRFLOW)["aws_session_token"]}
    assert refused(client(guarded, "sagemaker", **keys).list_models)[0] == "UnrecognizedClientException"


def test_a_request_without_a_signature_is_refused(guarded: Guarded) -> None:
    with pytest.raises(HTTPError) as caught:
        urllib.request.urlopen(f"{guarded.url}/post-modern-stack?list-type=2")
    assert caught.value.code == 400


def test_a_user_has_the_policies_of_the_user_and_its_groups(guarded: Guarded) -> None:
    iam = guarded.client("iam")
    iam.create_user(UserName="clerk")
    made = iam.create_access_key(UserName="clerk")["AccessKey"]
    keys = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
    code, said = refused(client(guarded, "sagemaker", **keys).list_models)
    assert code == "AccessDeniedException"
    assert said == (
        "User: arn:aws:iam::123456789012:user/clerk is not authorized to perform: sagemaker:ListModels on "
        "resource: * because no identity-based policy allows the sagemaker:ListModels action"
    )
    iam.create_group(GroupName="clerks")
    iam.add_user_to_group(GroupName="clerks", UserName="clerk")
    allow = {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "sagemaker:List*", "Resource": "*"},
    }
    iam.put_group_policy(GroupName="clerks", PolicyName="look", PolicyDocument=json.dumps(allow))
    client(guarded, "sagemaker", **keys).list_models()
    deny = {"Version": "2012-10-17", "Statement": [{**allow["Statement"], "Effect": "Deny"}]}
    iam.put_user_policy(UserName="clerk", PolicyName="but", PolicyDocument=json.dumps(deny))
    assert "explicit deny" in refused(client(guarded, "sagemaker", **keys).list_models)[1]


def test_services_that_take_forms_are_denied_too(guarded: Guarded) -> None:
    ask = client(guarded, "iam", **guarded.assume(AIRFLOW))
    code, said = refused(lambda: ask.create_user(UserName="more"))
    assert code == "AccessDenied" and "iam:CreateUser" in said
    ask = client(guarded, "sts", **guarded.assume(AIRFLOW))
    arn = "arn:aws:iam::123456789012:role/post-modern-stack-sagemaker"
    assert "sts:AssumeRole" in refused(lambda: ask.assume_role(RoleArn=arn, RoleSessionName="more"))[1]


def test_every_way_of_s3_is_held_against_the_key(guarded: Guarded) -> None:
    s3 = client(guarded, "s3", **guarded.assume(AIRFLOW))
    inside, outside = ({"Bucket": "post-modern-stack", "Key": key} for key in ("shop/models/x", "x"))
    guarded.client("s3").put_object(**outside, Body=b"x")
    s3.put_object(**inside, Body=b"x")
    assert s3.head_object(**inside)["ContentLength"] == 1
    upload = s3.create_multipart_upload(**inside)["UploadId"]
    s3.abort_multipart_upload(**inside, UploadId=upload)
    source = {"CopySource": {"Bucket": "post-modern-stack", "Key": "x"}}
    denied = [
        lambda: s3.get_object(**outside),
        lambda: s3.create_multipart_upload(**outside),
        lambda: s3.copy_object(**inside, **source),
        lambda: s3.delete_object(**outside),
        lambda: s3.delete_objects(
            Bucket="post-modern-stack", Delete={"Objects": [{"Key": "shop/models/x"}, {"Key": "x"}]}
        ),
        lambda: s3.put_bucket_policy(Bucket="post-modern-stack", Policy="{}"),
        s3.list_buckets,
    ]
    assert {refused(call)[0] for call in denied} == {"AccessDenied"}
    assert refused(lambda: s3.head_object(**outside))[0] == "403"
    assert s3.head_object(**inside)["ContentLength"] == 1


@pytest.mark.parametrize("role", [AIRFLOW, SAGEMAKER])
def test_a_role_may_list_the_projects_folder_and_nothing_beside_it(guarded: Guarded, role: str) -> None:
    s3 = client(guarded, "s3", **guarded.assume(role))
    for prefix in ("shop/", "shop/models/x"):
        s3.list_objects_v2(Bucket="post-modern-stack", Prefix=prefix)
    for beside in ({}, {"Prefix": ""}, {"Prefix": "shop"}, {"Prefix": "other/"}):
        code, said = refused(lambda: s3.list_objects_v2(Bucket="post-modern-stack", **beside))  # noqa: B023
        assert code == "AccessDenied" and "s3:ListBucket" in said
    assert refused(lambda: s3.head_bucket(Bucket="post-modern-stack"))[0] == "403"


POLICY = [
    {
        "Effect": "Allow",
        "Action": ["iam:PassRole"],
        "Resource": "arn:aws:iam::1:role/job-?",
        "Condition": {"StringEquals": {"iam:PassedToService": ["sagemaker.amazonaws.com"]}},
    },
    {
        "Effect": "Deny",
        "Action": "s3:*",
        "Resource": "*",
        "Condition": {"Bool": {"aws:SecureTransport": False}},
    },
    {"Effect": "Allow", "Action": "s3:Get*", "Resource": ["arn:aws:s3:::a/*", "arn:aws:s3:::b"]},
]
TO_SAGEMAKER = {"iam:PassedToService": "sagemaker.amazonaws.com"}


@pytest.mark.parametrize(
    ("need", "denied"),
    [
        (Need("iam:PassRole", "arn:aws:iam::1:role/job-1", TO_SAGEMAKER), ""),
        (Need("iam:PassRole", "arn:aws:iam::1:role/admin", TO_SAGEMAKER), "no identity-based"),
        (Need("iam:PassRole", "arn:aws:iam::1:role/job-1"), "no identity-based"),
        (
            Need("iam:PassRole", "arn:aws:iam::1:role/job-1", {"iam:PassedToService": "ec2"}),
            "no identity-based",
        ),
        (Need("s3:GetObject", "arn:aws:s3:::a/k"), ""),
        (Need("s3:GetObject", "arn:aws:s3:::a/k", {"aws:SecureTransport": "false"}), "explicit deny"),
        (Need("s3:GetObject", "arn:aws:s3:::a/k", {"aws:SecureTransport": "true"}), ""),
        (Need("s3:PutObject", "arn:aws:s3:::a/k"), "no identity-based"),
        (Need("s3:GetObject", "arn:aws:s3:::b/k"), "no identity-based"),
    ],
)
def test_a_statement_counts_where_its_conditions_hold(need: Need, denied: str) -> None:
    why = permissions._denied([POLICY], need)
    assert (denied in why) if denied else (why == "")


def test_a_condition_that_is_not_understood_is_not_passed_over() -> None:
    unknown = [{**POLICY[2], "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}]
    with pytest.raises(NotImplementedError, match="IpAddress"):
        permissions._denied([unknown], Need("s3:GetObject", "arn:aws:s3:::a/k"))

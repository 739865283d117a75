from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from include.contracts import BadInputError, SettingsError
from include.sagemaker.storage import ensure_bucket, object_exists, parse_s3_uri


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b/k/x.tar.gz", ("b", "k/x.tar.gz")),
        ("s3://b/k/", ("b", "k/")),
        ("s3://b", ("b", "")),
        ("s3://b/a#b", ("b", "a#b")),
    ],
)
def test_uri_is_split(uri: str, parts: tuple[str, str]) -> None:
    assert parse_s3_uri(uri) == parts


@pytest.mark.parametrize("uri", ["", "b/k", "https://b/k", "s3:///k", "s3://b/k?versionId=1"])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(BadInputError):
        parse_s3_uri(uri)


def test_object_is_found_once_it_is_there(s3: Any) -> None:
    assert ensure_bucket(s3, "shop", "a")
    assert not object_exists(s3, "s3://shop/a")
    s3.put_object(Bucket="shop", Key="a", Body=b"")
    assert object_exists(s3, "s3://shop/a")


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_bucket_is_made_once_in_the_clients_region(s3: Any, region: str) -> None:
    client: Any = boto3.client("s3", region, aws_access_key_id="x", aws_secret_access_key="x")
    assert ensure_bucket(client, "shop", "a")
    assert not ensure_bucket(client, "shop", "a")
    assert (client.get_bucket_location(Bucket="shop")["LocationConstraint"] or "us-east-1") == region


@pytest.mark.parametrize(
    ("look", "create"), [(("AccessDenied", 403), None), (("NoSuchBucket", 404), ("BucketAlreadyExists", 409))]
)
def test_bucket_of_somebody_else_is_a_setting_to_change(look: Any, create: Any) -> None:
    client: Any = boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        stub.add_client_error("list_objects_v2", *[look[0]], http_status_code=look[1])
        if create:
            stub.add_client_error("create_bucket", *[create[0]], http_status_code=create[1])
        with pytest.raises(SettingsError, match="PMS_BUCKET"):
            ensure_bucket(client, "shop", "a")

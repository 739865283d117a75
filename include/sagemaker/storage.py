"""The little of S3 that jobs and endpoints need besides the warehouse's own unload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from include.contracts import BadInputError, SettingsError
from include.sagemaker.errors import error_code, is_missing

_AT_A_TIME = 1000  # DeleteObjects' own limit


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Splits `s3://bucket/key` into bucket and key; the key may be empty or a prefix.

    Raises:
        BadInputError: It is not an S3 URI.
    """
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc or parts.query:
        raise BadInputError(f"{uri!r} is not an address like s3://bucket/key.")
    return parts.netloc, parts.path.removeprefix("/")


def object_exists(s3: Any, uri: str) -> bool:
    """Tells whether an object stands at a URI.

    Args:
        s3: boto3 S3 client.
        uri: `s3://bucket/key`.

    Raises:
        ClientError: S3 refused to say.
    """
    bucket, key = parse_s3_uri(uri)
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if is_missing(error):
            return False
        raise
    return True


def delete_objects(s3: Any, bucket: str, keys: Sequence[str]) -> None:
    """Deletes objects; one that is not there is no fault.

    Args:
        s3: boto3 S3 client.
        bucket: Name of the bucket.
        keys: Any number of keys.

    Raises:
        ClientError: S3 did not delete one of them; the answer to the request as a whole does not say so.
    """
    for start in range(0, len(keys), _AT_A_TIME):
        objects = [{"Key": key} for key in keys[start : start + _AT_A_TIME]]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        for refused in answer.get("Errors", []):
            said = f"s3://{bucket}/{refused['Key']}: {refused.get('Message', '')}"
            raise ClientError({"Error": {"Code": refused["Code"], "Message": said}}, "DeleteObjects")


def ensure_bucket(s3: Any, bucket: str, prefix: str) -> bool:
    """Creates a bucket in the client's region unless it exists; safe to repeat.

    Args:
        s3: boto3 S3 client.
        bucket: Name of the bucket.
        prefix: The project's prefix in it.

    Returns:
        Whether it was created by this call.

    Raises:
        SettingsError: The name belongs to somebody else, or may not be looked at.
        ClientError: S3 refused to create it.
    """
    folder = f"{prefix.strip('/')}/".removeprefix("/")
    try:
        # Not HeadBucket: that is refused to a role which may list its own folder only.
        s3.list_objects_v2(Bucket=bucket, Prefix=folder, MaxKeys=1)
        return False
    except ClientError as error:
        if error_code(error) in {"403", "AccessDenied"}:
            raise SettingsError(
                f"Bucket {bucket!r} exists but this AWS connection may not use it: "
                "choose another PMS_BUCKET, or let it list the folder PMS_PREFIX."
            ) from error
        if not is_missing(error):
            raise
    request: dict[str, Any] = {"Bucket": bucket}
    # us-east-1 is the one region that refuses to be named as a constraint.
    if s3.meta.region_name not in (None, "us-east-1", "aws-global"):
        request["CreateBucketConfiguration"] = {"LocationConstraint": s3.meta.region_name}
    try:
        s3.create_bucket(**request)
    except ClientError as error:
        if error_code(error) == "BucketAlreadyOwnedByYou":
            return False
        if error_code(error) == "BucketAlreadyExists":
            raise SettingsError(
                f"Bucket {bucket!r} belongs to another account: choose another PMS_BUCKET."
            ) from error
        raise
    return True

"""The emulator's own client of its S3 and CloudWatch Logs, and what jobs and endpoints do with S3."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

ACCESS_KEY = "emulator"
SECRET_KEY = "emulator"  # moto asks for a signature and checks none


class MissingObjectError(Exception):
    """There is nothing in S3 at that address."""

    def __init__(self, uri: str) -> None:
        super().__init__(f'there is nothing in S3 at "{uri}"')


@lru_cache(maxsize=16)
def client(service: str, url: str, region: str) -> Any:
    """Returns a boto3 client of the emulator that nothing in this machine's AWS set-up can divert.

    Made once, as making one costs a third of a second; boto3 clients may be shared by threads.

    Args:
        service: `s3` or `logs`.
        url: Address of the emulator.
        region: Region of the caller.
    """
    nowhere = (None, None, os.devnull, None)
    session = botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": nowhere,
            "credentials_file": nowhere,
        }
    )
    return boto3.Session(botocore_session=session, region_name=region).client(
        service,  # type: ignore[call-overload]
        endpoint_url=url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(proxies={}, s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}),
    )


def split_uri(uri: str) -> tuple[str, str]:
    """Returns bucket and key of an `s3://` address.

    Raises:
        ValueError: It is not one.
    """
    match = re.fullmatch(r"s3://([^/]+)/?(.*)", uri, re.DOTALL)
    if match is None:
        raise ValueError(f"{uri!r} is not an s3:// address")
    return match[1], match[2]


def join_uri(prefix: str, *parts: str) -> str:
    """Returns the address of a key below a prefix."""
    return "/".join([prefix.rstrip("/"), *parts])


def exists(s3: Any, uri: str) -> bool:
    """Tells whether there is an object at the address."""
    bucket, key = split_uri(uri)
    if not key:
        return False
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def has_objects(s3: Any, uri: str) -> bool:
    """Tells whether any key starts with the address."""
    bucket, prefix = split_uri(uri)
    try:
        return bool(s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"))
    except s3.exceptions.NoSuchBucket:
        return False


def download(s3: Any, uri: str, target: Path) -> None:
    """Fetches one object.

    Raises:
        MissingObjectError: There is none.
    """
    bucket, key = split_uri(uri)
    if not exists(s3, uri):
        raise MissingObjectError(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file(bucket, key, str(target))


def download_prefix(s3: Any, uri: str, folder: Path) -> int:
    """Fetches every object whose key starts with a prefix, as SageMaker's `S3Prefix` channels do.

    Args:
        s3: Client.
        uri: `s3://bucket/prefix`; a file is named by what follows the prefix in its key.
        folder: Where they go.

    Returns:
        Number of files.

    Raises:
        MissingObjectError: No key starts with it, or the bucket is missing.
        ValueError: A key would land outside the folder.
    """
    bucket, prefix = split_uri(uri)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                if item["Key"].endswith("/"):  # a folder's place-holder
                    continue
                target = _below(folder, _relative(item["Key"], prefix))
                target.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, item["Key"], str(target))
                count += 1
    except s3.exceptions.NoSuchBucket as error:
        raise MissingObjectError(uri) from error
    if not count:
        raise MissingObjectError(uri)
    return count


def upload(s3: Any, source: Path, uri: str) -> None:
    """Stores one file."""
    bucket, key = split_uri(uri)
    s3.upload_file(str(source), bucket, key)


def _relative(key: str, prefix: str) -> str:
    rest = key.removeprefix(prefix)
    if prefix == "" or prefix.endswith("/") or rest.startswith("/"):
        return rest.lstrip("/")
    # The prefix ends inside a name: `data/part` matches `data/part-1.csv`, which keeps its name.
    return key[prefix.rfind("/") + 1 :]


def _below(folder: Path, relative: str) -> Path:
    parts = PurePosixPath(relative).parts
    if not parts or ".." in parts or PurePosixPath(relative).is_absolute() or "\0" in relative:
        raise ValueError(f"the key part {relative!r} is no path inside a folder")
    return folder.joinpath(*parts)

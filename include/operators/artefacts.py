"""Fetches what training jobs left on S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook

from include.contracts import BadInputError
from include.sagemaker.storage import parse_s3_uri

MAX_ARCHIVE_BYTES = 2 << 30


def fetch_archive(hook: S3Hook, uri: str, folder: Path, unpack: Callable[[Path, Path], None]) -> int:
    """Downloads an archive and unpacks it.

    Args:
        hook: Of the AWS connection.
        uri: `s3://…/….tar.gz`.
        folder: Is created and receives the content.
        unpack: Unpacks an archive into a folder.

    Returns:
        The archive's size in bytes.

    Raises:
        BadInputError: It does not exist, is too large, or cannot be unpacked.
        ClientError: S3 refused, or did not answer.
    """
    bucket, key = parse_s3_uri(uri)
    head = hook.head_object(key, bucket)
    if head is None:
        raise BadInputError(f"{uri} does not exist: what the training job left was deleted.")
    size = int(head["ContentLength"])
    if size > MAX_ARCHIVE_BYTES:
        raise BadInputError(f"{uri} is too large: {size >> 20} MB.")
    archive = folder.with_name(f"{folder.name}.tar.gz")
    client: Any = hook.get_conn()
    client.download_file(bucket, key, str(archive))
    folder.mkdir()
    unpack(archive, folder)
    archive.unlink()
    return size

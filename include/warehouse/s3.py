"""Reads a folder's files straight from S3, a part at a time and never a copy on disk."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Collection
from typing import Any, BinaryIO, cast

from botocore.exceptions import BotoCoreError, ClientError

from include.contracts import BadInputError
from include.sagemaker.errors import error_code, is_missing, is_permanent
from include.sagemaker.storage import parse_s3_uri

_FIRST_PART_BYTES = 1 << 20
_PART_BYTES = 16 << 20
_ATTEMPTS = 5
_CHANGED = {"PreconditionFailed", "412"}


class S3Folder:
    """The objects directly under a prefix.

    Args:
        uri: `s3://bucket/prefix`, with or without a slash at its end.
        s3: boto3 client.
    """

    def __init__(self, uri: str, s3: Any) -> None:
        self._uri = uri
        self._s3 = s3
        self._bucket, prefix = parse_s3_uri(uri)
        self._prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        self._objects: dict[str, dict[str, Any]] = {}

    def names(self) -> Collection[str]:
        """As `Folder`.

        Raises:
            BadInputError: The bucket is missing, or nothing is under the prefix.
            ClientError: S3 refused.
        """
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
        )
        try:
            found = [entry for page in pages for entry in page.get("Contents", ())]
        except ClientError as error:
            if is_missing(error):
                raise BadInputError(f"There is no bucket {self._bucket!r}: check the source.") from error
            raise
        if not found:
            raise BadInputError(f"There is nothing under {self._uri}: check the source.")
        self._objects = {entry["Key"].removeprefix(self._prefix): entry for entry in found}
        return self._objects.keys()

    def file(self, name: str) -> S3File:
        """As `Folder`; the object is pinned to the state in which it was listed."""
        entry = self._objects[name]
        return S3File(self._s3, self._bucket, entry["Key"], entry["ETag"], entry["Size"])


class S3File:
    """An object in one state: every read names the ETag, and fails once it is another."""

    def __init__(self, s3: Any, bucket: str, key: str, etag: str, size: int) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self._etag = etag
        self.size = size

    @property
    def name(self) -> str:
        """As `Stored`."""
        return self._key.rpartition("/")[2]

    def identity(self) -> str:
        """Hash of ETag and size, so that no byte is fetched twice.

        The same content uploaded in other parts has another ETag: it lands again, and the transform
        drops the duplicates.
        """
        return hashlib.sha256(f"{self._etag} {self.size}".encode()).hexdigest()

    def open(self) -> BinaryIO:
        """As `Stored`."""
        return cast(BinaryIO, io.BufferedReader(_S3Stream(self)))

    def refuse_if_changed(self) -> None:
        """Nothing to do: S3 itself refuses to send any other state."""

    def fetch(self, start: int, size: int) -> bytes:
        """Fetches some bytes; a broken connection is tried again a few times.

        Raises:
            BadInputError: The object changed or is gone.
            BotoCoreError: The connection stays broken; a later try of the load goes on from here.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = self._s3.get_object(
                    Bucket=self._bucket,
                    Key=self._key,
                    Range=f"bytes={start}-{start + size - 1}",
                    IfMatch=self._etag,
                )
                return cast(bytes, answer["Body"].read())
            except ClientError as error:
                if error_code(error) in _CHANGED or is_missing(error):
                    raise BadInputError(
                        f"s3://{self._bucket}/{self._key} changed while it was being read. Nothing was "
                        "landed; load it again once it is complete."
                    ) from error
                raise
            except BotoCoreError as error:
                if attempt == _ATTEMPTS or is_permanent(error):
                    raise
                time.sleep(2.0 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")


class _S3Stream(io.RawIOBase):
    """A seekable stream that holds one part; small at first, for whoever wants the header alone."""

    def __init__(self, file: S3File) -> None:
        self._file = file
        self._position = 0
        self._part = memoryview(b"")
        self._part_bytes = _FIRST_PART_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        self._part = memoryview(b"")
        return self._position

    def readinto(self, buffer: Any) -> int:
        if not self._part:
            size = min(self._part_bytes, self._file.size - self._position)
            if size <= 0:
                return 0
            self._part = memoryview(self._file.fetch(self._position, size))
            self._part_bytes = min(2 * self._part_bytes, _PART_BYTES)
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        self._position += count
        return count

"""moto's S3 on disk: each object's bytes in a file that is served from where it lies.

A bucket is a folder with a file of its settings, a file per key (its versions, metadata and tags) and a file
per version's bytes. A key's file is replaced last, whole, and before the client has its answer.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import pickle
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import FakeBucket, FakeKey, S3Backend, s3_backends

from include.local.emulator.machine.persistence import read_or_set_aside, remove_drafts, write_whole
from include.local.emulator.moto.key_records import FileValue, dumps, loads

_COPY_BYTES = 1024**2
_NOT_SETTINGS = ("keys", "multiparts")
log = logging.getLogger(__name__)


class Buckets:
    """The buckets of moto's S3, written through to a folder.

    Args:
        folder: Holds a folder for each bucket.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Of each key on disk, its versions' ids and the files of their bytes.
        self._told: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._settings: dict[str, bytes] = {}
        self._locks = [threading.RLock() for _ in range(64)]
        self._settings_lock = threading.Lock()

    def load(self) -> None:
        """Makes moto's S3 what the folder holds, and removes what no key speaks of."""
        found = {}
        for place in sorted(self._folder.glob("*/")):
            remove_drafts(place)
            remove_drafts(place / "keys")
            if (kept := _read_settings(place)) is not None:
                found[kept["name"]] = kept
        for bucket, backend in list(_all_buckets()):
            if bucket.name not in found:  # made by a stack, and deleted since
                del backend.buckets[bucket.name]
                s3_backends.bucket_accounts.pop(bucket.name, None)
        for name, kept in sorted(found.items(), key=lambda item: item[1]["created"]):
            self._load_bucket(name, kept)
        self.settings_written()

    @contextlib.contextmanager
    def held(self, keys: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Keeps keys (bucket and name) from other threads: moto itself lets two of them write one at once."""
        numbers = {hash(key) % len(self._locks) for key in keys}
        with contextlib.ExitStack() as stack:
            for number in sorted(numbers):  # in one order, or two threads could wait for each other
                stack.enter_context(self._locks[number])
            yield

    def written(self, bucket: str, key: str) -> None:
        """Brings a key's files to what moto has: to be called after each change, before it is told."""
        with self.held([(bucket, key)]):
            self._write_key(bucket, key)

    def bucket_written(self, bucket: str) -> None:
        """Brings all keys of a bucket to what moto has, where it is not known which were changed."""
        found = _find(bucket)
        now = {} if found is None else {key: _told(versions) for key, versions in found.keys.lists()}
        before = {key: told for (name, key), told in list(self._told.items()) if name == bucket}
        for key in now.keys() | before.keys():
            if now.get(key) != before.get(key):
                self.written(bucket, key)

    def settings_written(self) -> None:
        """Brings every bucket's settings to what moto has, and removes deleted buckets."""
        with self._settings_lock:
            here = {bucket.name: (bucket, backend) for bucket, backend in _all_buckets()}
            for name, (bucket, backend) in here.items():
                content = _settings(bucket, backend.tagger.tags.get(bucket.arn, {}))
                if self._settings.get(name) != content:
                    write_whole(self._place(name) / "bucket", content)
                    self._settings[name] = content
            for name in self._settings.keys() - here.keys():
                # Its settings first: without them it is no bucket, whatever else is left.
                (self._place(name) / "bucket").unlink(missing_ok=True)
                shutil.rmtree(self._place(name), ignore_errors=True)
                del self._settings[name]

    def _load_bucket(self, name: str, kept: dict[str, Any]) -> None:
        backend = s3_backends[kept["account"]][kept["partition"]]
        # The object that a stack may hold stays the one that moto has.
        bucket = backend.buckets.get(name)
        if bucket is None:
            backend.create_bucket(name, kept["region"])
            bucket = backend.buckets[name]
        vars(bucket).update(kept["state"])
        bucket.keys.clear()
        backend.buckets[name] = bucket
        if kept["tags"]:
            backend.tagger.tags[bucket.arn] = kept["tags"]
        for path in sorted((self._place(name) / "keys").glob("*")):
            if path.suffix == "":
                read_or_set_aside(path, lambda content: self._load_key(backend, bucket, content))
        if any((self._place(name) / "keys").glob("*.corrupt")):
            return  # whose bytes are any file's that no other key speaks of
        used = {file for (owner, _), told in self._told.items() if owner == name for _, file in told}
        for path in (self._place(name) / "data").glob("*"):
            if path.name not in used:  # of a write that was not finished
                path.unlink()

    def _load_key(self, backend: S3Backend, bucket: FakeBucket, content: bytes) -> bool:
        data = self._place(bucket.name) / "data"
        name, versions, tags = loads(content, data)
        told = _told(versions)
        for _, file in told:
            if file and not (data / file).is_file():
                raise FileNotFoundError(f"the bytes of {name!r} are missing")
        bucket.keys.setlist(name, versions)
        backend.tagger.tags.update(tags)
        self._told[bucket.name, name] = told
        return True

    def _write_key(self, bucket_name: str, key: str) -> None:
        bucket = _find(bucket_name)
        versions = list(bucket.keys.getlist(key, [])) if bucket is not None else []
        place = self._place(bucket_name)
        record = place / "keys" / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        before = self._told.get((bucket_name, key), [])
        now: list[tuple[str, str]] = []
        if bucket is None or not versions:
            record.unlink(missing_ok=True)
            self._told.pop((bucket_name, key), None)
        else:
            for version in versions:
                if isinstance(version, FakeKey):
                    _move_to_file(version, place / "data")
            now = _told(versions)
            tagger = s3_backends[bucket.account_id][bucket.partition].tagger
            arns = [version.arn for version in versions if isinstance(version, FakeKey)]
            tags = {arn: dict(tagger.tags[arn]) for arn in arns if arn in tagger.tags}
            write_whole(record, dumps(key, versions, tags))
            self._told[bucket_name, key] = now
        for _, file in set(before) - set(now):
            if file:
                (place / "data" / file).unlink(missing_ok=True)

    def _place(self, bucket: str) -> Path:
        return self._folder / quote(bucket, safe="")


def _settings(bucket: FakeBucket, tags: dict[str, str | None]) -> bytes:
    """Returns a bucket's file: what names it and, apart, its settings, which are moto's own objects."""
    state = {k: v for k, v in vars(bucket).items() if k not in _NOT_SETTINGS}
    told = {
        "name": bucket.name,
        "account": bucket.account_id,
        "partition": bucket.partition,
        "region": bucket.region_name,
        "created": bucket.creation_date.isoformat(),
        "tags": tags,
        "settings": base64.b64encode(pickle.dumps(state)).decode(),
    }
    return json.dumps(told).encode()


def _read_settings(place: Path) -> dict[str, Any] | None:
    """Returns what a bucket's file tells, with the defaults for what cannot be read; None: it has none."""
    path = place / "bucket"
    kept: dict[str, Any] | None = read_or_set_aside(path, json.loads) if path.exists() else None
    if kept is None:
        if not path.with_name("bucket.corrupt").exists():
            return None
        kept = {"name": unquote(place.name), "account": DEFAULT_ACCOUNT_ID, "partition": "aws", "tags": {}}
        return {**kept, "region": "us-east-1", "created": "", "state": {}}
    try:
        kept["state"] = pickle.loads(base64.b64decode(kept["settings"]))
    except Exception as error:
        log.error("%s: its settings cannot be read (%s): they are the defaults now", path, error)
        shutil.copyfile(path, path.with_name("bucket.corrupt"))
        kept["state"] = {}
    return kept


def _move_to_file(key: FakeKey, folder: Path) -> None:
    """Writes a key's bytes to a file of their own and has moto read them from there."""
    with key.lock:
        source = key._value_buffer
        if isinstance(source, FileValue):
            return
        path = folder / uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        source.seek(0)
        with path.open("wb") as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)
        key._value_buffer = FileValue(path, 0, key.contentsize)  # type: ignore[assignment]
        source.close()
    _move_parts(key, path)


def _move_parts(key: FakeKey, path: Path) -> None:
    """Has the parts of a multipart upload read from their place in the whole object."""
    if key.multipart is None:
        return
    parts = [key.multipart.parts[number] for number in key.multipart.partlist]
    own = not any(isinstance(part._value_buffer, FileValue) for part in parts)
    if not own or sum(part.contentsize for part in parts) != key.contentsize:
        # A copy, which has no parts; or parts that were sent and not used.
        key.multipart = None
        return
    start = 0
    for part in parts:
        with part.lock, contextlib.closing(part._value_buffer):
            part._value_buffer = FileValue(path, start, part.contentsize)  # type: ignore[assignment]
        start += part.contentsize


def _told(versions: list[Any]) -> list[tuple[str, str]]:
    """Returns each version's id and the file of its bytes; a delete marker has none."""
    values = [(str(version.version_id), getattr(version, "_value_buffer", None)) for version in versions]
    return [(each, value.path.name if isinstance(value, FileValue) else "") for each, value in values]


def _find(bucket: str) -> FakeBucket | None:
    if bucket not in s3_backends.bucket_accounts:
        return None
    partition, account = s3_backends.bucket_accounts[bucket]
    return s3_backends[account][partition].buckets.get(bucket)


def _all_buckets() -> Iterator[tuple[FakeBucket, S3Backend]]:
    for account in list(s3_backends.values()):
        for backend in list(account.values()):
            for bucket in list(backend.buckets.values()):
                yield bucket, backend

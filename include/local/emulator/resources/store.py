"""What every SageMaker resource has: a name, an ARN, tags, a place in a list."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from moto.core.models import DEFAULT_ACCOUNT_ID

from include.local.emulator.machine.persistence import LIVE, Disk, StateLock, from_json, to_json
from include.local.emulator.wire.errors import AwsError, validation_error

ACCOUNT_ID: str = DEFAULT_ACCOUNT_ID
_PAGE = 100


def now() -> datetime:
    """Returns the time, in UTC."""
    return datetime.now(UTC)


@dataclass
class Resource:
    """One named thing. Its fields outlive the emulator, but for those with `metadata=LIVE`.

    Attributes:
        kind: Its part of the ARN.
        label: What AWS calls it in error messages.
        request: The request that created it.
        tags: Key to value.
        lock: Guards its fields. Whoever changes one holds it: what was changed is written as it is let go.
    """

    kind: ClassVar[str]
    label: ClassVar[str]
    kinds: ClassVar[dict[str, type[Resource]]] = {}

    name: str
    region: str
    request: dict[str, Any]
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)
    tags: dict[str, str] = field(default_factory=dict)
    lock: StateLock = field(
        default_factory=StateLock, init=False, repr=False, compare=False, kw_only=True, metadata=LIVE
    )

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Resource.kinds[cls.kind] = cls

    def __post_init__(self) -> None:
        self.tags.update({tag["Key"]: tag["Value"] for tag in self.request.get("Tags", [])})

    def to_state(self) -> dict[str, Any]:
        """Returns what is kept of it on disk, in JSON types."""
        kept = [each.name for each in fields(self) if not each.metadata.get("live")]
        return {name: to_json(getattr(self, name)) for name in kept}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Returns the resource that `to_state` told of.

        Fields that an older version did not know have their defaults.
        """
        known = {each.name for each in fields(cls) if each.init}
        decoded = {name: from_json(value, _of_kind) for name, value in state.items() if name in known}
        tags = decoded.pop("tags")
        item = cls(**decoded)
        item.tags = tags  # those of the request may be deleted since
        return item

    @property
    def arn(self) -> str:
        """Amazon resource name."""
        return f"arn:aws:sagemaker:{self.region}:{ACCOUNT_ID}:{self.kind}/{self.name}"

    @property
    def state(self) -> str | None:
        """Status, where the kind has one."""
        return None


def _of_kind(kind: str, state: dict[str, Any]) -> Resource:
    return Resource.kinds[kind].from_state(state)


R = TypeVar("R", bound=Resource)
T = TypeVar("T")


class Store(Generic[R]):
    """The resources of one kind, by region and name. Safe for threads.

    Args:
        kind: Class of the resources.
        folder: Holds the files of every kind; what lies there is found again. None: kept in memory only.
    """

    def __init__(self, kind: type[R], folder: Path | None = None) -> None:
        self._kind = kind
        self._disk = None if folder is None else Disk(folder / kind.kind)
        self._items: dict[tuple[str, str], R] = {}
        self._lock = threading.RLock()
        for item in self._disk.load(kind.from_state) if self._disk else ():
            self._items[item.region, item.name] = item
            self._attach(item)

    def __iter__(self) -> Iterator[R]:
        with self._lock:
            return iter(list(self._items.values()))

    def add(self, item: R) -> None:
        """Keeps a new resource.

        Raises:
            AwsError: There is one of that name.
        """
        with self._lock:
            if (item.region, item.name) in self._items:
                raise self.already_exists(item)
            self._attach(item)
            with item.lock:
                pass  # written before anybody can find it
            self._items[item.region, item.name] = item

    def already_exists(self, item: R) -> AwsError:
        """Returns the error of a second resource with the same name."""
        return validation_error(f'Cannot create already existing {self._kind.label} "{item.arn}".')

    def not_found(self, region: str, name: str) -> AwsError:
        """Returns the error of an unknown name."""
        arn = self._kind(name, region, {}).arn
        return validation_error(f'Could not find {self._kind.label} "{arn}".')

    def get(self, region: str, name: str) -> R:
        """Returns the resource.

        Raises:
            AwsError: There is none of that name.
        """
        with self._lock:
            item = self._items.get((region, name))
        if item is None:
            raise self.not_found(region, name)
        return item

    def remove(self, region: str, name: str) -> R:
        """Forgets the resource and returns it.

        Raises:
            AwsError: There is none of that name.
        """
        item = self.get(region, name)
        with item.lock, self._lock:
            if self._items.get((region, name)) is not item:  # somebody else was faster
                raise self.not_found(region, name)
            del self._items[region, name]
            item.lock.write = None  # or a thread that still has it would write it anew
            if self._disk is not None:
                self._disk.remove(region, name)
        return item

    def freeze(self) -> None:
        """Writes no more: what the emulator's own end does to a resource is not what happened to it."""
        for item in self:
            with item.lock:
                item.lock.write = None

    def _attach(self, item: R) -> None:
        """Has every change of a resource written."""
        if (disk := self._disk) is None:
            return
        written = ""

        def write() -> None:
            nonlocal written
            if (text := json.dumps(item.to_state(), allow_nan=False)) != written:
                disk.write(item.region, item.name, text)
                written = text

        item.lock.write = write

    def page(
        self,
        region: str,
        request: dict[str, Any],
        member: str,
        summary: Callable[[R], dict[str, Any]],
        wanted: Callable[[R], bool] = lambda item: True,
    ) -> dict[str, Any]:
        """Answers a List operation: filters, sorts and cuts it into pages.

        Args:
            region: Region of the caller.
            request: `NameContains`, `StatusEquals`, `CreationTimeAfter` … as SageMaker has them.
            member: Name of the answer's list.
            summary: Makes an entry of it.
            wanted: Filter of the operation's own.
        """
        found = [item for item in self if item.region == region and _matches(item, request) and wanted(item)]
        found.sort(key=_sort_key(request.get("SortBy")), reverse=request.get("SortOrder") == "Descending")
        return page_of(found, request, member, summary)


def page_of(
    found: Sequence[T], request: dict[str, Any], member: str, summary: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """Returns the page of a List operation that its request asks for; arguments as those of `Store.page`."""
    start = _offset(request.get("NextToken"))
    stop = start + int(request.get("MaxResults", _PAGE))
    answer: dict[str, Any] = {member: [summary(item) for item in found[start:stop]]}
    if stop < len(found):
        answer["NextToken"] = str(stop)
    return answer


def find_by_arn(stores: Iterable[Iterable[Resource]], arn: str) -> Resource | None:
    """Returns the resource with that ARN, None where none of the stores has it."""
    return next((item for store in stores for item in store if item.arn == arn), None)


def _matches(item: Resource, request: dict[str, Any]) -> bool:
    limits = (
        ("CreationTimeAfter", item.created, 1),
        ("CreationTimeBefore", item.created, -1),
        ("LastModifiedTimeAfter", item.modified, 1),
        ("LastModifiedTimeBefore", item.modified, -1),
    )
    in_time = all(
        sign * (moment.timestamp() - _epoch(request[name])) > 0
        for name, moment, sign in limits
        if name in request
    )
    named = request.get("NameContains", "").lower() in item.name.lower()
    return in_time and named and request.get("StatusEquals", item.state) == item.state


def _epoch(value: float | str) -> float:
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(value)


def _sort_key(sort_by: str | None) -> Callable[[Resource], Any]:
    if sort_by == "Name":
        return lambda item: item.name
    if sort_by == "Status":
        return lambda item: (item.state, item.created)
    return lambda item: item.created


def _offset(token: str | None) -> int:
    if token is None:
        return 0
    if not (token.isascii() and token.isdigit()):
        raise validation_error("Invalid pagination token.")
    return int(token)

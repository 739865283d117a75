"""What every SageMaker resource has: a name, an ARN, tags, a place in a list."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

from moto.core.models import DEFAULT_ACCOUNT_ID

from include.local.emulator.errors import AwsError, validation_error

ACCOUNT_ID: str = DEFAULT_ACCOUNT_ID
_PAGE = 100


def now() -> datetime:
    """Returns the time, in UTC."""
    return datetime.now(UTC)


@dataclass
class Resource:
    """One named thing.

    Attributes:
        kind: Its part of the ARN.
        label: What AWS calls it in error messages.
        request: The request that created it.
        tags: Key to value.
    """

    kind: ClassVar[str]
    label: ClassVar[str]

    name: str
    region: str
    request: dict[str, Any]
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tags.update({tag["Key"]: tag["Value"] for tag in self.request.get("Tags", [])})

    @property
    def arn(self) -> str:
        """Amazon resource name."""
        return f"arn:aws:sagemaker:{self.region}:{ACCOUNT_ID}:{self.kind}/{self.name}"

    @property
    def state(self) -> str | None:
        """Status, where the kind has one."""
        return None


R = TypeVar("R", bound=Resource)
T = TypeVar("T")


class Store(Generic[R]):
    """The resources of one kind, by region and name. Safe for threads."""

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._items: dict[tuple[str, str], R] = {}
        self._lock = threading.RLock()

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
        with self._lock:
            item = self.get(region, name)
            return self._items.pop((item.region, item.name))

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

"""Holds requests and answers against botocore's own model of SageMaker.

botocore's client checks only presence, type and range before it sends; patterns and enumerations it leaves to
the service, so a fake that does not check them lets a request pass that AWS refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from include.local.emulator.wire.errors import AwsError, validation_error

# Java's property classes, as near as Python's `re` has them; slightly wider, never narrower.
_JAVA_CLASSES = {
    r"\p{L}": r"\w",
    r"\p{M}": "\u0300-\u036f",
    r"\p{N}": r"\d",
    r"\p{Z}": r"\s",
    r"\p{S}": "$+<=>^`|~\u00a2-\u00b8\u2000-\u2bff\U0001f000-\U0001faff",
    r"\p{P}": r"!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u205e\u3000-\u303f",
    r"\p{Alnum}": "a-zA-Z0-9",
    # A surrogate pair is one character in Python.
    r"\uD800\uDC00-\uDBFF\uDFFF": "\U00010000-\U0010ffff",
    # A typing error of the model: a count on the end-of-text mark of something already repeated.
    "]*)${": "]){",
}


@lru_cache(maxsize=1)
def service_model() -> ServiceModel:
    """Returns botocore's description of SageMaker."""
    return botocore.session.get_session().get_service_model("sagemaker")


def operation(name: str) -> OperationModel:
    """Returns the description of one operation.

    Raises:
        AwsError: `UnknownOperationException`, SageMaker has no such operation.
    """
    if name not in service_model().operation_names:
        raise AwsError("UnknownOperationException", f"The operation {name or '(none)'} does not exist.")
    return service_model().operation_model(name)


def check_request(name: str, request: object) -> dict[str, Any]:
    """Returns the request without nulls, which AWS takes as absent.

    Raises:
        AwsError: `UnknownOperationException` or `ValidationException`, which lists every violation.
    """
    shape = operation(name).input_shape
    if not isinstance(request, dict):
        raise AwsError("SerializationException", "The request is not a JSON object.")
    cleaned: dict[str, Any] = _without_nulls(request)
    found = list(violations(shape, cleaned)) if shape is not None else []
    if found:
        errors = "error" if len(found) == 1 else "errors"
        raise validation_error(f"{len(found)} validation {errors} detected: " + "; ".join(found))
    return cleaned


def pick(shape: StructureShape, source: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those members of `source` that the shape has, for answers that echo their request."""
    return {name: source[name] for name in shape.members if source.get(name) is not None}


def to_wire(value: Any) -> Any:
    """Returns the value as the JSON protocol writes it: times as epoch seconds."""
    if isinstance(value, datetime):
        return round(value.timestamp(), 3)
    if isinstance(value, dict):
        return {key: to_wire(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_wire(item) for item in value]
    return value


def violations(shape: Shape, value: Any, path: str = "", *, closed: bool = False) -> Iterator[str]:
    """Yields a sentence for each way in which a JSON value does not fit a shape.

    Args:
        shape: The shape to hold it against.
        value: The decoded JSON value.
        path: Where the value stands, for the sentence.
        closed: Whether members that the shape does not have are violations (the service ignores them in
            requests, and never sends them in answers).
    """
    check = _CHECKS.get(shape.type_name)
    if check is None:
        return
    if not isinstance(value, _TYPES[shape.type_name]) or (
        isinstance(value, bool) and shape.type_name != "boolean"
    ):
        yield f"Value at '{path}' failed to satisfy constraint: Member must be of type {shape.type_name}"
        return
    yield from check(shape, value, path, closed)


def _structure(shape: Shape, value: Any, path: str, closed: bool) -> Iterator[str]:
    assert isinstance(shape, StructureShape)
    for name in shape.required_members:
        if name not in value:
            yield f"Value null at '{_join(path, name)}' failed to satisfy constraint: Member must not be null"
    for name, item in value.items():
        if name in shape.members:
            yield from violations(shape.members[name], item, _join(path, name), closed=closed)
        elif closed:
            yield f"'{_join(path, name)}' is not a member of {shape.name}"
    if shape.is_tagged_union and len(value) != 1:
        yield f"Value at '{path}' failed to satisfy constraint: Exactly one member must be set"


def _list(shape: Shape, value: Any, path: str, closed: bool) -> Iterator[str]:
    assert isinstance(shape, ListShape)
    yield from _size(shape, len(value), value, path)
    for index, item in enumerate(value):
        yield from violations(shape.member, item, f"{path}.{index + 1}.member", closed=closed)


def _map(shape: Shape, value: Any, path: str, closed: bool) -> Iterator[str]:
    assert isinstance(shape, MapShape)
    yield from _size(shape, len(value), value, path)
    for key, item in value.items():
        yield from violations(shape.key, key, f"{path}.key", closed=closed)
        yield from violations(shape.value, item, f"{path}.{key}", closed=closed)


def _string(shape: Shape, value: Any, path: str, closed: bool) -> Iterator[str]:
    yield from _size(shape, len(value), value, path)
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        yield _sentence(value, path, f"Member must satisfy enum value set: [{', '.join(allowed)}]")
    pattern = shape.metadata.get("pattern")
    if pattern and not java_pattern(pattern).fullmatch(value):
        yield _sentence(value, path, f"Member must satisfy regular expression pattern: {pattern}")


def _number(shape: Shape, value: Any, path: str, closed: bool) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and value < low:
        yield _sentence(value, path, f"Member must have value greater than or equal to {low}")
    if high is not None and value > high:
        yield _sentence(value, path, f"Member must have value less than or equal to {high}")


def _anything(shape: Shape, value: Any, path: str, closed: bool) -> Iterator[str]:
    return iter(())


def _size(shape: Shape, size: int, value: Any, path: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield _sentence(value, path, f"Member must have length greater than or equal to {low}")
    if high is not None and size > high:
        yield _sentence(value, path, f"Member must have length less than or equal to {high}")


def _sentence(value: Any, path: str, constraint: str) -> str:
    shown = str(value)
    shown = shown if len(shown) <= 200 else shown[:200] + "…"
    return f"Value '{shown}' at '{path}' failed to satisfy constraint: {constraint}"


def _join(path: str, member: str) -> str:
    name = member[:1].lower() + member[1:]
    return f"{path}.{name}" if path else name


@lru_cache(maxsize=1024)
def java_pattern(pattern: str) -> re.Pattern[str]:
    """Returns a Java pattern of the service model as a Python one.

    Raises:
        re.error: It uses a construct that neither Python nor the table above knows.
    """
    for java, python in _JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value


_CHECKS: dict[str, Callable[[Shape, Any, str, bool], Iterator[str]]] = {
    "structure": _structure,
    "list": _list,
    "map": _map,
    "string": _string,
    "integer": _number,
    "long": _number,
    "float": _number,
    "double": _number,
    "boolean": _anything,
    "timestamp": _anything,
}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "structure": dict,
    "list": list,
    "map": dict,
    "string": str,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "boolean": bool,
    "timestamp": (int, float, str),
}

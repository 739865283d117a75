"""Which operation of which AWS service a request is, and an error as that service would word it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, unquote_plus
from xml.sax.saxutils import escape

from botocore.exceptions import UnknownServiceError
from botocore.loaders import create_loader
from botocore.model import OperationModel, ServiceModel

from include.local.emulator.wire.errors import AwsError

INVOKE = "InvokeEndpoint"
_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([a-z0-9-]+)/([a-z0-9-]+)/")
_INVOCATIONS = re.compile(r"/endpoints/[^/]+/invocations")
_HOSTED = re.compile(r"(.+)\.localhost(:\d+)?", re.IGNORECASE)
_SIGNING_NAMES = {"monitoring": "cloudwatch"}
_PROTOCOLS = ("json", "query")  # whose requests name their operation, and whose errors are told below

Environ = Mapping[str, Any]


@dataclass(frozen=True)
class Signature:
    """Who signed a request, for which region and service."""

    access_key: str = ""
    region: str = ""
    service: str = ""


def signature(environ: Environ) -> Signature:
    """Returns what the request's signature says, empty where it has none; a presigned address has one too."""
    query = unquote_plus(environ.get("QUERY_STRING", "")).replace("X-Amz-Credential", "Credential")
    match = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", "")) or _CREDENTIAL.search(query)
    return Signature(*match.groups()) if match else Signature()


def operation_of(environ: dict[str, Any]) -> str | None:
    """Returns the operation's name as fault rules have it, None where it cannot be told.

    `CreateTrainingJob` and `InvokeEndpoint` for SageMaker, `s3:PutObject`, `logs:PutLogEvents` for others.
    """
    service = signature(environ).service
    if _INVOCATIONS.fullmatch(environ.get("PATH_INFO", "")):
        return INVOKE
    if service == "s3":
        return _s3_operation(environ)
    if target := environ.get("HTTP_X_AMZ_TARGET", ""):
        action = target.rsplit(".", 1)[-1]
        return action if service == "sagemaker" else f"{_SIGNING_NAMES.get(service, service)}:{action}"
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        action = parse_qs(peek(environ).decode("utf-8", "replace")).get("Action", [""])[0]
        return f"{service}:{action}"
    return None


def read_body(environ: Environ, limit: int | None = None) -> bytes:
    """Returns the body of a request, which may come in chunks; of a longer one `limit` bytes and one more."""
    length = -1 if environ.get("wsgi.input_terminated") else int(environ.get("CONTENT_LENGTH") or 0)
    if limit is not None:
        length = limit + 1 if length < 0 else min(length, limit + 1)
    body: bytes = environ["wsgi.input"].read(length)
    return body


def peek(environ: dict[str, Any]) -> bytes:
    """Returns the body of a request, and leaves it to be read again."""
    body = read_body(environ)
    environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    return body


def decoded(environ: dict[str, Any]) -> dict[str, Any]:
    """Returns the members of a request whose body is JSON, and leaves it to be read again.

    Empty where it is no JSON object: whoever answers it says so.
    """
    try:
        members = json.loads(peek(environ) or b"{}")
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def is_operation(name: str) -> bool:
    """Tells whether `operation_of` can return that name."""
    service, _, action = name.rpartition(":")
    if not service:
        return name == INVOKE or action in _model("sagemaker").operation_names
    try:
        model = _model(service)
    except UnknownServiceError:
        return False
    known = service == "s3" or (service != "sagemaker" and model.resolved_protocol in _PROTOCOLS)
    return known and action in model.operation_names


def error_body(operation: str, error: AwsError) -> tuple[bytes, str]:
    """Returns an error's body and its content type, as the operation's service sends them."""
    service = operation.rpartition(":")[0]
    told = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
    if service == "s3":
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{told}</Error>'.encode(), "application/xml"
    if is_query(operation):
        side = "Sender" if error.status < 500 else "Receiver"
        body = f"<ErrorResponse><Error><Type>{side}</Type>{told}</Error></ErrorResponse>"
        return body.encode(), "text/xml"
    return json.dumps(error.body()).encode(), "application/x-amz-json-1.1"


def is_query(operation: str) -> bool:
    """Tells whether the operation's service takes forms and answers in XML."""
    service = operation.rpartition(":")[0]
    return bool(service) and _model(service).resolved_protocol == "query"


@lru_cache(maxsize=16)
def _model(service: str) -> ServiceModel:
    # Of a loader of its own: botocore's clients rewrite the paths of the model that they share.
    return ServiceModel(create_loader().load_service_model(service, "service-2"), service)


def s3_target(environ: Environ) -> tuple[str, str]:
    """Returns the bucket and the key that a request to S3 is about, as moto reads them; each may be empty."""
    path = unquote(str(environ.get("RAW_URI") or environ["PATH_INFO"]).split("?", 1)[0])
    # `bucket.localhost` holds the bucket in the host's name, 127.0.0.1 and plain localhost in the path.
    if hosted := _HOSTED.fullmatch(environ.get("HTTP_HOST", "")):
        return hosted[1].split(".")[0], path.removeprefix("/")
    return path.lstrip("/").partition("/")[0], "/".join(path.split("/")[2:])


def _s3_operation(environ: Environ) -> str | None:
    """Finds the one of S3's operations that asks for most of what the request has."""
    bucket, key = s3_target(environ)
    where = "/{Bucket}/{Key+}" if key else "/{Bucket}" if bucket else "/"
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    best: tuple[int, str] | None = None
    for name, method, uri, fixed, required, headers in _s3_operations():
        if (method, uri) != (environ.get("REQUEST_METHOD"), where):
            continue
        fits = (
            fixed.items() <= query.items()
            and required <= query.keys()
            and all(f"HTTP_{header.upper().replace('-', '_')}" in environ for header in headers)
        )
        score = 2 * (len(fixed) + len(required) + len(headers))
        if fits and (best is None or score > best[0]):
            best = score, name
    return f"s3:{best[1]}" if best else None


@lru_cache(maxsize=1)
def _s3_operations() -> tuple[tuple[str, str, str, dict[str, str], set[str], set[str]], ...]:
    model = _model("s3")
    found = []
    for name in model.operation_names:
        if name == "ListDirectoryBuckets":  # of another kind of bucket, and otherwise like ListBuckets
            continue
        call = model.operation_model(name)
        uri, _, query = call.http["requestUri"].partition("?")
        fixed = dict(parse_qsl(query, keep_blank_values=True))
        required = set(_required(call, "querystring"))
        found.append((name, call.http["method"], uri, fixed, required, set(_required(call, "header"))))
    return tuple(found)


def _required(call: OperationModel, location: str) -> Iterator[str]:
    shape = call.input_shape
    if shape is None:
        return
    for name in shape.required_members:
        place = shape.members[name].serialization
        if place.get("location") == location:
            yield place["name"]

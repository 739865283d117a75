"""The emulator's WSGI application: routes SageMaker to us and all else to moto."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from include.local.emulator import permissions
from include.local.emulator.api import SageMaker
from include.local.emulator.endpoints.operations import MAX_BODY_BYTES
from include.local.emulator.machine.storage import ACCESS_KEY
from include.local.emulator.moto.kept import KeptMoto
from include.local.emulator.wire import calls
from include.local.emulator.wire.errors import AwsError
from include.local.emulator.wire.faults import DROP, Faults
from include.local.emulator.wire.faults import ROUTE as FAULTS_ROUTE

HOST = "127.0.0.1"
DEFAULT_REGION = "us-east-1"
_INVOCATIONS = re.compile(r"/endpoints/([^/]+)/invocations")
_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|\[::1\]|([a-z0-9.-]+\.)?localhost)(:\d+)?", re.IGNORECASE)
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Content Too Large",
    424: "Failed Dependency",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_CONTROL_TYPE = "application/x-amz-json-1.1"
log = logging.getLogger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Application:
    """The WSGI application.

    Args:
        sagemaker: Our part.
        moto: The rest.
        faults: What goes wrong on demand.
        control_route: Whether the faults can be set by requests.
        enforce_iam: Whether callers may do only what their policies allow.
    """

    def __init__(
        self,
        sagemaker: SageMaker,
        moto: KeptMoto,
        faults: Faults,
        *,
        control_route: bool,
        enforce_iam: bool = False,
    ) -> None:
        self._sagemaker = sagemaker
        self._faults = faults
        self._control_route = control_route
        self._enforce_iam = enforce_iam
        self._moto = moto

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answers a request."""
        path = environ.get("PATH_INFO", "")
        try:
            _refuse_browsers(environ)
            if path == FAULTS_ROUTE:
                return self._set_faults(environ, start_response)
            if (fault := self._fault(environ, start_response)) is not None:
                return fault
            if self._enforce_iam and (refused := _refusal(environ, start_response)) is not None:
                return refused
            if match := _INVOCATIONS.fullmatch(path):
                return self._invoke(match[1], environ, start_response)
            if "HTTP_X_AMZ_TARGET" in environ and environ["HTTP_X_AMZ_TARGET"].startswith("SageMaker."):
                return self._control(environ, start_response)
        except AwsError as error:
            return _reply_error(start_response, error)
        except ConnectionAbortedError:
            raise
        except Exception as error:
            log.exception("%s %s", environ.get("REQUEST_METHOD"), path)
            return _reply_error(
                start_response, AwsError("InternalFailure", f"{type(error).__name__}: {error}", 500)
            )
        return self._moto(environ, start_response)

    def _set_faults(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if not self._control_route or method not in ("GET", "POST", "DELETE"):
            raise AwsError("NotFound", "Faults are set by GET, POST, DELETE of an emulator with faults.", 404)
        if method == "POST":
            self._faults.add(_read_json(calls.read_body(environ)))
        elif method == "DELETE":
            self._faults.clear()
        return _reply(start_response, 200, json.dumps(self._faults.listed()).encode(), "application/json")

    def _fault(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        """Answers wrongly where a rule says so; the emulator's own calls and its jobs' are spared."""
        if not self._faults or calls.signature(environ).access_key == ACCESS_KEY:
            return None
        name = calls.operation_of(environ)
        rule = self._faults.operation(name)
        if name is None or rule is None:
            return None
        time.sleep(rule.delay_seconds)
        if rule.code is None:
            return None
        calls.read_body(environ)  # unread, it would be taken for the next request
        if rule.code == DROP:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError(f"{name} is to find its connection dropped")
        error = AwsError(rule.code, rule.reason or f"{rule.code}, as a fault rule asks.", rule.status)
        return _reply_as_service(environ, start_response, name, error)

    def _control(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = calls.read_body(environ)
        request = _read_json(body or b"{}")
        name = environ["HTTP_X_AMZ_TARGET"].removeprefix("SageMaker.")
        answer = self._sagemaker.answer(name, _region(environ), request)
        if answer is None:
            environ["wsgi.input"] = io.BytesIO(body)
            return self._moto(environ, start_response)
        return _reply(start_response, 200, json.dumps(answer, allow_nan=False).encode(), _CONTROL_TYPE)

    def _invoke(self, name: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "POST":
            raise AwsError("ValidationError", "Invocations are POST requests.")
        body = calls.read_body(environ, MAX_BODY_BYTES)
        headers = {
            "Content-Type": environ.get("CONTENT_TYPE", ""),
            "Accept": environ.get("HTTP_ACCEPT", ""),
            "X-Amzn-SageMaker-Custom-Attributes": environ.get("HTTP_X_AMZN_SAGEMAKER_CUSTOM_ATTRIBUTES", ""),
        }
        if target := environ.get("HTTP_X_AMZN_SAGEMAKER_TARGET_VARIANT"):
            headers["X-Amzn-SageMaker-Target-Variant"] = target
        if inference_id := environ.get("HTTP_X_AMZN_SAGEMAKER_INFERENCE_ID"):
            headers["X-Amzn-SageMaker-Inference-Id"] = inference_id
        variant, answer = self._sagemaker.endpoints.invoke(_region(environ), name, body, headers)
        theirs = {key.lower(): value for key, value in answer.headers.items()}
        extra = [("x-Amzn-Invoked-Production-Variant", variant)]
        if attributes := theirs.get("x-amzn-sagemaker-custom-attributes"):
            extra.append(("X-Amzn-SageMaker-Custom-Attributes", attributes))
        content_type = theirs.get("content-type", "application/octet-stream")
        return _reply(start_response, 200, answer.body, content_type, extra)


def _refusal(environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
    try:
        permissions.check(environ)
    except AwsError as error:
        calls.read_body(environ)  # unread, it would be taken for the next request
        return _reply_as_service(environ, start_response, calls.operation_of(environ) or "", error)
    return None


def _reply_as_service(
    environ: Environ, start_response: StartResponse, operation: str, error: AwsError
) -> Iterable[bytes]:
    """Answers with an error in the format of the service that was asked."""
    body, content_type = calls.error_body(operation, error)
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else body
    extra = [("x-amzn-ErrorType", error.code), ("Connection", "close")]
    return _reply(start_response, error.status, body, content_type, extra)


def _refuse_browsers(environ: Environ) -> None:
    """Refuses what a page in the user's browser sends: a job runs code, and moto allows every origin.

    Raises:
        AwsError: `AccessDenied`, the request has an origin, or names a host that is not this one (a rebound
            DNS name).
    """
    if "HTTP_ORIGIN" in environ or "HTTP_SEC_FETCH_SITE" in environ:
        raise AwsError("AccessDenied", "The local emulator does not answer browsers.", 403)
    if not _LOOPBACK_HOST.fullmatch(environ.get("HTTP_HOST", HOST)):
        raise AwsError("AccessDenied", "The local emulator answers to loopback names only.", 403)


def _read_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError as error:
        raise AwsError("SerializationException", f"The request is not JSON: {error}") from error


def _region(environ: Environ) -> str:
    return calls.signature(environ).region or DEFAULT_REGION


def _reply(
    start_response: StartResponse,
    status: int,
    body: bytes,
    content_type: str,
    extra: Sequence[tuple[str, str]] = (),
) -> list[bytes]:
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
        *extra,
    ]
    start_response(f"{status} {_REASONS.get(status, 'Error')}", headers)
    return [body]


def _reply_error(start_response: StartResponse, error: AwsError) -> list[bytes]:
    # The body may be unread: the connection cannot be used again.
    extra = [("x-amzn-ErrorType", error.code), ("Connection", "close")]
    return _reply(start_response, error.status, json.dumps(error.body()).encode(), _CONTROL_TYPE, extra)

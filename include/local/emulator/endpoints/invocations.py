"""InvokeEndpoint: the way of a request to a model and of the answer back."""

from __future__ import annotations

import contextlib
import http.client
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import partial

from include.local.emulator.endpoints.state import Endpoint
from include.local.emulator.resources.store import ACCOUNT_ID, Store
from include.local.emulator.serving.capture import CaptureRule, Captures, Request
from include.local.emulator.serving.fleets import Fleet
from include.local.emulator.serving.metrics import Metrics, Sample
from include.local.emulator.serving.model_server import CUSTOM_ATTRIBUTES, Answer
from include.local.emulator.serving.variants import Variant
from include.local.emulator.wire.errors import AwsError

MAX_BODY_BYTES = 6 * 1024**2
INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
_PASSED_TO_MODEL = ("Content-Type", "Accept", CUSTOM_ATTRIBUTES, INFERENCE_ID)


class Invocations:
    """Answers requests.

    Args:
        store: The endpoints.
        metrics: Where each request is counted.
        captures: Where what is to be kept is kept.
    """

    def __init__(self, store: Store[Endpoint], metrics: Metrics, captures: Captures) -> None:
        self._store = store
        self._metrics = metrics
        self._captures = captures

    def invoke(self, region: str, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[str, Answer]:
        """InvokeEndpoint.

        Args:
            region: Region of the caller.
            name: Endpoint name.
            body: The request's bytes, as the model gets them.
            headers: The request's headers, by their canonical names.

        Returns:
            Name of the production variant, and its answer.

        Raises:
            AwsError: `ValidationError`, `ModelError` or `ServiceUnavailable`, as the runtime API has them.
        """
        started = time.perf_counter()
        if len(body) > MAX_BODY_BYTES:
            raise AwsError("ValidationError", f"Request {len(body)} bytes is too large.", 413)
        request = Request(
            body=body,
            headers={name: headers[name] for name in _PASSED_TO_MODEL if headers.get(name)},
            inference_id=headers.get(INFERENCE_ID, ""),
            event_id=str(uuid.uuid4()),
            at=time.time(),
        )
        with self._live_fleet(region, name) as fleet:
            variant = fleet.choose(headers.get("X-Amzn-SageMaker-Target-Variant"))
            rule = fleet.capture if fleet.capture is not None and fleet.capture.takes() else None
            answer = self._ask(variant, request, rule, started)
            if fleet.shadow is not None and fleet.shadow.takes():
                fleet.shadow.offer(partial(self._ask, fleet.shadow.variant, request, rule, None))
        if answer.status >= 400:
            raise _model_error(answer.status, answer.body.decode("utf-8", errors="replace"))
        return variant.name, answer

    def _ask(
        self, variant: Variant, request: Request, rule: CaptureRule | None, started: float | None
    ) -> Answer:
        sent, status = time.perf_counter(), 503
        try:
            answer = variant.server.invoke(request.body, request.headers)
            status = answer.status
        except TimeoutError as error:
            status = 504
            raise _model_error(504, "Your invocation timed out while waiting for a response.") from error
        except (OSError, http.client.HTTPException) as error:
            raise AwsError("ServiceUnavailable", f"The model server is gone: {error}", 503) from error
        finally:
            model = time.perf_counter() - sent
            overhead = 0.0 if started is None else sent - started
            sample = Sample(time.time(), status, model * 1e6, overhead * 1e6)
            variant.samples.append(sample)
            self._metrics.record(variant.source, sample)
        if rule is not None and answer.status < 400:
            self._captures.keep(rule, variant.source, request, answer)
        return answer

    @contextlib.contextmanager
    def _live_fleet(self, region: str, name: str) -> Iterator[Fleet]:
        not_found = AwsError("ValidationError", f"Endpoint {name} of account {ACCOUNT_ID} not found.")
        try:
            endpoint = self._store.get(region, name)
        except AwsError as error:
            raise not_found from error
        if not endpoint.ready.is_set():
            endpoint.ready.wait()
        with endpoint.traffic.request() as fleet:
            if fleet is None:
                raise not_found
            yield fleet


def _model_error(status: int, message: str) -> AwsError:
    whose = "client" if status < 500 else "server"
    return AwsError(
        "ModelError",
        f'Received {whose} error ({status}) from primary with message "{message}".',
        424,
        OriginalStatusCode=status,
        OriginalMessage=message,
    )

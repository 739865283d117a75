"""Data capture: requests and answers as JSON lines on S3, written off the way of the requests."""

from __future__ import annotations

import base64
import json
import logging
import random
import uuid
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from include.local.emulator.machine import storage
from include.local.emulator.machine.workers import Ticker, drain
from include.local.emulator.resources.models import EndpointConfig
from include.local.emulator.serving.metrics import Source
from include.local.emulator.serving.model_server import Answer

_FLUSH_SECONDS = 1.0
_END_SECONDS = 5.0
log = logging.getLogger(__name__)


class Request(NamedTuple):
    """What a caller sent.

    Attributes:
        body: Bytes of the body.
        headers: Headers for the model.
        inference_id: The caller's own name for the request, empty for none.
        event_id: Ours; a shadow variant's copy has the same.
        at: Epoch seconds.
    """

    body: bytes
    headers: Mapping[str, str]
    inference_id: str
    event_id: str
    at: float


@dataclass(frozen=True)
class CaptureRule:
    """The DataCaptureConfig of an endpoint config.

    Attributes:
        percent: Share of the requests that is kept.
        destination: Prefix on S3.
        modes: `Input`, `Output`.
        csv: Content types that are kept as text.
        json: Those that are kept as JSON text; the rest is kept as base64.
        kms_key: Key of the objects.
    """

    percent: int
    destination: str
    modes: frozenset[str]
    csv: frozenset[str]
    json: frozenset[str]
    kms_key: str | None

    def takes(self) -> bool:
        """Tells whether the next request is kept."""
        return random.random() * 100 < self.percent

    def part(self, mode: str, content_type: str, body: bytes) -> dict[str, str]:
        """Returns `endpointInput` or `endpointOutput`."""
        kind = content_type.partition(";")[0].strip().lower()
        encoding = "CSV" if kind in self.csv else "JSON" if kind in self.json else "BASE64"
        try:
            data = body.decode() if encoding != "BASE64" else base64.b64encode(body).decode()
        except UnicodeDecodeError:
            encoding, data = "BASE64", base64.b64encode(body).decode()
        return {"observedContentType": content_type, "mode": mode, "data": data, "encoding": encoding}


def rule_of(config: EndpointConfig) -> CaptureRule | None:
    """Returns what a config says of data capture; None where nothing is kept."""
    told = config.request.get("DataCaptureConfig")
    if told is None or not told.get("EnableCapture", True):
        return None
    modes = {option["CaptureMode"] for option in told["CaptureOptions"]}
    types = told.get("CaptureContentTypeHeader", {})
    return CaptureRule(
        percent=int(told["InitialSamplingPercentage"]),
        destination=told["DestinationS3Uri"],
        modes=frozenset({"Input", "Output"} if "InputAndOutput" in modes else modes),
        csv=frozenset(each.lower() for each in types.get("CsvContentTypes", [])),
        json=frozenset(each.lower() for each in types.get("JsonContentTypes", [])),
        kms_key=told.get("KmsKeyId"),
    )


class _Exchange(NamedTuple):
    rule: CaptureRule
    source: Source
    request: Request
    answer: Answer

    @property
    def folder(self) -> str:
        hour = datetime.fromtimestamp(self.request.at, UTC)
        return storage.join_uri(
            self.rule.destination, self.source.endpoint, self.source.variant, f"{hour:%Y/%m/%d/%H}"
        )

    def line(self) -> str:
        """Returns the line of the file."""
        request, told = self.request, {name.lower(): value for name, value in self.answer.headers.items()}
        data: dict[str, Any] = {}
        if "Input" in self.rule.modes:
            sent = request.headers.get("Content-Type", "")
            data["endpointInput"] = self.rule.part("INPUT", sent, request.body)
        if "Output" in self.rule.modes:
            got = told.get("content-type", "")
            data["endpointOutput"] = self.rule.part("OUTPUT", got, self.answer.body)
        metadata: dict[str, Any] = {"eventId": request.event_id}
        if request.inference_id:
            metadata["inferenceId"] = request.inference_id
        if attributes := told.get("x-amzn-sagemaker-custom-attributes"):
            metadata["customAttributes"] = [attributes]
        metadata["inferenceTime"] = f"{datetime.fromtimestamp(request.at, UTC):%Y-%m-%dT%H:%M:%SZ}"
        return json.dumps(
            {"captureData": data, "eventMetadata": metadata, "eventVersion": "0"},
            ensure_ascii=False,
            separators=(",", ":"),
        )


class Captures:
    """Gathers what is captured in memory and writes it to S3 once a second.

    Args:
        url: Address of the emulator.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept: deque[_Exchange] = deque()
        self._ticker = Ticker("endpoint-capture", _FLUSH_SECONDS, self.flush)

    def keep(self, rule: CaptureRule, source: Source, request: Request, answer: Answer) -> None:
        """Keeps an exchange; takes no lock and no time."""
        self._kept.append(_Exchange(rule, source, request, answer))

    def flush(self) -> None:
        """Writes a file for each variant and hour of what has been gathered."""
        files: dict[str, list[_Exchange]] = defaultdict(list)
        for exchange in drain(self._kept):
            files[exchange.folder].append(exchange)
        for folder, exchanges in files.items():
            try:
                self._write(folder, exchanges)
            except ClientError as error:  # a bucket that is gone must not cost the others' files
                log.error("%d captured requests are lost: %s: %s", len(exchanges), folder, error)

    def close(self) -> None:
        """Writes the rest."""
        self._ticker.close(_END_SECONDS)

    def _write(self, folder: str, exchanges: list[_Exchange]) -> None:
        first = exchanges[0]
        at = datetime.fromtimestamp(first.request.at, UTC)
        name = f"{at:%M-%S}-{at.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
        bucket, key = storage.split_uri(f"{folder}/{name}")
        body = "".join(f"{exchange.line()}\n" for exchange in exchanges).encode()
        key_id = first.rule.kms_key
        sealed = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_id} if key_id else {}
        s3 = storage.client("s3", self._url, first.source.region)
        s3.put_object(Bucket=bucket, Key=key, Body=body, **sealed)

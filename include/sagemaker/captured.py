"""What data capture kept of an endpoint's requests, and how the answers of two variants differ."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from include.contracts import Contract
from include.sagemaker.storage import parse_s3_uri

MOST_SESSIONS = 20_000

Products = tuple[str, ...]


class Exchange(NamedTuple):
    """A request and its answer.

    Attributes:
        asked: Digest of the request's body.
        answers: Products for each of its sessions, best first.
    """

    asked: str
    answers: tuple[Products, ...]


class Comparison(Contract):
    """How the answers of two variants to the same requests differ.

    Attributes:
        pairs: Requests of which both answers are known.
        compared: Sessions in them.
        overlap: Share of the first variant's products that the second one recommends, on average.
        same_first: Share of the sessions with the same first product.
    """

    pairs: int
    compared: int
    overlap: float | None
    same_first: float | None


def read_exchanges(
    s3: Any, folder: str, start: datetime, end: datetime, most: int = MOST_SESSIONS
) -> Iterator[Exchange]:
    """Yields what was captured of a variant, oldest first; what is no prediction of ours is left out.

    Args:
        s3: boto3 S3 client.
        folder: `s3://…/<endpoint>/<variant>`; SageMaker writes JSON lines into a folder for each hour.
        start: Begin of the time.
        end: End of the time.
        most: As many sessions, about, at most: a request may have thousands.
    """
    bucket, prefix = parse_s3_uri(folder)
    for hour in _hours(start, end):
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/{hour}/")
        for entry in (entry for page in pages for entry in page.get("Contents", [])):
            # Written after its requests, if not long after them.
            if entry["LastModified"] < start.replace(microsecond=0):
                continue
            with closing(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"]) as body:
                for line in body.iter_lines():
                    found = parse_line(line, start, end)
                    if found is None:
                        continue
                    yield found
                    most -= max(1, len(found.answers))
                    if most <= 0:
                        return


def parse_line(line: bytes, start: datetime, end: datetime) -> Exchange | None:
    """Reads a captured line; None where it is of another time, or no prediction of ours."""
    try:
        told = json.loads(line)
        moment = datetime.fromisoformat(told["eventMetadata"]["inferenceTime"]).astimezone(UTC)
        # SageMaker tells whole seconds.
        if not start.replace(microsecond=0) <= moment <= end:
            return None
        asked = _content(told["captureData"]["endpointInput"])
        predictions = json.loads(_content(told["captureData"]["endpointOutput"]))["predictions"]
        answers = tuple(tuple(str(sku) for sku in prediction["skus"]) for prediction in predictions)
    except (ValueError, KeyError, TypeError):
        return None
    return Exchange(hashlib.sha256(asked).hexdigest(), answers)


def compare(first: Iterable[Exchange], second: Iterable[Exchange]) -> Comparison:
    """Holds the second variant's answers against the first one's.

    Pairs have the same request body. SageMaker does not document that the copy of a request keeps its event
    id, and needs not: a model's answer is a function of the body alone.
    """
    known: dict[str, deque[tuple[Products, ...]]] = defaultdict(deque)
    for exchange in first:
        known[exchange.asked].append(exchange.answers)
    pairs, overlaps, same = 0, [], 0
    for exchange in second:
        if not known[exchange.asked]:
            continue
        pairs += 1
        for mine, yours in zip(known[exchange.asked].popleft(), exchange.answers, strict=False):
            overlaps.append(len(set(mine) & set(yours)) / len(set(mine)) if mine else float(not yours))
            same += mine[:1] == yours[:1]
    count = len(overlaps)
    return Comparison(
        pairs=pairs,
        compared=count,
        overlap=sum(overlaps) / count if count else None,
        same_first=same / count if count else None,
    )


def _hours(start: datetime, end: datetime) -> Iterator[str]:
    hour = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while hour <= end:
        yield f"{hour:%Y/%m/%d/%H}"
        hour += timedelta(hours=1)


def _content(part: Mapping[str, str]) -> bytes:
    data = part["data"]
    return base64.b64decode(data) if part.get("encoding") == "BASE64" else data.encode()

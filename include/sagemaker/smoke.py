"""The smoke test: sessions of the test set, and whether the endpoint answers what the gate saw."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from include.contracts import BadInputError, SmokeCase

CASES_FILE = "evaluation/smoke.json"
MAX_CASES_BYTES = 5 * 1024 * 1024
MAX_ARCHIVE_BYTES = 4 * 1024**3
# The serving image's TensorFlow is another build than the training image's: near ties may swap places.
MIN_OVERLAP = 0.9

_CASES = TypeAdapter(tuple[SmokeCase, ...])


def read_smoke_cases(stream: IO[bytes]) -> tuple[SmokeCase, ...]:
    """Reads the cases from a job's `output.tar.gz`, front to back; nothing is extracted to disk.

    Args:
        stream: The archive; only `read` is used.

    Returns:
        The cases, at least one.

    Raises:
        BadInputError: The archive is broken or far too large, or holds no usable cases.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|gz") as archive:
            content = _cases_content(archive)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise
        raise BadInputError(f"The evaluation archive cannot be read: {error}") from error
    try:
        cases = _CASES.validate_json(content)
    except ValidationError as error:
        raise BadInputError(f"{CASES_FILE} does not hold smoke cases: {error}") from error
    if not cases:
        raise BadInputError(f"{CASES_FILE} holds no case: there is nothing to hold the endpoint against.")
    return cases


def _cases_content(archive: tarfile.TarFile) -> bytes:
    seen = 0
    for member in archive:
        seen += member.size
        if seen > MAX_ARCHIVE_BYTES:
            raise BadInputError(f"The evaluation archive is larger than {MAX_ARCHIVE_BYTES} bytes.")
        if member.name.removeprefix("./") != CASES_FILE:
            continue
        content = archive.extractfile(member) if member.isfile() else None
        if content is None or member.size > MAX_CASES_BYTES:
            raise BadInputError(f"{CASES_FILE} is not a plain file of at most {MAX_CASES_BYTES} bytes.")
        return content.read()
    raise BadInputError(f"The evaluation archive holds no {CASES_FILE}.")


def request_body(case: SmokeCase) -> bytes:
    """Returns the JSON that asks the endpoint for as many products as the gate saw."""
    return json.dumps({"instances": [{"session": list(case.session), "k": len(case.skus)}]}).encode()


def parse_answer(body: bytes) -> tuple[str, ...]:
    """Returns the products of the endpoint's answer to one session.

    Raises:
        ValueError: The answer does not have the shape of the contract.
    """
    try:
        answer: Any = json.loads(body)
        [prediction] = answer["predictions"]
        skus = prediction["skus"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the answer is not a prediction for one session: {body[:200]!r}") from error
    if not isinstance(skus, list) or not all(isinstance(sku, str) for sku in skus):
        raise ValueError(f"the answer's skus are not a list of texts: {body[:200]!r}")
    return tuple(skus)


def compare_answers(expected: SmokeCase, answer: Sequence[str]) -> list[str]:
    """Holds an answer against the one the gate saw.

    The same products in the same order pass; so do answers that share at least nine in ten of them,
    because near ties may fall differently in the serving image's TensorFlow.

    Args:
        expected: The case.
        answer: Products that the endpoint recommends, best first.

    Returns:
        What is wrong, empty where nothing is.
    """
    if tuple(answer) == expected.skus:
        return []
    reasons = []
    if len(answer) != len(expected.skus):
        reasons.append(f"{len(answer)} products instead of {len(expected.skus)}")
    if len(set(answer)) != len(answer):
        reasons.append("a product is recommended twice")
    shared = len(set(answer) & set(expected.skus))
    if shared < MIN_OVERLAP * len(expected.skus):
        reasons.append(
            f"only {shared} of {len(expected.skus)} products are those of the test set's answer "
            f"(first expected {list(expected.skus[:3])}, first answered {list(answer[:3])})"
        )
    return reasons

"""Request and response handlers of the SageMaker TensorFlow Serving container; standard library only.

Request  `{"instances": [{"session": ["sku", …], "k": 20, "exclude_seen": false}]}`
Response `{"predictions": [{"skus": […], "scores": […], "fallback": "none"}]}`

`session` is oldest first. The product being viewed, its last known one, is never recommended; with
`exclude_seen` no product of the session is. `fallback` is `popularity` where no SKU of it was known.
"""

from __future__ import annotations

import json
from typing import Any

MAX_INSTANCES = 100
MAX_SESSION = 1000  # the most recent ones; the network looks at fewer, `exclude_seen` at all of them
MAX_SKU = 512
MAX_K = 50
DEFAULT_K = 20
# To a server that may put rows of several requests into one call: they do not touch each other, and "" pads.
BATCHABLE = True
CONTENT_TYPE = "application/json"


def input_handler(data: Any, context: Any) -> str:
    """Turns a request into TensorFlow Serving's JSON.

    Args:
        data: Binary stream of the request body.
        context: The container's request context (`request_content_type`).

    Returns:
        `{"signature_name": …, "instances": […]}` with sessions padded to one length.

    Raises:
        ValueError: The request is not valid; the message is the reason.
    """
    content_type = (context.request_content_type or CONTENT_TYPE).split(";")[0].strip().lower()
    if content_type != CONTENT_TYPE:
        raise ValueError(f"content type must be {CONTENT_TYPE}, not {content_type}")
    instances = _instances(data.read())
    cleaned = [_instance(number, instance) for number, instance in enumerate(instances)]
    # TensorFlow Serving takes rows of equal length only, and a tensor has at least one column.
    width = max(1, *(len(row["session"]) for row in cleaned))
    for row in cleaned:
        row["session"] += [""] * (width - len(row["session"]))
    return json.dumps({"signature_name": "serving_default", "instances": cleaned})


def output_handler(response: Any, context: Any) -> tuple[str, str]:
    """Turns TensorFlow Serving's answer into ours, each list cut to the `k` that its instance asked for.

    Args:
        response: The container's response (`status_code`, `content`).
        context: The container's request context (`accept_header`).

    Returns:
        Body and content type.

    Raises:
        ValueError: TensorFlow Serving refused; the message is its own.
    """
    if response.status_code != 200:
        content = response.content
        raise ValueError(content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content))
    predictions = [_prediction(row) for row in json.loads(response.content)["predictions"]]
    body = json.dumps({"predictions": predictions}, allow_nan=False, separators=(",", ":"))
    return body, CONTENT_TYPE


def _prediction(row: dict[str, Any]) -> dict[str, Any]:
    pairs = [pair for pair in zip(row["skus"], row["scores"], strict=True) if pair[0] != ""][: row["k"]]
    return {
        "skus": [sku for sku, _ in pairs],
        "scores": [float(f"{score:.5g}") for _, score in pairs],  # what a float32 has more is noise and bytes
        "fallback": row["fallback"],
    }


def _instances(body: Any) -> list[Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from error
    instances = request.get("instances") if isinstance(request, dict) else None
    if not isinstance(instances, list):
        raise ValueError('the body must be {"instances": [{"session": [...], "k": 20}]}')
    if not 1 <= len(instances) <= MAX_INSTANCES:
        raise ValueError(f"instances must hold 1 to {MAX_INSTANCES} entries, not {len(instances)}")
    return instances


def _instance(number: int, instance: Any) -> dict[str, Any]:
    if not isinstance(instance, dict):
        raise ValueError(f"instance {number} is not an object")
    session = instance.get("session")
    if not isinstance(session, list) or not all(isinstance(sku, str) for sku in session):
        raise ValueError(f"instance {number}: session must be a list of strings")
    k = instance.get("k", DEFAULT_K)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise ValueError(f"instance {number}: k must be a whole number from 1 to {MAX_K}")
    exclude_seen = instance.get("exclude_seen", False)
    if not isinstance(exclude_seen, bool):
        raise ValueError(f"instance {number}: exclude_seen must be true or false")
    named = [sku for sku in session if _possible(sku)]
    return {"session": named[-MAX_SESSION:], "k": k, "exclude_seen": exclude_seen}


def _possible(sku: str) -> bool:
    """Says whether a product could be named so: not padding, not too long, and encodable as UTF-8."""
    if not 0 < len(sku) <= MAX_SKU:
        return False
    try:
        sku.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True

from __future__ import annotations

import hashlib
import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import inference

CONTEXT = SimpleNamespace(request_content_type="application/json", accept_header="application/json")


def ask(body: Any, content_type: str | None = "application/json") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    context = SimpleNamespace(request_content_type=content_type, accept_header=None)
    return json.loads(inference.input_handler(io.BytesIO(raw), context))


def one(session: Any = ("a",), **fields: Any) -> dict[str, Any]:
    return {"instances": [{"session": session, **fields}]}


GOOD: dict[str, tuple[Any, list[list[str]], list[int]]] = {
    "k defaults to 20": (one(["a", "b"]), [["a", "b"]], [20]),
    "empty session still has a column": (one([], k=1), [[""]], [1]),
    "rows are padded": (
        {"instances": [{"session": ["a"]}, {"session": ["b", "c"]}]},
        [["a", ""], ["b", "c"]],
        [20, 20],
    ),
    "too long a SKU is skipped": (one(["x" * 513, "y" * 512]), [["y" * 512]], [20]),
    "empty SKU is skipped": (one(["", "a"]), [["a"]], [20]),
    "half a surrogate is skipped": (one(["\ud800", "a"]), [["a"]], [20]),
    "odd SKUs pass": (one(['"{🙂', "\u202e"]), [['"{🙂', "\u202e"]], [20]),
    "the last 1,000 count": (one([str(i) for i in range(1010)]), [[str(i) for i in range(10, 1010)]], [20]),
}


@pytest.mark.parametrize("case", GOOD)
def test_request_for_tensorflow_serving(case: str) -> None:
    body, sessions, ks = GOOD[case]
    sent = ask(body)
    assert sent["signature_name"] == "serving_default"
    assert [row["session"] for row in sent["instances"]] == sessions
    assert [row["k"] for row in sent["instances"]] == ks
    assert [row["exclude_seen"] for row in sent["instances"]] == [False] * len(ks)


def test_exclude_seen_is_passed_on() -> None:
    body = {"instances": [{"session": ["a"], "exclude_seen": True}, {"session": ["b"]}]}
    assert [row["exclude_seen"] for row in ask(body)["instances"]] == [True, False]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", None, ""])
def test_content_types_that_mean_json(content_type: str | None) -> None:
    assert ask(one(), content_type)["instances"]


def test_answer_is_cut_to_k_and_padding_is_dropped() -> None:
    rows = [
        {"skus": ["a", "b", "c"], "scores": [0.5, 0.3, 0.1], "fallback": "none", "k": 2},
        {"skus": ["d", "", ""], "scores": [0.5, 0.0, 0.0], "fallback": "popularity", "k": 3},
    ]
    response = SimpleNamespace(status_code=200, content=json.dumps({"predictions": rows}).encode())
    body, content_type = inference.output_handler(response, CONTEXT)
    assert content_type == "application/json"
    assert json.loads(body) == {
        "predictions": [
            {"skus": ["a", "b"], "scores": [0.5, 0.3], "fallback": "none"},
            {"skus": ["d"], "scores": [0.5], "fallback": "popularity"},
        ]
    }


def test_twenty_products_are_answered_in_less_than_2_kb() -> None:
    skus = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20)]
    scores = [float(np.float32(1e-6 / (number + 3))) for number in range(20)]  # the longest there are
    row = {"skus": skus, "scores": scores, "fallback": "popularity", "k": 20}
    response = SimpleNamespace(status_code=200, content=json.dumps({"predictions": [row]}).encode())
    body, _ = inference.output_handler(response, CONTEXT)
    assert len(body.encode()) < 2000
    [answer] = json.loads(body)["predictions"]
    assert answer["skus"] == skus
    np.testing.assert_allclose(answer["scores"], scores, rtol=1e-4)


def test_refusal_of_tensorflow_serving_is_passed_on() -> None:
    response = SimpleNamespace(status_code=400, content=b'{"error": "bad shape"}')
    with pytest.raises(ValueError, match="bad shape"):
        inference.output_handler(response, CONTEXT)

"""Malformed, empty, huge or unknown: a 4xx that says why, or popularity; the server lives through all."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.local.serving import ask, ping, send


def one(session: Any = ("before-0",), **fields: Any) -> dict[str, Any]:
    return {"instances": [{"session": session, **fields}]}


BAD: dict[str, tuple[Any, str]] = {
    "binary": (b"\xff\xfe\x00", "not JSON"),
    "empty body": (b"", "not JSON"),
    "truncated": (b'{"instances": [', "not JSON"),
    "deeply nested": (b"[" * 100_000, "not JSON|must be"),
    "a list": ([], "body must be"),
    "no instances": ({}, "body must be"),
    "instances is an object": ({"instances": {}}, "body must be"),
    "no instance": ({"instances": []}, "1 to 100"),
    "too many": ({"instances": [{"session": []}] * 101}, "1 to 100"),
    "instance is a string": ({"instances": ["a"]}, "instance 0 is not an object"),
    "no session": ({"instances": [{"k": 3}]}, "instance 0: session"),
    "session is a string": (one("abc"), "session must be"),
    "session of numbers": (one([1]), "session must be"),
    "session with null": (one(["a", None]), "session must be"),
    "second is bad": ({"instances": [{"session": []}, {"session": 1}]}, "instance 1"),
    "k zero": (one(k=0), "k must be"),
    "k too large": (one(k=51), "k must be"),
    "k fractional": (one(k=2.0), "k must be"),
    "k a string": (one(k="3"), "k must be"),
    "k true": (one(k=True), "k must be"),
    "k null": (one(k=None), "k must be"),
    "exclude_seen a number": (one(exclude_seen=1), "exclude_seen must be"),
    "exclude_seen null": (one(exclude_seen=None), "exclude_seen must be"),
    "k NaN": (b'{"instances": [{"session": [], "k": NaN}]}', "k must be"),
}


GOOD = one(["before-0", "after-1"], k=5)


@pytest.fixture(scope="module")
def usual(shop_server: int) -> Any:
    """What a good request is answered."""
    status, answer = ask(shop_server, GOOD)
    assert status == 200 and answer["predictions"][0]["fallback"] == "none"
    return answer


@pytest.mark.parametrize("case", BAD)
def test_bad_request_is_refused_with_its_reason_and_the_server_lives(
    shop_server: int, usual: Any, case: str
) -> None:
    body, reason = BAD[case]
    status, answer = ask(shop_server, body)
    assert status == 400 and set(answer) == {"error"}
    assert re.search(reason, answer["error"]) and len(answer["error"]) < 500
    assert ping(shop_server) == 200
    assert ask(shop_server, GOOD) == (200, usual)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(shop_server: int, usual: Any) -> None:
    status, answer = ask(shop_server, b"x" * (6 * 1024**2 + 1))
    assert status == 413 and set(answer) == {"error"}
    assert ask(shop_server, GOOD) == (200, usual)


def test_another_content_type_is_refused(shop_server: int, usual: Any) -> None:
    status, answer = send(shop_server, "POST", "/invocations", b"before-0,after-1", content_type="text/csv")
    assert status == 400 and b"text/csv" in answer
    assert ask(shop_server, GOOD) == (200, usual)


UNKNOWN: dict[str, Any] = {
    "empty": [],
    "padding": ["", ""],
    "never seen": ["nobody sells this"],
    "too long": ["z" * 10_000],
    "many": [f"nothing {n}" for n in range(10_000)],
    "half a surrogate": ["\ud800"],
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_session_of_nothing_known_is_answered_by_popularity(
    shop_server: int, usual: Any, case: str
) -> None:
    status, answer = ask(shop_server, one(UNKNOWN[case], k=7))
    assert status == 200
    [prediction] = answer["predictions"]
    assert prediction["fallback"] == "popularity" and len(set(prediction["skus"])) == 7
    assert ask(shop_server, GOOD) == (200, usual)


def test_a_huge_session_is_answered_by_its_end(shop_server: int) -> None:
    end = ["before-0", "after-1"]
    huge = [f"before-{n % 9}" for n in range(10_000)]
    assert ask(shop_server, one([*huge, *end]))[0] == 200
    hundred = {"instances": [{"session": [*huge[:1000], *end]}] * 100}
    status, answer = ask(shop_server, hundred)
    assert status == 200 and len(answer["predictions"]) == 100

from __future__ import annotations

import io
from typing import Any

import pytest

from include.local.emulator.needs import needs_of
from include.local.emulator.wire import calls
from include.local.emulator.wire.errors import AwsError


def deletion(body: bytes) -> dict[str, Any]:
    return {
        "PATH_INFO": "/b",
        "QUERY_STRING": "delete=",
        "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": 999,
    }


@pytest.mark.parametrize("how", [{"CONTENT_LENGTH": "6"}, {"wsgi.input_terminated": True}])
def test_a_body_is_read_whole_and_again_with_or_without_its_length(how: dict[str, Any]) -> None:
    environ = {"wsgi.input": io.BytesIO(b"abcdef"), **how}
    assert [calls.peek(environ), calls.peek(environ), calls.read_body(environ)] == [b"abcdef"] * 3


@pytest.mark.parametrize("how", [{"CONTENT_LENGTH": "6"}, {"wsgi.input_terminated": True}])
def test_of_a_body_that_is_too_long_one_byte_more_is_read(how: dict[str, Any]) -> None:
    assert calls.read_body({"wsgi.input": io.BytesIO(b"abcdef"), **how}, 3) == b"abcd"


@pytest.mark.parametrize(
    ("uri", "host", "target"),
    [
        ("/", "127.0.0.1:1", ("", "")),
        ("/b?list-type=2", "127.0.0.1:1", ("b", "")),
        ("/b/k/l", "localhost:1", ("b", "k/l")),
        ("/b/a%2Fb%3F%25%20c", "127.0.0.1:1", ("b", "a/b?% c")),
        ("/b/%C3%BC", "127.0.0.1:1", ("b", "ü")),
        ("/b//k", "127.0.0.1:1", ("b", "/k")),
        ("//b/k", "127.0.0.1:1", ("b", "b/k")),
        ("/k", "b.LocalHost:1", ("b", "k")),
        ("//k", "b.localhost", ("b", "/k")),
    ],
)
def test_who_may_is_asked_of_the_object_that_moto_will_touch(
    uri: str, host: str, target: tuple[str, str]
) -> None:
    environ = {"RAW_URI": uri, "PATH_INFO": "misleading", "HTTP_HOST": host}
    assert calls.s3_target(environ) == target


def test_keys_to_be_deleted_are_read_as_xml() -> None:
    body = (
        '<?xml version="1.0"?><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<Object><Key>a&amp;b&lt;&#13;</Key></Object><Object><Key ><![CDATA[c]]>d</Key></Object></Delete>"
    )
    needed = list(needs_of(deletion(body.encode()), "s3:DeleteObjects", "us-east-1"))
    assert [need.resource for need in needed] == ["arn:aws:s3:::b/a&b<\r", "arn:aws:s3:::b/cd"]
    assert {need.action for need in needed} == {"s3:DeleteObject"}


def test_keys_that_cannot_be_read_are_not_passed_over() -> None:
    with pytest.raises(AwsError, match="MalformedXML"):
        list(needs_of(deletion(b"<Delete><Object><Key>a&b"), "s3:DeleteObjects", "us-east-1"))

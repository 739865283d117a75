from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest

from include.contracts import BadInputError, SmokeCase
from include.sagemaker import smoke
from include.sagemaker.smoke import compare_answers, parse_answer, read_smoke_cases, request_body

SKUS = tuple(f"s{n}" for n in range(20))
CASE = SmokeCase(session=("a", "b"), skus=SKUS)
ONE = [{"session": ["a"], "skus": ["b"]}]


def archive(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            member.type = kind
            member.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize("name", ["evaluation/smoke.json", "./evaluation/smoke.json"])
def test_cases_are_found_among_other_files(name: str) -> None:
    files = {"evaluation/metrics.json": b"{}", name: json.dumps(ONE).encode(), "z": b"later"}
    assert read_smoke_cases(io.BytesIO(archive(files))) == (SmokeCase(session=("a",), skus=("b",)),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        archive({"evaluation/smoke.json": b"[]"}),
        archive({"evaluation/smoke.json": b"{"}),
        archive({"evaluation/smoke.json": b'[{"session": "a", "skus": ["b"], "more": 1}]'}),
        archive({"other/evaluation/smoke.json": json.dumps(ONE).encode()}),
        archive({"evaluation/smoke.json": b""}, tarfile.SYMTYPE),
        archive({"evaluation/smoke.json": json.dumps(ONE).encode()})[:-40],
    ],
    ids=["empty", "rubbish", "no case", "no JSON", "another shape", "another place", "link", "cut off"],
)
def test_unusable_archive_is_bad_input(content: bytes) -> None:
    with pytest.raises(BadInputError):
        read_smoke_cases(io.BytesIO(content))


@pytest.mark.parametrize("limit", ["MAX_CASES_BYTES", "MAX_ARCHIVE_BYTES"])
def test_far_too_large_archive_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(smoke, limit, 10)
    files = {"evaluation/smoke.json": json.dumps(ONE).encode()}
    with pytest.raises(BadInputError, match="10 bytes"):
        read_smoke_cases(io.BytesIO(archive(files)))


def test_broken_transport_is_not_bad_input() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise ConnectionResetError("peer")

    with pytest.raises(ConnectionResetError):
        read_smoke_cases(Broken())  # type: ignore[arg-type]


def test_request_asks_for_as_many_as_the_gate_saw() -> None:
    assert json.loads(request_body(CASE)) == {"instances": [{"session": ["a", "b"], "k": 20}]}


def test_answer_is_read() -> None:
    assert parse_answer(b'{"predictions": [{"skus": ["x", "y"], "fallback": "none"}]}') == ("x", "y")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"predictions": []}', b'{"predictions": [{"skus": "x"}]}', b"\xff", b"null"],
)
def test_answer_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="answer"):
        parse_answer(body)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (SKUS, None),
        (SKUS[::-1], None),
        ((*SKUS[:18], "x", "y"), None),
        ((*SKUS[:17], "x", "y", "z"), "only 17 of 20"),
        (SKUS[:19], "19 products instead of 20"),
        ((*SKUS, "x"), "21 products instead of 20"),
        ((*SKUS[:19], "s0"), "recommended twice"),
        ((), "0 products"),
    ],
    ids=["same", "near ties", "nine in ten", "fewer", "short", "long", "twice", "none"],
)
def test_answers_are_held_against_the_gates(answer: tuple[str, ...], reason: str | None) -> None:
    reasons: list[Any] = compare_answers(CASE, answer)
    assert reasons == [] if reason is None else any(reason in line for line in reasons)

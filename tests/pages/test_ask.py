from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from include.pages.ask import Form, Recommendations, ask, pasted
from tests.pages.conftest import Cloud, recommendations


def up(answer: bytes = b"{}") -> Cloud:
    cloud = Cloud()
    cloud.live, cloud.answer = "s3://b/m.tar.gz", lambda session: answer
    return cloud


def test_answer_comes_with_scores_and_milliseconds() -> None:
    form = ask(up(recommendations(["b", "c"])), "shop", ["a"])
    assert form.trouble is None and form.milliseconds is not None and form.milliseconds > 0
    assert form.rows == [("b", 0.5, 1.0), ("c", pytest.approx(1 / 3), pytest.approx(2 / 3))]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"predictions": []}',
        b'{"predictions": [{"skus": ["a"], "scores": [], "fallback": "none"}]}',
        b'{"predictions": [{"skus": [1], "scores": [0.5], "fallback": "none"}]}',
        b'{"predictions": [{"skus": ["a"], "scores": ["x"], "fallback": "none"}]}',
        b'{"predictions": [{"skus": ["a"], "scores": [0.5]}]}',
        recommendations(["x" * (2 << 20)]),
    ],
    ids=["empty", "html", "list", "none", "no score", "number", "text", "no fallback", "huge"],
)
def test_answer_of_another_shape_is_trouble_and_no_crash(body: bytes) -> None:
    form = ask(up(body), "shop", ["a"])
    assert form.answer is None
    assert form.trouble and form.trouble.startswith("The endpoint's answer cannot be read")
    assert len(form.trouble) < 300


def refused(code: str, message: str) -> Cloud:
    cloud = up()
    cloud.fault = ClientError({"Error": {"Code": code, "Message": message}}, "InvokeEndpoint")
    return cloud


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        ("ModelError", 'Received 400 with message "instance 0: session must be a list"', "session must be"),
        ("ModelError", "x" * 10_000, "xxx"),
        ("ValidationError", "Endpoint shop of account 1 not found.", "not up (yet)"),
    ],
    ids=["model refuses", "at length", "no endpoint"],
)
def test_endpoints_own_trouble_is_told(code: str, message: str, said: str) -> None:
    form = ask(refused(code, message), "shop", ["a"])
    assert form.trouble and said in form.trouble and len(form.trouble) < 600


def test_other_refusals_are_not_the_endpoints() -> None:
    with pytest.raises(ClientError):
        ask(refused("AccessDeniedException", "no"), "shop", ["a"])


@pytest.mark.parametrize(
    ("text", "skus"),
    [("", []), (" a \n\n\tb\r\nc", ["a", "b", "c"]), ("a b,c", ["a b,c"])],
    ids=["nothing", "lines", "one line is one product"],
)
def test_pasted_text_is_a_product_a_line(text: str, skus: list[str]) -> None:
    assert pasted(text) == skus


@pytest.mark.parametrize("scores", [(0.0, 0.0), (-1.0, -2.0)])
def test_bars_stay_bars_whatever_the_scores(scores: tuple[float, float]) -> None:
    form = Form("shop", ("a",), Recommendations(skus=("b", "c"), scores=scores, fallback="none"), 1.0)
    assert all(0 <= share <= 1 for _, _, share in form.rows)

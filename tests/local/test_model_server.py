from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.local import model_server
from include.local.model_server import Context, Reply, invoke, invoke_handler, load_handlers
from include.local.served_model import PredictResponse
from tests.local.cloud import eventually
from tests.local.serving import ask, ping, send, serving

CONTEXT = Context("application/json", "application/json", "", "http://127.0.0.1:1/v1", "", "1")


# Without TensorFlow.


def _predict(bodies: Sequence[Any]) -> list[PredictResponse | Exception]:
    return [PredictResponse(200, json.dumps({"predictions": [json.loads(body)]}).encode()) for body in bodies]


def _handlers(**functions: Any) -> Any:
    return SimpleNamespace(**functions)


def test_handlers_stand_before_and_after_the_model() -> None:
    handlers = _handlers(
        input_handler=lambda data, context: data.read().upper(),
        output_handler=lambda response, context: (
            f"{response.status_code} {response.text} {response.ok} {context.method}",
            "text/plain",
        ),
    )
    assert invoke(handlers, _predict, [(b'"a"', CONTEXT), (b'"b"', CONTEXT)]) == [
        Reply(200, b'200 {"predictions": ["A"]} True predict', "text/plain"),
        Reply(200, b'200 {"predictions": ["B"]} True predict', "text/plain"),
    ]


def test_what_is_wrong_with_one_invocation_the_others_do_not_feel() -> None:
    def check(data: io.BytesIO, context: Context) -> bytes:
        body = data.read()
        if body == b"bad":
            raise ValueError(f"not {context.request_content_type}")
        if body == b"fault":
            raise KeyError("boom")
        return body

    def predict(bodies: Sequence[Any]) -> list[PredictResponse | Exception]:
        assert list(bodies) == [b"1", b"down", b"2", b"late", b"3"]
        return [
            RuntimeError("out of memory") if body == b"down" else PredictResponse(200, body)
            for body in bodies
        ]

    def write(response: PredictResponse, context: Context) -> tuple[str, str]:
        if response.content == b"late":
            raise ValueError("refused late")
        return response.text, "text/plain"

    handlers = _handlers(input_handler=check, output_handler=write)
    bodies = [b"1", b"bad", b"down", b"2", b"fault", b"late", b"3"]
    replies = invoke(handlers, predict, [(body, CONTEXT) for body in bodies])
    assert [(reply.status, reply.content) for reply in replies] == [
        (200, b"1"),
        (400, b'{"error": "not application/json"}'),
        (500, b'{"error": "RuntimeError: out of memory"}'),
        (200, b"2"),
        (500, b'{"error": "KeyError: \'boom\'"}'),
        (400, b'{"error": "refused late"}'),
        (200, b"3"),
    ]


def test_a_model_without_handlers_speaks_tensorflow_servings_rest() -> None:
    assert invoke(None, _predict, [(b"7", CONTEXT)]) == [
        Reply(200, b'{"predictions": [7]}', "application/json")
    ]


def test_a_single_handler_does_it_all() -> None:
    assert invoke_handler(lambda data, context: (data.read(), "text/csv"), b"a,b", CONTEXT) == Reply(
        200, b"a,b", "text/csv"
    )

    def refuse(data: io.BytesIO, context: Context) -> tuple[bytes, str]:
        raise ValueError("no")

    assert invoke_handler(refuse, b"", CONTEXT).status == 400


def test_handlers_are_loaded_from_the_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_handlers(tmp_path) is None
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text("def input_handler(data, context): ...")
    with pytest.raises(AttributeError, match="output_handler"):
        load_handlers(tmp_path)


def test_its_options_are_parsed_without_tensorflow() -> None:
    probe = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from include.local.model_server import main\nmain(['--help'])"
    )
    root = Path(model_server.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", probe], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--model-dir" in done.stdout


# With TensorFlow, in the ML environment, as a process.

EXPORT = """
    import sys
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self):
            self.skus = tf.Variable(["a", "b", "c"])

        @tf.function(input_signature=[
            tf.TensorSpec([None, None], tf.string, name="session"), tf.TensorSpec([None], tf.int32, name="k"),
        ])
        def serve(self, session, k):
            batch = tf.shape(session)[0]
            top = tf.reduce_max(k)
            skus = tf.tile(self.skus[tf.newaxis, :top], [batch, 1])
            tf.debugging.assert_none_equal(session, "poison")
            length = tf.reduce_sum(tf.cast(session != "", tf.float32), 1, keepdims=True)
            scores = tf.where(session[:, :1] == "nan", float("nan"), length) * tf.ones(tf.shape(skus))
            return {"skus": skus, "scores": scores, "k": k}

    model = Model()
    tf.saved_model.save(model, sys.argv[1] + "/1", signatures={"serving_default": model.serve})
"""
INFERENCE = """
    import json

    BATCHABLE = True

    def input_handler(data, context):
        request = json.loads(data.read())
        if "boom" in request:
            raise KeyError("boom")
        if "raw" in request:
            return request["raw"]
        width = max(len(one["session"]) for one in request["instances"])
        rows = [{"session": one["session"] + [""] * (width - len(one["session"])), "k": one["k"]}
                for one in request["instances"]]
        return json.dumps({"instances": rows})

    def output_handler(response, context):
        if response.status_code != 200:
            raise ValueError(response.content.decode())
        rows = json.loads(response.content)["predictions"]
        return json.dumps([{"skus": row["skus"][: row["k"]], "scores": row["scores"]} for row in rows]), (
            context.accept_header)
"""


@pytest.fixture(scope="module")
def artefact(ml_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefact")
    subprocess.run([ml_python, "-c", textwrap.dedent(EXPORT), str(folder)], check=True, capture_output=True)
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(textwrap.dedent(INFERENCE), encoding="utf-8")
    return folder


HANDLER = """
    import json
    import urllib.request

    def handler(data, context):
        rows = [{"session": json.loads(data.read()), "k": 1}]
        body = json.dumps({"instances": rows}).encode()
        return urllib.request.urlopen(urllib.request.Request(context.rest_uri, body)).read(), "text/plain"
"""


@pytest.fixture(scope="module")
def server(ml_python: Path, artefact: Path) -> Iterator[int]:
    with serving(ml_python, artefact) as port:
        yield port


def test_a_saved_model_answers(server: int) -> None:
    request = {"instances": [{"session": ["x", "y"], "k": 1}, {"session": ["x"], "k": 2}]}
    assert ask(server, request) == (
        200,
        [{"skus": ["a"], "scores": [2.0, 2.0]}, {"skus": ["a", "b"], "scores": [1.0, 1.0]}],
    )


def test_tensorflow_servings_own_path_answers(server: int) -> None:
    body = json.dumps({"instances": [{"session": ["x"], "k": 1}]}).encode()
    status, answer = send(server, "POST", "/v1/models/model:predict", body)
    assert (status, json.loads(answer)) == (
        200,
        {"predictions": [{"skus": ["a"], "scores": [1.0], "k": 1}]},
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"raw": '{"instances": [{"session": [1, 2], "k": 1}]}'}, 400),
        ({"raw": '{"instances": [{"session": ["a"], "k": "one"}]}'}, 400),
        ({"raw": '{"instances": [{"session": ["a"], "k": 99999999999}]}'}, 400),
        ({"raw": '{"instances": [{"session": "a", "k": 1}]}'}, 400),
        ({"raw": '{"instances": [{"session": ["a"], "k": 1}, {"session": [], "k": 1}]}'}, 400),
        ({"raw": "not json"}, 400),
        ({"instances": [{"session": ["nan"], "k": 1}]}, 500),
        ({"boom": 1}, 500),
    ],
)
def test_a_bad_request_gets_its_status_and_the_server_lives(
    server: int, body: bytes | dict[str, Any], status: int
) -> None:
    told, answer = ask(server, body)
    assert told == status
    assert set(answer) == {"error"}
    assert ping(server) == 200


def _together(port: int, bodies: Sequence[object]) -> list[tuple[int, Any]]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: ask(port, body), bodies))


def test_requests_that_come_together_get_each_its_own_answer(server: int) -> None:
    """Sessions of all lengths and requests of several rows: an answer in the wrong place would show."""
    bodies = [
        {"instances": [{"session": ["x"] * (length + row), "k": 1 + row} for row in range(1 + length % 3)]}
        for length in range(1, 41)
    ]
    for _ in range(5):
        answers = _together(server, bodies)
        for body, (status, answer) in zip(bodies, answers, strict=True):
            assert status == 200
            assert [row["scores"][0] for row in answer] == [len(row["session"]) for row in body["instances"]]
            assert [len(row["skus"]) for row in answer] == [row["k"] for row in body["instances"]]


POISON: dict[str, tuple[object, int]] = {
    "the graph refuses its value": ({"instances": [{"session": ["poison"], "k": 1}]}, 400),
    "the graph answers NaN": ({"instances": [{"session": ["nan"], "k": 1}]}, 500),
    "not of the signature's type": ({"raw": '{"instances": [{"session": [1], "k": 1}]}'}, 400),
    "the handler fails": ({"boom": 1}, 500),
    "no JSON": (b"{", 400),
}


def test_a_bad_request_spoils_no_other_that_came_with_it(server: int) -> None:
    good: list[object] = [{"instances": [{"session": ["x"] * n, "k": 1}]} for n in range(1, 31)]
    for _ in range(3):
        bodies = [*good[:10], *(body for body, _ in POISON.values()), *good[10:]]
        answers = _together(server, bodies)
        bad = answers[10 : 10 + len(POISON)]
        assert [status for status, _ in bad] == [status for _, status in POISON.values()]
        rest = answers[:10] + answers[10 + len(POISON) :]
        assert [(status, answer[0]["scores"]) for status, answer in rest] == [
            (200, [float(n)]) for n in range(1, 31)
        ]


def test_overload_is_answered_at_once_and_passes(ml_python: Path, artefact: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    shutil.copytree(artefact, slow)
    (slow / "code" / "inference.py").write_text(
        "import time\n"
        + textwrap.dedent(INFERENCE).replace("request = json", "time.sleep(0.2)\n    request = json")
    )
    limits = {"SAGEMAKER_TFS_MAX_BATCH_SIZE": "2", "SAGEMAKER_TFS_MAX_ENQUEUED_BATCHES": "2"}
    body = {"instances": [{"session": ["x"], "k": 1}]}
    with serving(ml_python, slow, **limits) as port:
        answers = _together(port, [body] * 30)
        statuses = [status for status, _ in answers]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 4
        assert "try again" in next(answer["error"] for status, answer in answers if status == 503)
        assert ask(port, body)[0] == 200


def test_what_waits_at_the_end_is_answered(ml_python: Path, artefact: Path) -> None:
    with serving(ml_python, artefact) as port, ThreadPoolExecutor(8) as pool:
        body = {"instances": [{"session": ["x"], "k": 1}]}
        pending = [pool.submit(ask, port, body) for _ in range(8)]
        eventually(lambda: any(one.done() for one in pending), 30)
    assert {one.result()[0] for one in pending} == {200}


def test_handlers_that_call_the_rest_api_do_not_wait_for_each_other(
    ml_python: Path, artefact: Path, tmp_path: Path
) -> None:
    shutil.copytree(artefact, tmp_path / "model")
    (tmp_path / "model" / "code" / "inference.py").write_text(textwrap.dedent(HANDLER), encoding="utf-8")
    with serving(ml_python, tmp_path / "model") as port:
        answers = _together(port, [["x"] * n for n in range(1, 41)])
    assert [answer["predictions"][0]["scores"] for _, answer in answers] == [[float(n)] for n in range(1, 41)]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/invocations", 405), ("POST", "/ping", 405), ("GET", "/../code", 404)],
)
def test_other_paths_are_not_there(server: int, method: str, path: str, status: int) -> None:
    assert send(server, method, path, b"")[0] == status


def test_a_damaged_artefact_ends_the_server_before_it_answers(ml_python: Path, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\x00damaged")
    command = [ml_python, model_server.__file__, "--model-dir", str(tmp_path), "--port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode != 0
    assert "saved_model" in done.stderr

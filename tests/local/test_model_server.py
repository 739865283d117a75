from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from include.local import model_server
from include.local.model_server import (
    BadRequestError,
    Column,
    Context,
    PredictResponse,
    invoke,
    load_handlers,
    newest_version,
    rows_of,
    stack_instances,
)
from tests.local.cloud import alive, eventually

COLUMNS = [Column("session", "string", (None, None)), Column("k", "int32", (None,))]
CONTEXT = Context("application/json", "application/json", "", "http://127.0.0.1:1/v1", "", "1")


# Without TensorFlow.


def test_instances_become_columns() -> None:
    body = {"instances": [{"session": ["a", "b"], "k": 2}, {"session": ["c", ""], "k": 1}]}
    assert stack_instances(body, COLUMNS) == {"k": [2, 1], "session": [["a", "b"], ["c", ""]]}


def test_one_input_takes_bare_values_and_bytes() -> None:
    only = [Column("x", "string", (None,))]
    assert stack_instances({"instances": ["a", {"b64": "/w=="}]}, only) == {"x": ["a", b"\xff"]}
    assert stack_instances({"instances": [{"x": "a"}]}, only) == {"x": ["a"]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "must be an object"),
        ({}, 'a list "instances"'),
        ({"instances": {}}, 'a list "instances"'),
        ({"instances": []}, "is empty"),
        ({"instances": [{"session": []}]}, "exactly k, session"),
        ({"instances": [{"session": [], "k": 1, "x": 1}]}, "exactly k, session"),
        ({"instances": [3]}, "exactly k, session"),
        ({"instances": [{"session": [{"b64": "?"}], "k": 1}]}, "b64"),
        ({"instances": [{"session": [{}], "k": 1}]}, "b64"),
        ({"instances": [{"session": [], "k": 1}], "signature_name": "train"}, "serving_default only"),
    ],
)
def test_a_body_of_another_form_is_a_bad_request(body: object, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        stack_instances(body, COLUMNS)


def test_outputs_become_rows() -> None:
    outputs = {
        "skus": np.array([[b"a", b"\xc3\xa9"], [b"\xff", b""]], dtype=object),
        "scores": np.array([[0.5, 0.25], [1.0, 0.0]], dtype=np.float32),
        "k": np.array([2, 1], dtype=np.int32),
    }
    assert rows_of(outputs) == [
        {"skus": ["a", "é"], "scores": [0.5, 0.25], "k": 2},
        {"skus": [{"b64": "/w=="}, ""], "scores": [1.0, 0.0], "k": 1},
    ]
    assert rows_of({"y": np.array([1, 2])}) == [1, 2]


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((), ())])
def test_outputs_without_a_common_batch_are_a_fault(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(RuntimeError, match="batch"):
        rows_of({str(number): np.zeros(shape) for number, shape in enumerate(shapes)})


def test_a_warm_up_value_has_the_shape_of_the_signature() -> None:
    assert Column("a", "string", (None, None)).dummy == [[""]]
    assert Column("k", "int32", (None,)).dummy == [1]
    assert Column("f", "float32", (None, 3)).dummy == [[1, 1, 1]]


def test_the_greatest_version_is_served(tmp_path: Path) -> None:
    for version in ("2", "10", "code", "9x"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "11").mkdir()
    assert newest_version(tmp_path).name == "10"
    with pytest.raises(FileNotFoundError, match="saved_model.pb"):
        newest_version(tmp_path / "code")


def _predict(body: Any) -> PredictResponse:
    return PredictResponse(200, json.dumps({"predictions": [json.loads(body)]}).encode())


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
    assert invoke(handlers, _predict, b'"a"', CONTEXT) == (
        200,
        b'200 {"predictions": ["A"]} True predict',
        "text/plain",
    )


def test_a_value_error_of_a_handler_is_a_bad_request() -> None:
    def refuse(data: io.BytesIO, context: Context) -> str:
        raise ValueError(f"not {context.request_content_type}")

    handlers = _handlers(input_handler=refuse, output_handler=None)
    assert invoke(handlers, _predict, b"x", CONTEXT) == (
        400,
        b'{"error": "not application/json"}',
        "application/json",
    )


def test_a_model_without_handlers_speaks_tensorflow_servings_rest() -> None:
    assert invoke(None, _predict, b"7", CONTEXT) == (200, b'{"predictions": [7]}', "application/json")


def test_a_single_handler_does_it_all() -> None:
    handlers = _handlers(handler=lambda data, context: (data.read(), "text/csv"))
    assert invoke(handlers, _predict, b"a,b", CONTEXT) == (200, b"a,b", "text/csv")


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
            length = tf.reduce_sum(tf.cast(session != "", tf.float32), 1, keepdims=True)
            scores = tf.where(session[:, :1] == "nan", float("nan"), length) * tf.ones(tf.shape(skus))
            return {"skus": skus, "scores": scores, "k": k}

    model = Model()
    tf.saved_model.save(model, sys.argv[1] + "/1", signatures={"serving_default": model.serve})
"""
INFERENCE = """
    import json

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


@pytest.fixture(scope="module")
def server(ml_python: Path, artefact: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [ml_python, model_server.__file__, "--model-dir", str(artefact), "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        eventually(lambda: process.poll() is not None or _ping(port) == 200, 90)
        yield port
    finally:
        process.terminate()
        assert process.wait(20) is not None
    assert not alive(process.pid)


def _ping(port: int) -> int:
    try:
        return _send(port, "GET", "/ping", b"")[0]
    except OSError:
        return 0


def _send(
    port: int, method: str, path: str, body: bytes, accept: str = "application/json"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json", "Accept": accept}
    with contextlib.suppress(BrokenPipeError):  # it answers an over-long body before the end of it
        connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, answer


def _invoke(port: int, body: object) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = _send(port, "POST", "/invocations", raw)
    return status, json.loads(answer)


def test_a_saved_model_answers(server: int) -> None:
    request = {"instances": [{"session": ["x", "y"], "k": 1}, {"session": ["x"], "k": 2}]}
    assert _invoke(server, request) == (
        200,
        [{"skus": ["a"], "scores": [2.0, 2.0]}, {"skus": ["a", "b"], "scores": [1.0, 1.0]}],
    )


def test_tensorflow_servings_own_path_answers(server: int) -> None:
    body = json.dumps({"instances": [{"session": ["x"], "k": 1}]}).encode()
    status, answer = _send(server, "POST", "/v1/models/model:predict", body)
    assert (status, json.loads(answer)) == (
        200,
        {"predictions": [{"skus": ["a"], "scores": [1.0], "k": 1}]},
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe\x00", 400),
        (b"[" * 100_000, 400),
        ({"raw": '{"instances": [{"session": [1, 2], "k": 1}]}'}, 400),
        ({"raw": '{"instances": [{"session": ["a"], "k": "one"}]}'}, 400),
        ({"raw": '{"instances": [{"session": ["a"], "k": 99999999999}]}'}, 400),
        ({"raw": '{"instances": [{"session": "a", "k": 1}]}'}, 400),
        ({"raw": '{"instances": [{"session": ["a"], "k": 1}, {"session": [], "k": 1}]}'}, 400),
        ({"raw": "not json"}, 400),
        ({"instances": [{"session": ["nan"], "k": 1}]}, 500),
        ({"boom": 1}, 500),
        (b"x" * (6 * 1024**2 + 1), 413),
    ],
)
def test_a_bad_request_gets_its_status_and_the_server_lives(
    server: int, body: bytes | dict[str, Any], status: int
) -> None:
    told, answer = _invoke(server, body)
    assert told == status
    assert set(answer) == {"error"}
    assert _ping(server) == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/invocations", 405), ("POST", "/ping", 405), ("GET", "/../code", 404)],
)
def test_other_paths_are_not_there(server: int, method: str, path: str, status: int) -> None:
    assert _send(server, method, path, b"")[0] == status


def test_a_damaged_artefact_ends_the_server_before_it_answers(ml_python: Path, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\x00damaged")
    command = [ml_python, model_server.__file__, "--model-dir", str(tmp_path), "--port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode != 0
    assert "saved_model" in done.stderr

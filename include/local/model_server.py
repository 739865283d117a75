"""Serves a SavedModel as SageMaker's TensorFlow Serving container does: `/ping` and `/invocations`.

Runs in the ML environment: `python model_server.py --model-dir DIR --port PORT`. The folder is an extracted
`model.tar.gz`: `<version>/saved_model.pb` and, where the model brings one, `code/inference.py` with
`input_handler(data, context)` and `output_handler(response, context)`, or with `handler(data, context)`.

One thread answers. Where `code/inference.py` says `BATCHABLE = True`, it answers all requests that wait by
one call of the graph: that is for models whose rows do not touch each other, and whose texts "" may pad. The
container's own batching (`SAGEMAKER_TFS_ENABLE_BATCHING`) has no setting for padding, and so would refuse
requests of unlike length.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import io
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import uvicorn

if not __package__:  # run by its path, from an environment that knows nothing of this project
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from include.local.batching import Batcher, OverloadedError
from include.local.served_model import JSON, PredictResponse, ServedModel, dump

MAX_BODY_BYTES = 6 * 1024**2
MODEL_NAME = "model"
_REST_PATH = f"/v1/models/{MODEL_NAME}:predict"

# The container's names for them. What its defaults are made for waits for a batch to fill; this does not.
MAX_BATCH = int(os.environ.get("SAGEMAKER_TFS_MAX_BATCH_SIZE", 16))
MAX_WAITING = MAX_BATCH * int(os.environ.get("SAGEMAKER_TFS_MAX_ENQUEUED_BATCHES", 16))
_THREADS = 8

Predict = Callable[[Sequence[Any]], "Sequence[PredictResponse | Exception]"]


@dataclass(frozen=True)
class Context:
    """What a handler is told about its request; SageMaker's names."""

    request_content_type: str
    accept_header: str
    custom_attributes: str
    rest_uri: str
    grpc_uri: str
    model_version: str
    method: str = "predict"
    model_name: str = MODEL_NAME


def load_handlers(model_dir: Path) -> ModuleType | None:
    """Returns the model's `code/inference.py`, None where it has none.

    Raises:
        AttributeError: It has neither `handler` nor both of `input_handler` and `output_handler`.
    """
    path = model_dir / "code" / "inference.py"
    if not path.is_file():
        return None
    sys.path.insert(0, str(path.parent))  # as the container does: it may import what stands beside it
    spec = importlib.util.spec_from_file_location("inference", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "handler"):
        for name in ("input_handler", "output_handler"):
            if not hasattr(module, name):
                raise AttributeError(f"code/inference.py has no {name}")
    return module


class Reply(NamedTuple):
    """What goes back over HTTP."""

    status: int
    content: bytes
    content_type: str = JSON


def invoke(
    handlers: ModuleType | None, predict: Predict, requests: Sequence[tuple[bytes, Context]]
) -> list[Reply]:
    """Answers invocations that came together; what is wrong with one the others do not feel.

    Args:
        handlers: The model's `input_handler` and `output_handler`, if any.
        predict: Answers bodies of TensorFlow Serving's REST API.
        requests: Body and what else the request says.
    """
    replies = [Reply(500, b"")] * len(requests)
    asked: list[tuple[int, Any]] = []
    for number, (body, context) in enumerate(requests):
        try:
            asked.append((number, handlers.input_handler(io.BytesIO(body), context) if handlers else body))
        except Exception as error:
            replies[number] = _failure(error)
    for (number, _), answer in zip(asked, predict([request for _, request in asked]), strict=True):
        try:
            if isinstance(answer, Exception):
                raise answer
            if handlers is None:
                replies[number] = Reply(answer.status_code, answer.content)
            else:
                replies[number] = _reply(*handlers.output_handler(answer, requests[number][1]))
        except Exception as error:
            replies[number] = _failure(error)
    return replies


def invoke_handler(handler: Callable[..., tuple[Any, str]], body: bytes, context: Context) -> Reply:
    """Answers one invocation by a `handler` that does it all, the call of TensorFlow Serving included."""
    try:
        return _reply(*handler(io.BytesIO(body), context))
    except Exception as error:
        return _failure(error)


def _reply(content: Any, content_type: str) -> Reply:
    return Reply(200, content if isinstance(content, bytes) else str(content).encode(), content_type)


def _failure(error: Exception) -> Reply:
    if isinstance(error, ValueError | RecursionError):  # the latter: JSON nested thousands deep
        return Reply(400, dump({"error": str(error)}))
    return Reply(500, dump({"error": f"{type(error).__name__}: {error}"}))


class Api:
    """The HTTP side, an ASGI application; a framework would cost as much as all else that is Python here.

    Args:
        model: What answers.
        handlers: The model's own handlers, if any.
        port: The server's port, which handlers are told.
    """

    def __init__(self, model: ServedModel, handlers: ModuleType | None, port: int) -> None:
        self._model = model
        self._handler = getattr(handlers, "handler", None)
        self._rest_uri = f"http://127.0.0.1:{port}{_REST_PATH}"
        batchable = bool(getattr(handlers, "BATCHABLE", False))

        def answer(requests: Sequence[tuple[bytes, Context]]) -> list[Reply]:
            return invoke(handlers, lambda bodies: model.predict(bodies, batchable), requests)

        self._batcher = Batcher(answer, MAX_BATCH if batchable else 1, MAX_WAITING)
        # Two: all handlers may be waiting for an answer of the REST API.
        self._handlers = ThreadPoolExecutor(_THREADS)
        self._rest = ThreadPoolExecutor(_THREADS)
        self._apart = 0
        self._routes = {
            "/ping": ("GET", self.ping),
            "/invocations": ("POST", self.invocations),
            _REST_PATH: ("POST", self.rest_predict),
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Answers one request."""
        method, answer = self._routes.get(scope["path"], ("", None))
        headers: list[tuple[bytes, bytes]] = []
        if answer is None:
            reply = Reply(404, dump({"error": f"there is no {scope['path']}"}))
        elif scope["method"] != method:
            reply = Reply(405, dump({"error": f"only {method}"}))
        elif (body := await _read(receive)) is None:
            reply = Reply(413, dump({"error": f"the body is larger than {MAX_BODY_BYTES} bytes"}))
            headers = [(b"connection", b"close")]  # the rest of the body is unread
        else:
            try:
                reply = await answer(body, scope["headers"])
            except OverloadedError as error:
                reply = Reply(503, dump({"error": f"overloaded: {error}; try again"}))
            except Exception as error:
                reply = Reply(500, dump({"error": f"{type(error).__name__}: {error}"}))
        headers += [
            (b"content-type", reply.content_type.encode("latin-1", "replace")),
            (b"content-length", str(len(reply.content)).encode()),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.content})

    async def ping(self, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Reply:
        """Answers 200: the model was warm before the port opened."""
        return Reply(200, b"")

    async def invocations(self, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Reply:
        """Answers an invocation."""
        said = {name: value.decode("latin-1") for name, value in headers}
        context = Context(
            request_content_type=said.get(b"content-type", JSON),
            accept_header=said.get(b"accept", JSON),
            custom_attributes=said.get(b"x-amzn-sagemaker-custom-attributes", ""),
            rest_uri=self._rest_uri,
            grpc_uri="",  # there is no gRPC here
            model_version=self._model.version,
        )
        if self._handler is not None:
            return await self._run(self._handlers, invoke_handler, self._handler, body, context)
        return await self._batcher.submit((body, context))

    async def rest_predict(self, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Reply:
        """Answers TensorFlow Serving's REST API, for handlers that call it themselves.

        Not by the batcher's thread, in which such a handler may be waiting for this very answer.
        """
        [answer] = await self._run(self._rest, self._model.predict, [body])
        return (
            _failure(answer) if isinstance(answer, Exception) else Reply(answer.status_code, answer.content)
        )

    def close(self) -> None:
        """Ends the thread that answers."""
        self._batcher.close(seconds=1)

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._apart >= MAX_WAITING:
            raise OverloadedError(f"{self._apart} requests wait already")
        self._apart += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
        finally:
            self._apart -= 1


async def _read(receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> bytes | None:
    message = await receive()
    body = message.get("body", b"")
    if not message.get("more_body"):
        return body if len(body) <= MAX_BODY_BYTES else None
    parts = bytearray(body)
    while message.get("more_body") and len(parts) <= MAX_BODY_BYTES:
        message = await receive()
        parts += message.get("body", b"")
    return bytes(parts) if len(parts) <= MAX_BODY_BYTES else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Loads, warms up, serves until TERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="model_server.py", description=__doc__)
    parser.add_argument("--model-dir", type=Path, required=True, help="the extracted model.tar.gz")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    options = parser.parse_args(arguments)

    model = ServedModel(options.model_dir)
    handlers = load_handlers(options.model_dir)
    # Before the port opens: whoever gets an answer to /ping gets a fast one to its first invocation, too.
    model.warm_up()
    if getattr(handlers, "BATCHABLE", False):
        model.warm_up(MAX_BATCH)
    api = Api(model, handlers, options.port)
    gc.freeze()  # TensorFlow's objects are there to stay; looking through them takes 100 ms, at any time
    uvicorn.run(
        api,
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=5,
    )
    api.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

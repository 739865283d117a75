"""Serves a SavedModel as SageMaker's TensorFlow Serving container does: `/ping` and `/invocations`.

Runs in the ML environment: `python model_server.py --model-dir DIR --port PORT`. The folder is an extracted
`model.tar.gz`: `<version>/saved_model.pb` and, where the model brings one, `code/inference.py` with
`input_handler(data, context)` and `output_handler(response, context)`, or with `handler(data, context)`.
Between the two stands what TensorFlow Serving's REST API does with `{"instances": […]}`. TensorFlow itself is
imported where a model is loaded, not before.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MAX_BODY_BYTES = 6 * 1024**2
MODEL_NAME = "model"
SIGNATURE = "serving_default"
_JSON = "application/json"
_REST_PATH = f"/v1/models/{MODEL_NAME}:predict"

Predict = Callable[[Any], "PredictResponse"]


class BadRequestError(ValueError):
    """The request cannot be answered as it is; the text tells the caller why."""


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


@dataclass(frozen=True)
class PredictResponse:
    """What `output_handler` gets: the part of `requests.Response` that handlers use."""

    status_code: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": _JSON})

    @property
    def ok(self) -> bool:
        """Whether the prediction succeeded."""
        return self.status_code < 400

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8")

    def json(self) -> Any:
        """Returns the decoded body."""
        return json.loads(self.content)


@dataclass(frozen=True)
class Column:
    """One input of a signature.

    Attributes:
        dtype: TensorFlow's name of the type, such as `string` or `int32`.
        shape: Sizes, None where any will do; the first is the batch.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def dummy(self) -> Any:
        """A value for a warm-up: one row, every free size 1."""
        value: Any = "" if self.dtype == "string" else 1
        for size in reversed(self.shape):
            value = [value] * (size or 1)
        return value


def stack_instances(body: object, columns: Sequence[Column]) -> dict[str, list[Any]]:
    """Returns the row format of TensorFlow Serving by columns.

    Args:
        body: The decoded request: `{"instances": [row, …]}`, a row being an object, or a bare value where the
            signature has one input.
        columns: Inputs of the signature.

    Returns:
        Input name to the list of its values, one for each row.

    Raises:
        BadRequestError: It is not of that form.
    """
    if not isinstance(body, dict) or not isinstance(body.get("instances"), list):
        raise BadRequestError('the request must be an object with a list "instances"')
    if body.get("signature_name", SIGNATURE) != SIGNATURE:
        raise BadRequestError(f"the model has the signature {SIGNATURE} only")
    instances = body["instances"]
    if not instances:
        raise BadRequestError('"instances" is empty')
    names = {column.name for column in columns}
    rows = [_row(instance, names, number) for number, instance in enumerate(instances)]
    return {name: [_decode(row[name]) for row in rows] for name in sorted(names)}


def _row(instance: object, names: set[str], number: int) -> dict[str, Any]:
    if len(names) == 1 and not (isinstance(instance, dict) and set(instance) == names):
        return {next(iter(names)): instance}
    if not isinstance(instance, dict) or set(instance) != names:
        raise BadRequestError(f"instance {number} must be an object with exactly {', '.join(sorted(names))}")
    return instance


def _decode(value: Any) -> Any:
    """Undoes `{"b64": …}`, as TensorFlow Serving writes bytes that are no text."""
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequestError('an object inside an instance must be {"b64": "…"}') from error
    return value


def rows_of(outputs: Mapping[str, Any]) -> list[Any]:
    """Returns output arrays as TensorFlow Serving's `predictions`.

    Args:
        outputs: Output name to numpy array `[batch, …]`.

    Returns:
        One object a row; the bare values where the signature has one output.

    Raises:
        RuntimeError: The outputs do not have the same number of rows.
    """
    lists = {name: _as_text(array.tolist()) for name, array in outputs.items()}
    sizes = {len(values) if isinstance(values, list) else -1 for values in lists.values()}
    if len(sizes) != 1 or -1 in sizes:
        raise RuntimeError("the outputs of the signature do not share their batch dimension")
    if len(lists) == 1:
        only: list[Any] = next(iter(lists.values()))
        return only
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode("ascii")}
    return value


class ServedModel:
    """A loaded SavedModel.

    Args:
        model_dir: Holds `<version>/saved_model.pb`; the greatest version is served.

    Raises:
        FileNotFoundError: There is none.
    """

    def __init__(self, model_dir: Path) -> None:
        import tensorflow as tf

        # One thread answers a small request as fast as all of them, for half the CPU.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
        folder = newest_version(model_dir)
        self.version = folder.name
        self._tf = tf
        self._model = tf.saved_model.load(str(folder))  # owns the variables: must stay alive
        self._function = self._model.signatures[SIGNATURE]
        self.columns = [
            Column(name, spec.dtype.name, tuple(spec.shape.as_list()))
            for name, spec in self._function.structured_input_signature[1].items()
        ]

    def warm_up(self) -> None:
        """Runs the signature once; the first call traces and costs ten times the others."""
        self.predict_columns({column.name: column.dummy for column in self.columns})

    def predict(self, body: Any) -> PredictResponse:
        """Answers a request of TensorFlow Serving's REST API, bad ones included.

        Raises:
            RuntimeError: The model answered what JSON does not have, such as NaN.
        """
        try:
            if isinstance(body, str | bytes | bytearray):
                body = json.loads(body)
            predictions = self.predict_columns(stack_instances(body, self.columns))
        except ValueError as error:  # BadRequestError, or no JSON
            return PredictResponse(400, _dump({"error": str(error)}))
        try:
            return PredictResponse(200, _dump({"predictions": predictions}))
        except ValueError as error:
            raise RuntimeError(f"the model's answer is not JSON: {error}") from error

    def predict_columns(self, columns: Mapping[str, Any]) -> list[Any]:
        """Runs the signature.

        Raises:
            BadRequestError: The values do not fit its types or shapes.
        """
        tensors = {}
        for column in self.columns:
            try:
                tensor = self._tf.constant(columns[column.name], dtype=column.dtype)
            except (ValueError, TypeError, OverflowError) as error:
                raise BadRequestError(
                    f"{column.name} must be {column.dtype} of one length in all instances"
                ) from error
            # TensorFlow wraps a whole number that is too large for its type around, silently.
            if tensor.dtype.is_integer and tensor.numpy().tolist() != columns[column.name]:
                raise BadRequestError(f"{column.name} holds a number outside {column.dtype}")
            if not tensor.shape.is_compatible_with(column.shape):
                raise BadRequestError(f"{column.name} has shape {tensor.shape}, not {list(column.shape)}")
            tensors[column.name] = tensor
        try:
            outputs = self._function(**tensors)
        except self._tf.errors.InvalidArgumentError as error:
            raise BadRequestError(error.message) from error
        return rows_of({name: tensor.numpy() for name, tensor in outputs.items()})


def newest_version(model_dir: Path) -> Path:
    """Returns the folder of the greatest version.

    Raises:
        FileNotFoundError: No folder named by a number holds a `saved_model.pb`.
    """
    versions = [
        path.parent
        for path in model_dir.glob("*/saved_model.pb")
        if path.parent.name.isascii() and path.parent.name.isdigit()
    ]
    if not versions:
        raise FileNotFoundError(f"no <version>/saved_model.pb in {model_dir}")
    return max(versions, key=lambda folder: int(folder.name))


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


def invoke(
    handlers: ModuleType | None, predict: Predict, body: bytes, context: Context
) -> tuple[int, bytes, str]:
    """Answers one invocation.

    Args:
        handlers: The model's handlers, if any.
        predict: Answers a body of TensorFlow Serving's REST API.
        body: The request.
        context: What else the request says.

    Returns:
        HTTP status, body, content type.
    """
    try:
        if handlers is None:
            response = predict(body)
            return response.status_code, response.content, _JSON
        if hasattr(handlers, "handler"):
            answer, content_type = handlers.handler(io.BytesIO(body), context)
        else:
            request = handlers.input_handler(io.BytesIO(body), context)
            answer, content_type = handlers.output_handler(predict(request), context)
    except (ValueError, RecursionError) as error:  # the latter: JSON nested thousands deep
        return 400, _dump({"error": str(error)}), _JSON
    return 200, answer if isinstance(answer, bytes) else str(answer).encode(), content_type


class Api:
    """The HTTP side.

    Args:
        model: What answers.
        handlers: The model's own handlers, if any.
        port: The server's port, which handlers are told.
    """

    def __init__(self, model: ServedModel, handlers: ModuleType | None, port: int) -> None:
        self._model = model
        self._handlers = handlers
        self._rest_uri = f"http://127.0.0.1:{port}{_REST_PATH}"

    def app(self) -> Starlette:
        """Returns the ASGI application."""
        return Starlette(
            routes=[
                Route("/ping", self.ping, methods=["GET"]),
                Route("/invocations", self.invocations, methods=["POST"]),
                Route(_REST_PATH, self.rest_predict, methods=["POST"]),
            ],
            exception_handlers={Exception: _on_error},
        )

    async def ping(self, request: Request) -> Response:
        """Answers 200: the model was warm before the port opened."""
        return Response(status_code=200)

    async def invocations(self, request: Request) -> Response:
        """Answers an invocation."""
        body = await _read(request)
        if body is None:
            return _too_large()
        context = Context(
            request_content_type=request.headers.get("content-type", _JSON),
            accept_header=request.headers.get("accept", _JSON),
            custom_attributes=request.headers.get("x-amzn-sagemaker-custom-attributes", ""),
            rest_uri=self._rest_uri,
            grpc_uri="",  # there is no gRPC here
            model_version=self._model.version,
        )
        status, content, content_type = await run_in_threadpool(
            invoke, self._handlers, self._model.predict, body, context
        )
        return Response(content, status, media_type=content_type)

    async def rest_predict(self, request: Request) -> Response:
        """Answers TensorFlow Serving's REST API, for handlers that call it themselves."""
        body = await _read(request)
        if body is None:
            return _too_large()
        response = await run_in_threadpool(self._model.predict, body)
        return Response(response.content, response.status_code, media_type=_JSON)


async def _read(request: Request) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _too_large() -> Response:
    # The rest of the body is unread: the connection cannot be used again.
    content = _dump({"error": f"the body is larger than {MAX_BODY_BYTES} bytes"})
    return Response(content, 413, {"Connection": "close"}, _JSON)


async def _on_error(request: Request, error: Exception) -> Response:
    return Response(_dump({"error": f"{type(error).__name__}: {error}"}), 500, media_type=_JSON)


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
    uvicorn.run(
        Api(model, handlers, options.port).app(),
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    return 0


def _dump(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode("utf-8")


if __name__ == "__main__":
    sys.exit(main())

"""A SavedModel behind what TensorFlow Serving's REST API does with `{"instances": […]}`.

TensorFlow itself is imported where a model is loaded, not before.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIGNATURE = "serving_default"
JSON = "application/json"
_ROWS = 128  # of one call; a request is never split


class BadRequestError(ValueError):
    """The request cannot be answered as it is; the text tells the caller why."""


@dataclass(frozen=True)
class PredictResponse:
    """What `output_handler` gets: the part of `requests.Response` that handlers use."""

    status_code: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})

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
        value: Any = {"string": "", "bool": False}.get(self.dtype, 1)
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

    def warm_up(self, rows: int = 1) -> None:
        """Runs the signature a few times; the first call traces and costs ten times the others."""
        for _ in range(3):
            self._call({column.name: column.dummy * rows for column in self.columns})

    def predict(self, bodies: Sequence[Any], batchable: bool = False) -> list[PredictResponse | Exception]:
        """Answers requests of TensorFlow Serving's REST API, each as if it were alone.

        Args:
            bodies: The requests; JSON, or decoded.
            batchable: Whether rows of several requests may share a call.

        Returns:
            A response for each, status 400 for a bad one, or the reason for which the server failed on it.
        """
        answers: list[PredictResponse | Exception] = []
        good: list[tuple[int, dict[str, list[Any]]]] = []
        for number, body in enumerate(bodies):
            answers.append(PredictResponse(500, b""))
            try:
                if isinstance(body, str | bytes | bytearray):
                    body = json.loads(body)
                columns = stack_instances(body, self.columns)
                self._tensors(columns)  # refused alone, before it can spoil a batch
                good.append((number, columns))
            except (ValueError, RecursionError) as error:  # BadRequestError, or no JSON
                answers[number] = _refusal(error)
        for group in _groups(good, _ROWS if batchable else 0):
            for (number, _), answer in zip(group, self._answer(group), strict=True):
                answers[number] = answer
        return answers

    def _answer(self, group: Sequence[tuple[int, dict[str, list[Any]]]]) -> list[PredictResponse | Exception]:
        try:
            rows = self._call(merge([columns for _, columns in group], self.columns))
        except Exception as error:
            if len(group) > 1:  # whose fault it was shows when each is asked alone
                return [self._answer([one])[0] for one in group]
            return [_refusal(error) if isinstance(error, BadRequestError) else error]
        answers: list[PredictResponse | Exception] = []
        for _, columns in group:
            own, rows = rows[: _rows(columns)], rows[_rows(columns) :]
            try:
                answers.append(PredictResponse(200, dump({"predictions": own})))
            except ValueError as error:  # such as NaN
                answers.append(RuntimeError(f"the model's answer is not JSON: {error}"))
        return answers

    def _call(self, columns: Mapping[str, Any]) -> list[Any]:
        try:
            outputs = self._function(**self._tensors(columns))
        except self._tf.errors.InvalidArgumentError as error:
            raise BadRequestError(error.message) from error
        return rows_of({name: tensor.numpy() for name, tensor in outputs.items()})

    def _tensors(self, columns: Mapping[str, Any]) -> dict[str, Any]:
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
        return tensors


def _rows(columns: Mapping[str, list[Any]]) -> int:
    return len(next(iter(columns.values())))


def _groups(
    requests: Sequence[tuple[int, dict[str, list[Any]]]], rows: int
) -> list[list[tuple[int, dict[str, list[Any]]]]]:
    """Returns the requests in order, cut where a call would have more than `rows` rows."""
    groups: list[list[tuple[int, dict[str, list[Any]]]]] = []
    held = rows
    for request in requests:
        size = _rows(request[1])
        if not groups or held + size > rows:
            groups.append([])
            held = 0
        groups[-1].append(request)
        held += size
    return groups


def merge(requests: Sequence[Mapping[str, list[Any]]], columns: Sequence[Column]) -> dict[str, list[Any]]:
    """Returns the rows of several requests as those of one, lists of texts padded with "" to one length."""
    if len(requests) == 1:
        return dict(requests[0])
    merged = {}
    for column in columns:
        rows = [row for request in requests for row in request[column.name]]
        if column.dtype == "string" and len(column.shape) == 2:
            width = max(len(row) for row in rows)
            rows = [row + [""] * (width - len(row)) for row in rows]
        merged[column.name] = rows
    return merged


def _refusal(error: Exception) -> PredictResponse:
    return PredictResponse(400, dump({"error": str(error)}))


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


def dump(value: Any) -> bytes:
    """Returns JSON.

    Raises:
        ValueError: The value holds what JSON does not have, such as NaN.
    """
    return json.dumps(value, allow_nan=False).encode("utf-8")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from include.local.served_model import (
    BadRequestError,
    Column,
    merge,
    newest_version,
    rows_of,
    stack_instances,
)

COLUMNS = [Column("session", "string", (None, None)), Column("k", "int32", (None,))]


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
    assert Column("b", "bool", (None,)).dummy == [False]
    assert Column("f", "float32", (None, 3)).dummy == [[1, 1, 1]]


def test_the_greatest_version_is_served(tmp_path: Path) -> None:
    for version in ("2", "10", "code", "9x"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "11").mkdir()
    assert newest_version(tmp_path).name == "10"
    with pytest.raises(FileNotFoundError, match="saved_model.pb"):
        newest_version(tmp_path / "code")


def test_rows_of_several_requests_become_one_padded_request() -> None:
    requests = [
        {"session": [["a", "b", "c"]], "k": [2]},
        {"session": [["d"], [""]], "k": [1, 3]},
    ]
    assert merge(requests, COLUMNS) == {
        "session": [["a", "b", "c"], ["d", "", ""], ["", "", ""]],
        "k": [2, 1, 3],
    }
    assert requests[1]["session"] == [["d"], [""]]


def test_numbers_are_never_padded() -> None:
    column = Column("x", "float32", (None, None))
    assert merge([{"x": [[1.0]]}, {"x": [[1.0, 2.0]]}], [column]) == {"x": [[1.0], [1.0, 2.0]]}

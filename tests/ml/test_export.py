from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf  # noqa: TID253  # runs in the ML environment only

import inference
from export import Exported, top_k

Ask = Callable[..., tuple[list[list[str]], dict[str, Any]]]


@pytest.fixture(scope="module")
def ask(trained: tuple[Path, str]) -> Ask:
    exported = Exported(trained[0] / "model" / "1")

    def call(
        *sessions: list[str], k: int = 20, exclude_seen: bool = False
    ) -> tuple[list[list[str]], dict[str, Any]]:
        width = max(1, *(len(session) for session in sessions))
        padded = np.array([session + [""] * (width - len(session)) for session in sessions], dtype=object)
        outputs = exported.answer(padded.reshape(len(sessions), width), k, exclude_seen)
        return [[sku.decode() for sku in row] for row in outputs["skus"]], outputs

    return call


def test_chain_is_continued_through_any_sku(ask: Ask, odd_skus: list[str]) -> None:
    for chain, odd in enumerate(odd_skus):
        assert ask([f"A{chain}"])[0][0][0] == odd
        assert ask([f"A{chain}", odd])[0][0][0] == f"C{chain}"


FALLBACK = {
    "empty": [],
    "padding only": ["", "", ""],
    "unknown only": ["nope", "🙃", "y" * 5000],
}


@pytest.mark.parametrize("case", FALLBACK)
def test_nothing_known_is_answered_by_popularity(case: str, ask: Ask) -> None:
    skus, outputs = ask(FALLBACK[case])
    assert outputs["fallback"].tolist() == [b"popularity"]
    assert len(set(skus[0])) == 20
    assert "" not in skus[0]
    assert skus == ask(["other"])[0]
    assert (np.diff(outputs["scores"][0]) <= 0).all()


SAME = {
    "unknown around": (["zzz", "A9", "zzz"], ["A9"]),
    "padding anywhere": (["", "A9", "", "B9", ""], ["A9", "B9"]),
    "consecutive repeats": (["A9", "A9", "B9", "B9"], ["A9", "B9"]),
    "only the last 50 count": (["C9", "A8"] * 30 + ["A9"] + ["A10", "B10"] * 25, ["A10", "B10"] * 25),
}


@pytest.mark.parametrize("case", SAME)
def test_sessions_that_mean_the_same(case: str, ask: Ask) -> None:
    one, other = SAME[case]
    first, second = ask(one), ask(other)
    assert first[0] == second[0]
    assert first[1]["fallback"].tolist() == [b"none"]
    np.testing.assert_allclose(first[1]["scores"], second[1]["scores"], rtol=1e-4, atol=1e-7)


def test_viewed_item_and_padding_are_never_recommended(ask: Ask) -> None:
    sessions = [["A9", "B9"], ["A9", "A10", "A9"], ["B10", "unknown"], ["never seen"]]
    skus, outputs = ask(*sessions, k=50)
    for row, viewed in zip(skus, ["B9", "A9", "B10", None], strict=True):
        real = [sku for sku in row if sku]
        # All 36 products but the viewed one; what is left of the width is empty and at the end.
        assert len(set(real)) == len(real) == (36 if viewed is None else 35)
        assert row[: len(real)] == real
        assert viewed not in real
    assert "A9" in ask(["A9", "B9"], k=50)[0][0]  # seen earlier may come again
    assert np.isfinite(outputs["scores"]).all()


SEEN = {
    "of the network's window": ["A9", "B9"],
    "repeated": ["A9", "B9", "A9", "A9"],
    "beyond the network's window": ["C9", "B9"] + ["A10", "B10"] * 30,
    "around unknown ones": ["A9", "unknown", "B9", "unknown"],
}


@pytest.mark.parametrize("case", SEEN)
def test_seen_products_are_left_out_where_asked(case: str, ask: Ask) -> None:
    session = SEEN[case]
    every, _ = ask(session, k=50)
    fresh, outputs = ask(session, k=50, exclude_seen=True)
    # The same list without them: to leave some out moves no other.
    wanted = [sku for sku in every[0] if sku and sku not in session]
    assert [sku for sku in fresh[0] if sku] == wanted
    assert set(session) & set(every[0])
    assert (outputs["scores"][0][: len(wanted)] > 0).all()


def test_each_row_has_its_own_way_with_seen_products(trained: tuple[Path, str]) -> None:
    serve = tf.saved_model.load(str(trained[0] / "model" / "1")).signatures["serving_default"]
    session = tf.constant([["A9", "B9"], ["A9", "B9"]])
    outputs = serve(session=session, k=tf.constant([50, 50]), exclude_seen=tf.constant([True, False]))
    has = [b"A9" in row for row in outputs["skus"].numpy().tolist()]
    assert has == [False, True]


def _scores(case: str, rows: int, columns: int) -> Any:
    rng = np.random.default_rng(rows * columns)
    if case == "distinct":
        return rng.permutation(rows * columns).reshape(rows, columns).astype(np.float32)
    if case == "many ties":
        return rng.integers(-1, 3, (rows, columns)).astype(np.float32)
    if case == "all the same":
        return np.full((rows, columns), 0.5, np.float32)
    return np.sort(rng.random((rows, columns)).astype(np.float32), axis=1)[
        :, :: 1 if case == "rising" else -1
    ]


@pytest.mark.parametrize("columns", [1, 37, 63, 64, 65, 129, 1000, 5000])
@pytest.mark.parametrize("case", ["distinct", "many ties", "all the same", "rising", "falling"])
def test_top_k_is_exact_and_lower_columns_come_first(case: str, columns: int) -> None:
    scores = _scores(case, 3, columns)
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in {1, 2, 20, 50, columns} - {size for size in (2, 20, 50) if size > columns}:
        values, places = top_k(tf.constant(scores), tf.constant(k))
        assert places.numpy().tolist() == order[:, :k].tolist()
        np.testing.assert_array_equal(values, np.take_along_axis(scores, order[:, :k], axis=1))


@pytest.mark.parametrize(("k", "given"), [(-3, 1), (0, 1), (1, 1), (7, 7), (50, 35), (10_000, 35)])
def test_k_is_bounded(k: int, given: int, ask: Ask) -> None:
    skus, outputs = ask(["A9"], k=k)
    assert len([sku for sku in skus[0] if sku]) == given
    assert outputs["k"].tolist() == [min(max(k, 1), 50)]


def test_rows_of_a_batch_do_not_touch_each_other(ask: Ask) -> None:
    sessions = [["A9"], [], ["A10", "B10", "C10", "A9"], ["unknown"]]
    together, _ = ask(*sessions)
    for session, row in zip(sessions, together, strict=True):
        assert ask(session)[0][0][:2] == row[:2]


def test_smoke_cases_are_what_the_export_answers(ask: Ask, trained: tuple[Path, str]) -> None:
    cases = json.loads((trained[0] / "data/evaluation/smoke.json").read_text())
    assert len(cases) == 20
    for case in cases:
        assert ask(case["session"])[0][0] == case["skus"]


def test_graph_holds_no_python_and_no_gpu_kernel(trained: tuple[Path, str]) -> None:
    graph = (trained[0] / "model/1/saved_model.pb").read_bytes()
    for op in (b"PyFunc", b"EagerPyFunc", b"CudnnRNN"):
        assert op not in graph


def test_export_needs_nothing_of_the_room(trained: tuple[Path, str], tmp_path: Path) -> None:
    """Moved elsewhere and read by a process that knows neither Keras nor our modules."""
    shutil.copytree(trained[0] / "model" / "1", tmp_path / "1")
    script = (
        "import sys, tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "out = serve(session=tf.constant([['A9']]), k=tf.constant([3]), exclude_seen=tf.constant([False]))\n"
        "print(out['skus'].numpy()[0][0].decode(), 'recommender' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "1")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["B9", "False"]


def test_handlers_and_export_fit_together(ask: Ask) -> None:
    body = {"instances": [{"session": ["A9"], "k": 2}, {"session": [], "k": 1}]}
    context = SimpleNamespace(request_content_type="application/json", accept_header="application/json")
    sent = json.loads(inference.input_handler(io.BytesIO(json.dumps(body).encode()), context))
    rows = []
    for row in sent["instances"]:
        skus, outputs = ask(row["session"], k=row["k"], exclude_seen=row["exclude_seen"])
        rows.append(
            {
                "skus": skus[0],
                "scores": outputs["scores"][0].tolist(),
                "fallback": outputs["fallback"][0].decode(),
                "k": int(outputs["k"][0]),
            }
        )
    served = SimpleNamespace(status_code=200, content=json.dumps({"predictions": rows}).encode())
    predictions = json.loads(inference.output_handler(served, context)[0])["predictions"]
    assert predictions[0]["skus"][0] == "B9"
    assert [len(row["skus"]) for row in predictions] == [2, 1]
    assert [row["fallback"] for row in predictions] == ["none", "popularity"]


def test_lone_request_is_quick(ask: Ask) -> None:
    ask(["A9", "B9"])
    started = time.perf_counter()
    for _ in range(20):
        ask(["A9", "B9"])
    assert (time.perf_counter() - started) / 20 < 0.2

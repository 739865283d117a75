from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sessions
import splits

Make = Callable[..., Path]


def _edit(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "other schema version": (_edit(schema_version=2), "schema_version"),
    "no files": (_edit(files=None), "no list of files"),
    "path outside": (_edit(files=[{"path": "../x", "sha256": ""}]), "outside"),
    "count differs": (_edit(counts={"train": 99}), "manifest counts 99"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_snapshot_that_differs_from_its_manifest_is_refused(
    case: str, tmp_path: Path, make_snapshot: Make
) -> None:
    break_it, reason = REFUSED[case]
    folder = make_snapshot(tmp_path / "s", [["a", "b"]], [], [["a", "b"]])
    break_it(folder)
    with pytest.raises(sessions.SnapshotError, match=reason):
        sessions.load(folder)


@pytest.mark.parametrize("as_json", [False, True], ids=["list", "json text"])
def test_sessions_are_cleaned_and_encoded(
    as_json: bool, tmp_path: Path, make_snapshot: Make, odd_skus: list[str]
) -> None:
    train = [
        ["b", "b", "a", "b"],  # repeat collapses
        ["a", "a"],  # one interaction left: dropped
        ["", "c", None, "c", "b"],  # empty SKUs are no products; the repeat around them collapses
        [],
        odd_skus,
    ]
    folder = make_snapshot(tmp_path / "s", train, [], [["b", "new", "a"]], as_json=as_json)
    corpus = sessions.load(folder)
    # Most frequent first, ties by SKU.
    assert list(corpus.vocabulary.skus) == ["b", *sorted(["a", "c", *odd_skus], key=str.encode)]
    assert list(corpus.vocabulary.counts) == [3] + [1] * (2 + len(odd_skus))
    assert corpus.train.session_ids.to_pylist() == ["s00000", "s00002", "s00004"]
    assert list(corpus.train.offsets) == [0, 3, 5, 5 + len(odd_skus)]
    assert _names(corpus, corpus.train)[:5] == ["b", "a", "b", "c", "b"]
    assert _names(corpus, corpus.test) == ["b", "new", "a"]
    assert corpus.test.ids[[0, 1]].tolist() == [1, 0]
    assert corpus.vocabulary.skus[corpus.test.ids[2] - 1] == "a"
    assert len(corpus.validation) == 0


CATALOGS: dict[str, tuple[dict[str, str | None] | None, list[int] | None]] = {
    "none": (None, None),
    "without rows": ({}, None),
    # Numbered by name: audio 1, video 2. Ids: a, b, c.
    "some products": ({"c": "audio", "a": "video", "sold by nobody": "books"}, [0, 2, 0, 1]),
    "null category": ({"a": None, "b": "audio", "c": "audio"}, [0, 0, 1, 1]),
    "null categories only": ({"a": None, "b": None, "c": None}, None),
    "other products only": ({"x": "audio"}, None),
}


@pytest.mark.parametrize("case", CATALOGS)
def test_categories_are_those_of_the_catalogue(case: str, tmp_path: Path, make_snapshot: Make) -> None:
    catalog, wanted = CATALOGS[case]
    train = [["a", "b", "a", "b", "a"], ["b", "c"]]
    corpus = sessions.load(make_snapshot(tmp_path / "s", train, [], [["a", "x"]], catalog=catalog))
    assert list(corpus.vocabulary.skus) == ["a", "b", "c"]
    assert (None if corpus.kinds is None else corpus.kinds[:, 0].tolist()) == wanted
    assert corpus.kinds is None or not corpus.kinds[:, 1:].any()  # it says no price


def test_kinds_are_category_price_and_both_together(tmp_path: Path, make_snapshot: Make) -> None:
    catalog = {"a": "video", "b": "audio", "c": "video", "d": None, "e": "audio"}
    prices = {"a": 10.0, "b": 2.0, "c": 2.0, "d": 10.0}
    train = [["a", "b", "a", "b", "c", "a", "b", "c", "d"], ["a", "b", "c", "d", "e"], ["a", "f"]]
    folder = make_snapshot(tmp_path / "s", train, [], [["a", "b"]], catalog=catalog, prices=prices)
    corpus = sessions.load(folder)
    assert list(corpus.vocabulary.skus) == ["a", "b", "c", "d", "e", "f"]
    assert corpus.kinds is not None
    # Audio 1, video 2; prices 3 and 4; audio at 3 is 5, video at 3 is 6, at 4 is 7.
    assert corpus.kinds.tolist() == [
        [0, 0, 0],
        [2, 4, 7],
        [1, 3, 5],
        [2, 3, 6],
        [0, 4, 0],
        [1, 0, 0],
        [0, 0, 0],
    ]


def test_validation_products_are_of_the_vocabulary_and_learned_last(
    tmp_path: Path, make_snapshot: Make
) -> None:
    folder = make_snapshot(tmp_path / "s", [["a", "b"], ["b", "a"]], [["new", "b"]], [["new", "newest"]])
    corpus = sessions.load(folder)
    assert list(corpus.vocabulary.skus) == ["b", "a", "new"]
    assert corpus.vocabulary.counts.tolist() == [3, 2, 1]
    assert corpus.test.ids.tolist() == [3, 0]
    assert corpus.learned.session_ids.to_pylist() == ["s00000", "s00001", "s00002"]
    assert corpus.learned.offsets.tolist() == [0, 2, 4, 6]
    assert corpus.learned.ids.tolist() == [2, 1, 1, 2, 3, 1]
    assert _names(corpus, corpus.learned) == ["a", "b", "b", "a", "new", "b"]


def _names(corpus: sessions.Corpus, part: sessions.Sessions) -> list[str]:
    return list(corpus.universe[part.codes])


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [([], [["a", "b"]], "train split"), ([["a", "b"]], [["a"]], "test split"), ([["a"]], [["a"]], "train")],
    ids=["no train", "test too short", "nothing at all"],
)
def test_empty_split_is_a_clear_error(
    train: list[list[str]], test: list[list[str]], reason: str, tmp_path: Path, make_snapshot: Make
) -> None:
    with pytest.raises(sessions.SnapshotError, match=reason):
        sessions.load(make_snapshot(tmp_path / "s", train, [], test))


def test_json_text_that_is_no_array_is_refused(tmp_path: Path, make_snapshot: Make) -> None:
    folder = make_snapshot(tmp_path / "s", [["a", "b"], {"a": 1}], [], [["a", "b"]], as_json=True)
    with pytest.raises(sessions.SnapshotError, match="cannot read train/part-0"):
        sessions.load(folder)


def test_vocabulary_digest_depends_on_where_skus_end() -> None:
    def digest(*skus: str) -> str:
        return sessions.Vocabulary(np.array(skus, object), np.ones(len(skus), np.int64)).sha256()

    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", "b") != digest("b", "a")


def test_where_files_and_reads_end_changes_nothing(
    tmp_path: Path,
    make_snapshot: Make,
    make_chains: Callable[..., list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = [*make_chains(40, 1), ["", "x", None, "x", "y"], ["z", "A0"]]
    folder = make_snapshot(tmp_path / "s", train, make_chains(3, 2), [["A0", "new"]])
    whole = sessions.load(folder)
    monkeypatch.setattr(splits, "_ROWS", 3)
    pieces = sessions.load(folder)
    assert pieces.vocabulary.sha256() == whole.vocabulary.sha256()
    for name in sessions.SPLITS:
        one, other = getattr(whole, name), getattr(pieces, name)
        assert one.session_ids.to_pylist() == other.session_ids.to_pylist()
        assert one.offsets.tolist() == other.offsets.tolist()
        assert one.ids.tolist() == other.ids.tolist()
        assert _names(whole, one) == _names(pieces, other)


def test_missing_column_is_named(tmp_path: Path, make_snapshot: Make) -> None:
    folder = make_snapshot(tmp_path / "s", [["a", "b"]], [], [["a", "b"]])
    path = folder / "train/part-0.parquet"
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["skus"]), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(sessions.SnapshotError, match="train/part-0.*no column skus"):
        sessions.load(folder)


@pytest.mark.parametrize("as_json", [False, True], ids=["list", "json text"])
def test_context_follows_the_interactions_that_are_kept(
    as_json: bool, tmp_path: Path, make_snapshot: Make
) -> None:
    # The snapshot begins at 12:26:40 UTC; interactions are an hour apart.
    test = [["a", "a", "b", "", "c"], ["a", "a"], [], ["", "b", "a"], ["c"] * 2 + ["b"]]
    folder = make_snapshot(tmp_path / "s", [["a", "b", "c"]], [], test, as_json=as_json, context=True)
    corpus = sessions.load(folder)
    assert corpus.train.context is None
    assert corpus.test.context is not None
    assert _names(corpus, corpus.test) == ["a", "b", "c", "b", "a", "c", "b"]
    assert corpus.test.context.hours.tolist() == [12, 14, 16, 13, 14, 12, 14]
    assert corpus.test.context.first_actions.to_pylist() == ["detail", "add", "detail"]


def test_snapshots_without_context_are_read(tmp_path: Path, make_snapshot: Make) -> None:
    corpus = sessions.load(make_snapshot(tmp_path / "s", [["a", "b"]], [], [["a", "b"], ["b", "a", "b"]]))
    assert corpus.test.context is not None
    assert corpus.test.context.hours.tolist() == [splits.UNKNOWN_HOUR] * 5
    assert corpus.test.context.first_actions.to_pylist() == [None, None]


def test_context_that_does_not_run_beside_the_products_is_refused(
    tmp_path: Path, make_snapshot: Make
) -> None:
    folder = make_snapshot(tmp_path / "s", [["a", "b"]], [], [["a", "b"]], context=True)
    path = folder / "test/part-0.parquet"
    table = pq.read_table(path, partitioning=None)
    short = pa.array([[1_600_000_000_000]], pa.list_(pa.int64()))
    pq.write_table(table.set_column(table.column_names.index("event_times"), "event_times", short), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        entry["sha256"] = hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(sessions.SnapshotError, match=r"test/part-0.*event_times"):
        sessions.load(folder)


@pytest.mark.parametrize("prices", [None, {"a": 3.0, "c": 7.0}], ids=["older snapshot", "with prices"])
def test_catalogue_tells_of_each_product(
    prices: dict[str, float] | None, tmp_path: Path, make_snapshot: Make
) -> None:
    catalog = {"c": None, "a": "video", "sold by nobody": "books"}
    train = [["a", "b", "a", "b", "a"], ["b", "c"]]
    folder = make_snapshot(tmp_path / "s", train, [], [["a", "x"]], catalog=catalog, prices=prices)
    found = sessions.load(folder).catalog
    assert found is not None
    assert found.categories.to_pylist() == ["video", None, None]
    assert found.prices.to_pylist() == ([3.0, None, 7.0] if prices else [None] * 3)

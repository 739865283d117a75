"""Snapshot reader: verifies the manifest, reads the sessions and encodes them as integers.

Everything past the parquet reader works on whole columns; no Python runs per row.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]

SCHEMA_VERSION = 1
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
_COLUMNS = ["session_id", "started_at", "skus"]
_HASH_BLOCK = 1 << 20
_ROWS = 65_536  # read and encoded at a time: SKUs are held as text for no longer, so memory stays bounded


class SnapshotError(Exception):
    """The snapshot cannot be trained on as it is; the message says what is wrong with it."""


@dataclass(frozen=True)
class Vocabulary:
    """The products that sessions to learn from hold; id 0 means padding or unknown, ids start at 1.

    Attributes:
        skus: Object array [products]; `skus[i]` has id `i + 1`. Most frequent first, ties by SKU.
        counts: Interactions in those sessions, [products].
    """

    skus: npt.NDArray[np.object_]
    counts: Ints

    def __len__(self) -> int:
        """Returns the number of products."""
        return len(self.skus)

    def sha256(self) -> str:
        """Returns the hex digest of the ordered SKUs; lengths are hashed too, so SKUs cannot run together."""
        digest = hashlib.sha256()
        for sku in self.skus:
            encoded = str(sku).encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.hexdigest()


@dataclass(frozen=True)
class Sessions:
    """Sessions of one split in time order, ragged: session `s` is `ids[offsets[s]:offsets[s + 1]]`.

    Attributes:
        session_ids: Arrow text [sessions].
        offsets: [sessions + 1], from 0.
        ids: Vocabulary ids [interactions], 0 for a product that is not in the vocabulary.
        codes: Rows of `Corpus.universe` [interactions]; names unknown products too.
    """

    session_ids: pa.Array
    offsets: Ints
    ids: Ids
    codes: Ids

    def __len__(self) -> int:
        """Returns the number of sessions."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Interactions per session, [sessions]."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: Ints) -> Ints:
        """Interactions of some sessions, [rows]; `lengths` computes those of millions."""
        return self.offsets[rows + 1] - self.offsets[rows]


@dataclass(frozen=True)
class Corpus:
    """A snapshot in memory.

    Attributes:
        vocabulary: The products of the training and validation sessions.
        categories: Category of each vocabulary id, 0 for none, [products + 1]; None without a catalogue.
        universe: Every SKU of any split, object array.
    """

    manifest: dict[str, Any]
    vocabulary: Vocabulary
    categories: Ids | None
    universe: npt.NDArray[np.object_]
    train: Sessions
    validation: Sessions
    test: Sessions

    @property
    def learned(self) -> Sessions:
        """Training and validation sessions in one, in time order."""
        before, after = self.train, self.validation
        return Sessions(
            pa.concat_arrays([before.session_ids, after.session_ids]),
            np.concatenate([before.offsets, before.offsets[-1] + after.offsets[1:]]),
            np.concatenate([before.ids, after.ids]),
            np.concatenate([before.codes, after.codes]),
        )


@dataclass(frozen=True)
class _Split:
    session_ids: pa.Array
    lengths: Ints
    codes: Ids


class _Universe:
    """Every SKU met so far, in the order of meeting."""

    def __init__(self) -> None:
        self.skus = pa.array([], pa.string())

    def encode(self, skus: pa.Array) -> Ids:
        """Returns the place of each SKU among `skus`, -1 for an empty one; new ones are added."""
        encoded = skus.dictionary_encode()
        met = encoded.dictionary
        fresh = met.filter(pc.invert(pc.is_in(met, value_set=self.skus)))
        self.skus = pa.concat_arrays([self.skus, fresh])
        places = pc.index_in(met, value_set=self.skus).to_numpy(zero_copy_only=False)
        # The last place is where the index -1 of a null leads.
        places = np.append(np.where(pc.equal(met, "").to_numpy(zero_copy_only=False), -1, places), -1)
        return places[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)].astype(np.int32)


def load(root: Path) -> Corpus:
    """Verifies and reads a snapshot folder.

    Consecutive repeats of a product are collapsed, empty SKUs are dropped, and sessions left with fewer
    than two interactions go.

    Raises:
        SnapshotError: The manifest is missing or does not match the files, a file or column cannot be
            read, or a split that training needs is empty.
    """
    manifest = verify(root)
    listed = [str(entry["path"]) for entry in manifest["files"]]
    universe = _Universe()
    # A split's uncollapsed codes are let go before the next is read.
    cleaned = [_collapse(_read_split(root, name, listed, manifest, universe)) for name in SPLITS]
    skus = np.asarray(universe.skus.to_numpy(zero_copy_only=False), dtype=object)
    learned = np.concatenate([cleaned[0][2], cleaned[1][2]])
    vocabulary, lookup = _vocabulary(universe.skus, skus, learned)
    train, validation, test = (Sessions(ids, off, lookup[part], part) for ids, off, part in cleaned)
    for name, sessions in (("train", train), ("test", test)):
        if len(sessions) == 0:
            raise SnapshotError(
                f"the {name} split has no session of two or more interactions: widen the date window"
            )
    categories = _read_categories(root, listed, vocabulary)
    return Corpus(manifest, vocabulary, categories, skus, train, validation, test)


def verify(root: Path) -> dict[str, Any]:
    """Checks the files under `root` against its manifest and returns the manifest.

    Raises:
        SnapshotError: The manifest is missing or unreadable, or a file is missing, altered or not listed.
    """
    manifest = _read_manifest(root)
    listed: set[Path] = set()
    for entry in manifest["files"]:
        path = root / str(entry["path"])
        if not path.resolve().is_relative_to(root.resolve()):
            raise SnapshotError(f"manifest lists a path outside of the snapshot: {entry['path']!r}")
        if not path.is_file():
            raise SnapshotError(f"file listed in the manifest is missing: {entry['path']}")
        if _sha256(path) != entry["sha256"]:
            raise SnapshotError(f"file differs from the manifest's sha256: {entry['path']}")
        listed.add(path.resolve())
    listed.add((root / MANIFEST).resolve())
    stray = sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.resolve() not in listed
    )
    if stray:
        raise SnapshotError(f"{len(stray)} file(s) not listed in the manifest, first: {stray[0]}")
    return manifest


def ragged_positions(starts: Ints, lengths: Ints) -> Ints:
    """Returns the flat positions `starts[i] … starts[i] + lengths[i] - 1` for every row, concatenated."""
    shift: Ints = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return shift + np.arange(len(shift), dtype=np.int64)


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        raise SnapshotError(f"no {MANIFEST} under {root}: the snapshot was not finished")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SnapshotError(f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise SnapshotError(f"{MANIFEST} does not have schema_version {SCHEMA_VERSION}")
    files = manifest.get("files")
    if not isinstance(files, list) or not all(
        isinstance(entry, dict) and {"path", "sha256"} <= set(entry) for entry in files
    ):
        raise SnapshotError(f"{MANIFEST} has no list of files with path and sha256")
    return manifest


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_categories(root: Path, listed: list[str], vocabulary: Vocabulary) -> Ids | None:
    """Returns the category of each vocabulary id, numbered from 1 in the order of their names."""
    paths = sorted(path for path in listed if path.startswith("catalog/") and path.endswith(".parquet"))
    columns = ["product_sku", "category"]
    try:
        tables = [pq.read_table(root / path, columns=columns, partitioning=None) for path in paths]
    except (pa.ArrowException, ValueError) as error:
        raise SnapshotError(f"cannot read the catalogue: {error}") from error
    if not sum(table.num_rows for table in tables):
        return None
    table = pa.concat_tables(tables)
    skus, categories = (table[column].cast(pa.string()).combine_chunks() for column in columns)
    places = pc.index_in(pa.array(vocabulary.skus, pa.string()), skus)
    found = categories.take(places)
    names = pc.unique(found).drop_null()
    numbers = pc.add(pc.index_in(found, names.take(pc.sort_indices(names))), 1)
    return np.concatenate([[0], numbers.fill_null(0).to_numpy(zero_copy_only=False)]).astype(np.int32)


def _read_split(
    root: Path, name: str, listed: list[str], manifest: dict[str, Any], universe: _Universe
) -> _Split:
    paths = sorted(path for path in listed if path.startswith(f"{name}/") and path.endswith(".parquet"))
    ids: list[pa.Array] = []
    started: list[pa.Array] = []
    lengths: list[Ints] = [np.zeros(0, np.int64)]
    codes: list[Ids] = [np.zeros(0, np.int32)]
    for path in paths:
        try:
            with pq.ParquetFile(root / path) as file:
                _check_columns(file)
                for batch in file.iter_batches(_ROWS, columns=_COLUMNS):
                    ids.append(batch["session_id"].cast(pa.large_string()))
                    started.append(pc.cast(batch["started_at"], pa.timestamp("us", "UTC")))
                    lists = _as_lists(batch["skus"])
                    lengths.append(pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64))
                    codes.append(universe.encode(lists.flatten().cast(pa.string())))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise SnapshotError(f"cannot read {path}: {error}") from error
    all_lengths = np.concatenate(lengths)
    expected = manifest.get("counts", {}).get(name)
    if expected is not None and expected != len(all_lengths):
        raise SnapshotError(f"{name} holds {len(all_lengths)} sessions, the manifest counts {expected}")
    return _in_time_order(ids, started, _Split(pa.array([]), all_lengths, np.concatenate(codes)))


def _check_columns(file: pq.ParquetFile) -> None:
    missing = sorted(set(_COLUMNS) - set(file.schema_arrow.names))
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")


def _in_time_order(ids: list[pa.Array], started: list[pa.Array], split: _Split) -> _Split:
    """Sorts sessions by start, then id, so that file names and row groups cannot change a result."""
    table = pa.table(
        {
            "started_at": pa.chunked_array(started, type=pa.timestamp("us", "UTC")),
            "session_id": pa.chunked_array(ids, type=pa.large_string()),
        }
    )
    sorting = pc.sort_indices(table, sort_keys=[("started_at", "ascending"), ("session_id", "ascending")])
    order = sorting.to_numpy().astype(np.int64)
    session_ids = table["session_id"].combine_chunks().take(sorting)
    starts = np.cumsum(split.lengths) - split.lengths
    codes = split.codes[ragged_positions(starts[order], split.lengths[order])]
    return _Split(session_ids, split.lengths[order], codes)


def _as_lists(column: pa.Array) -> pa.Array:
    """Accepts list<string> (DuckDB) or JSON text (Snowflake unloads arrays that way)."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return column
    return _parse_json(column.cast(pa.string()).fill_null("[]").to_pylist())


def _parse_json(texts: list[str]) -> pa.Array:
    # One call of the C parser for the whole batch.
    rows = json.loads("[" + ",".join(texts) + "]")
    if len(rows) != len(texts):
        raise ValueError("a JSON text column holds something else than one array per row")
    return pa.array(rows, pa.list_(pa.string()))


def _collapse(split: _Split) -> tuple[pa.Array, Ints, Ids]:
    """Drops empty SKUs, consecutive repeats and then sessions of fewer than two interactions."""
    owner = np.repeat(np.arange(len(split.lengths), dtype=np.int32), split.lengths)
    named = split.codes >= 0
    owner, codes = owner[named], split.codes[named]
    fresh = np.ones(len(codes), bool)
    fresh[1:] = (codes[1:] != codes[:-1]) | (owner[1:] != owner[:-1])
    owner, codes = owner[fresh], codes[fresh]
    lengths = np.bincount(owner, minlength=len(split.lengths))
    kept = lengths >= 2
    offsets = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
    return split.session_ids.filter(pa.array(kept)), offsets, codes[kept[owner]]


def _vocabulary(
    dictionary: pa.Array, universe: npt.NDArray[np.object_], codes: Ids
) -> tuple[Vocabulary, Ids]:
    counts = np.bincount(codes, minlength=len(universe))
    alphabetical = np.empty(len(universe), np.int64)
    alphabetical[pc.sort_indices(dictionary).to_numpy()] = np.arange(len(universe))
    order = np.lexsort((alphabetical, -counts))
    order = order[: int((counts > 0).sum())]
    lookup = np.zeros(len(universe), np.int32)
    lookup[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    return Vocabulary(universe[order], counts[order].astype(np.int64)), lookup

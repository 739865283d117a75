"""Snapshot reader: verifies the manifest, reads the sessions and encodes them as integers.

Everything past the parquet reader works on whole columns; no Python runs per row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catalog import Catalog, read_catalog

# What others take from here, for this is the module that reads snapshots.
from manifest import SnapshotError as SnapshotError
from manifest import verify as verify
from splits import Context, Split, Universe, read_split
from splits import Ids as Ids
from splits import Ints as Ints
from splits import ragged_positions as ragged_positions

SPLITS = ("train", "validation", "test")


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
        context: When and how the sessions happened; read of the test split only.
    """

    session_ids: pa.Array
    offsets: Ints
    ids: Ids
    codes: Ids
    context: Context | None = None

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
        kinds: Kinds that each vocabulary id is of, 0 for none, [products + 1, any], as in `Catalog.kinds`;
            None where nothing is known of any product.
        universe: Every SKU of any split, object array.
        catalog: What the kinds were numbered from; None without a catalogue.
    """

    manifest: dict[str, Any]
    vocabulary: Vocabulary
    kinds: Ids | None
    universe: npt.NDArray[np.object_]
    train: Sessions
    validation: Sessions
    test: Sessions
    catalog: Catalog | None = None

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
    universe = Universe()
    counts = manifest.get("counts", {})
    # A split's uncollapsed codes are let go before the next is read.
    cleaned = [
        _collapse(read_split(root, name, listed, counts.get(name), universe, with_context=name == "test"))
        for name in SPLITS
    ]
    skus = np.asarray(universe.skus.to_numpy(zero_copy_only=False), dtype=object)
    learned = np.concatenate([cleaned[0].codes, cleaned[1].codes])
    vocabulary, lookup = _vocabulary(universe.skus, skus, learned)
    train, validation, test = (_encode(split, lookup) for split in cleaned)
    for name, sessions in (("train", train), ("test", test)):
        if len(sessions) == 0:
            raise SnapshotError(
                f"the {name} split has no session of two or more interactions: widen the date window"
            )
    catalog = read_catalog(root, listed, vocabulary.skus)
    kinds = catalog.kinds() if catalog else None
    if kinds is not None and not kinds.any():
        kinds = None
    return Corpus(manifest, vocabulary, kinds, skus, train, validation, test, catalog)


def _encode(split: Split, lookup: Ids) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum(split.lengths)]).astype(np.int64)
    return Sessions(split.session_ids, offsets, lookup[split.codes], split.codes, split.context)


def _collapse(split: Split) -> Split:
    """Drops empty SKUs, consecutive repeats and then sessions of fewer than two interactions."""
    owner = np.repeat(np.arange(len(split.lengths), dtype=np.int32), split.lengths)
    places = np.flatnonzero(split.codes >= 0)
    owner, codes = owner[places], split.codes[places]
    fresh = np.ones(len(codes), bool)
    fresh[1:] = (codes[1:] != codes[:-1]) | (owner[1:] != owner[:-1])
    owner, places = owner[fresh], places[fresh]
    lengths = np.bincount(owner, minlength=len(split.lengths))
    kept = lengths >= 2
    return split.take(np.flatnonzero(kept), lengths[kept], places[kept[owner]])


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

"""What the catalogue says of the products that are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifest import SnapshotError

_COLUMNS = {"category": pa.string(), "price_bucket": pa.float64()}


@dataclass(frozen=True)
class Catalog:
    """One row for each product of a vocabulary, null where nothing is known.

    Attributes:
        categories: Arrow text [products].
        prices: Arrow float64 [products], the price bucket.
    """

    categories: pa.Array
    prices: pa.Array

    def kinds(self) -> npt.NDArray[np.int32]:
        """Returns what kinds each vocabulary id is of, [products + 1, 3], 0 for none.

        By category, by price bucket, and by both together, which tells a cheap telephone from a dear one.
        They are numbered from 1 through all three, so that one table holds a row for each.
        """
        columns = [_numbers(self.categories), _numbers(self.prices)]
        known = (columns[0] > 0) & (columns[1] > 0)
        pairs = columns[0] * (columns[1].max(initial=0) + 1) + columns[1]
        columns.append(_numbers(pa.array(pairs, mask=~known)))
        before = np.cumsum([0, *(column.max(initial=0) for column in columns[:-1])])
        kinds = np.column_stack(columns)
        return np.vstack([np.zeros(3), np.where(kinds > 0, kinds + before, 0)]).astype(np.int32)


def _numbers(values: pa.Array) -> npt.NDArray[np.int64]:
    """Returns the place of each value among the different ones, in their order, from 1; 0 for null."""
    different = pc.unique(values).drop_null()
    places = pc.index_in(values, different.take(pc.sort_indices(different)))
    numbers: npt.NDArray[np.int64] = pc.add(places, 1).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64)


def read_catalog(root: Path, listed: Sequence[str], skus: npt.NDArray[np.object_]) -> Catalog | None:
    """Reads the catalogue of a snapshot.

    Args:
        root: The snapshot.
        listed: Files of its manifest.
        skus: The vocabulary, [products].

    Returns:
        None where the snapshot has no catalogue, or an empty one.

    Raises:
        SnapshotError: A file or column cannot be read.
    """
    paths = sorted(path for path in listed if path.startswith("catalog/") and path.endswith(".parquet"))
    try:
        tables = [_columns(pq.read_table(root / path, partitioning=None)) for path in paths]
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise SnapshotError(f"cannot read the catalogue: {error}") from error
    if not sum(table.num_rows for table in tables):
        return None
    table = pa.concat_tables(tables).combine_chunks()
    places = pc.index_in(pa.array(skus, pa.string()), table["product_sku"])
    categories, prices = (table[name].combine_chunks().take(places) for name in _COLUMNS)
    return Catalog(categories, prices)


def _columns(table: pa.Table) -> pa.Table:
    """Returns the columns that are used, of one type in every file; older snapshots have no prices."""
    if "price_bucket" not in table.column_names:
        table = table.append_column("price_bucket", pa.nulls(len(table)))
    wanted = {"product_sku": pa.string(), **_COLUMNS}
    return pa.table({name: table[name].cast(kind) for name, kind in wanted.items()})

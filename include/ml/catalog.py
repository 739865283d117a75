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

    def category_numbers(self) -> npt.NDArray[np.int32]:
        """Returns each vocabulary id's category, from 1 in the order of names, 0 for none, [products + 1]."""
        names = pc.unique(self.categories).drop_null()
        numbers = pc.add(pc.index_in(self.categories, names.take(pc.sort_indices(names))), 1)
        return np.concatenate([[0], numbers.fill_null(0).to_numpy(zero_copy_only=False)]).astype(np.int32)


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

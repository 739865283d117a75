"""The parquet files of one split as columns, in time order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifest import SnapshotError

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]

UNKNOWN_HOUR = -1
_COLUMNS = ["session_id", "started_at", "skus"]
# What the gate cuts the test queries by. Snapshots of before lack it, and nothing is learned from it.
_CONTEXT = ["actions", "event_times"]
_HOUR_MS = 3_600_000
_ROWS = 65_536  # read and encoded at a time: SKUs are held as text for no longer, so memory stays bounded


@dataclass(frozen=True)
class Context:
    """When and how sessions happened, as far as the snapshot tells.

    Attributes:
        hours: UTC hour of each interaction, `UNKNOWN_HOUR` where it is not told, [interactions].
        first_actions: What each session began with, Arrow text [sessions], null where it is not told.
    """

    hours: npt.NDArray[np.int8]
    first_actions: pa.Array


@dataclass(frozen=True)
class Split:
    """Sessions in time order, ragged.

    Attributes:
        session_ids: Arrow text [sessions].
        lengths: Interactions per session, [sessions].
        codes: Places in `Universe.skus`, -1 for an empty SKU, [interactions].
        context: None where it was not asked for.
    """

    session_ids: pa.Array
    lengths: Ints
    codes: Ids
    context: Context | None

    def take(self, sessions: Ints, lengths: Ints, places: Ints) -> Split:
        """Returns some of the sessions, with some of their interactions.

        Args:
            sessions: Which ones, in the order wanted, [chosen sessions].
            lengths: How many interactions are kept of each, [chosen sessions].
            places: Which interactions, in that order, [chosen interactions].
        """
        chosen = pa.array(sessions)
        context = self.context and Context(
            self.context.hours[places], self.context.first_actions.take(chosen)
        )
        return Split(self.session_ids.take(chosen), lengths, self.codes[places], context)


class Universe:
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


def ragged_positions(starts: Ints, lengths: Ints) -> Ints:
    """Returns the flat positions `starts[i] … starts[i] + lengths[i] - 1` for every row, concatenated."""
    shift: Ints = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return shift + np.arange(len(shift), dtype=np.int64)


def read_split(
    root: Path,
    name: str,
    listed: Sequence[str],
    expected: int | None,
    universe: Universe,
    with_context: bool = False,
) -> Split:
    """Reads a split of a snapshot.

    Args:
        root: The snapshot.
        name: Of the split.
        listed: Files of the manifest.
        expected: Sessions that the manifest counts.
        universe: Encodes the SKUs; takes in the new ones.
        with_context: Whether to read when and how the sessions happened, too.

    Raises:
        SnapshotError: A file or column cannot be read, or there are more or fewer sessions than expected.
    """
    paths = sorted(path for path in listed if path.startswith(f"{name}/") and path.endswith(".parquet"))
    ids: list[pa.Array] = []
    started: list[pa.Array] = []
    lengths: list[Ints] = [np.zeros(0, np.int64)]
    codes: list[Ids] = [np.zeros(0, np.int32)]
    contexts: list[Context] = []
    for path in paths:
        try:
            with pq.ParquetFile(root / path) as file:
                columns = _columns(file.schema_arrow.names, with_context)
                for batch in file.iter_batches(_ROWS, columns=columns):
                    ids.append(batch["session_id"].cast(pa.large_string()))
                    started.append(pc.cast(batch["started_at"], pa.timestamp("us", "UTC")))
                    lists = _as_lists(batch["skus"], pa.string())
                    lengths.append(_lengths(lists))
                    codes.append(universe.encode(lists.flatten().cast(pa.string())))
                    if with_context:
                        contexts.append(_context(batch, lengths[-1]))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise SnapshotError(f"cannot read {path}: {error}") from error
    all_lengths = np.concatenate(lengths)
    if expected is not None and expected != len(all_lengths):
        raise SnapshotError(f"{name} holds {len(all_lengths)} sessions, the manifest counts {expected}")
    session_ids = pa.chunked_array(ids, pa.large_string()).combine_chunks()
    unsorted = Split(session_ids, all_lengths, np.concatenate(codes), _joined(contexts))
    return _in_time_order(unsorted, started)


def _columns(present: Sequence[str], with_context: bool) -> list[str]:
    missing = sorted(set(_COLUMNS) - set(present))
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    return [*_COLUMNS, *(name for name in _CONTEXT if with_context and name in present)]


def _in_time_order(split: Split, started: list[pa.Array]) -> Split:
    """Sorts sessions by start, then id, so that file names and row groups cannot change a result."""
    columns = {"started_at": pa.chunked_array(started, pa.timestamp("us", "UTC"))}
    table = pa.table(columns | {"session_id": split.session_ids})
    sorting = pc.sort_indices(table, sort_keys=[("started_at", "ascending"), ("session_id", "ascending")])
    order = sorting.to_numpy().astype(np.int64)
    starts = np.cumsum(split.lengths) - split.lengths
    lengths = split.lengths[order]
    return split.take(order, lengths, ragged_positions(starts[order], lengths))


def _context(batch: pa.RecordBatch, lengths: Ints) -> Context:
    """Returns when and how the sessions of a batch happened, as far as it has columns for that."""
    hours = np.full(int(lengths.sum()), UNKNOWN_HOUR, np.int8)
    if "event_times" in batch.schema.names:
        times = _aligned(batch, "event_times", pa.int64(), lengths)
        known = times.is_valid().to_numpy(zero_copy_only=False)
        hours[known] = times.drop_null().to_numpy() // _HOUR_MS % 24
    first = pa.nulls(len(batch), pa.string())
    if "actions" in batch.schema.names:
        starts = pa.array(np.cumsum(lengths) - lengths, mask=lengths == 0)
        first = _aligned(batch, "actions", pa.string(), lengths).take(starts)
    return Context(hours, first)


def _aligned(batch: pa.RecordBatch, name: str, kind: pa.DataType, lengths: Ints) -> pa.Array:
    """Returns the values of a column of lists that run beside the SKUs."""
    lists = _as_lists(batch[name], kind)
    if not np.array_equal(_lengths(lists), lengths):
        raise ValueError(f"{name} holds lists that are not as long as those of skus")
    return lists.flatten().cast(kind)


def _joined(contexts: Sequence[Context]) -> Context | None:
    if not contexts:
        return None
    actions = pa.chunked_array([part.first_actions for part in contexts], pa.string())
    return Context(np.concatenate([part.hours for part in contexts]), actions.combine_chunks())


def _lengths(lists: pa.Array) -> Ints:
    lengths: Ints = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    return lengths


def _as_lists(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Accepts lists (DuckDB) or JSON text (Snowflake unloads arrays that way)."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return column
    return _parse_json(column.cast(pa.string()).fill_null("[]").to_pylist(), kind)


def _parse_json(texts: list[str], kind: pa.DataType) -> pa.Array:
    # One call of the C parser for the whole batch.
    rows = json.loads("[" + ",".join(texts) + "]")
    if len(rows) != len(texts):
        raise ValueError("a JSON text column holds something else than one array per row")
    return pa.array(rows, pa.list_(kind))

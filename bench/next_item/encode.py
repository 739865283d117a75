"""Reads a snapshot folder and encodes its products, once for all methods."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.next_item import shop
from bench.next_item.split import BadEventsError


def read_manifest(snapshot: Path) -> dict[str, Any]:
    """Returns the manifest of a snapshot folder.

    Raises:
        BadEventsError: There is none.
    """
    path = snapshot / "manifest.json"
    if not path.is_file():
        raise BadEventsError(f"{snapshot} is no snapshot folder (no manifest.json): run `split` first.")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def encode(snapshot: Path) -> shop.Shop:
    """Returns the split of a snapshot folder, which holds repeats collapsed, with products as codes."""
    manifest = read_manifest(snapshot)
    parts = {name: _read(snapshot, name, manifest) for name in ("train", "validation", "test")}
    seen = pa.concat_tables([parts["train"], parts["validation"]]).combine_chunks()
    counts = Counter(pc.list_flatten(seen["skus"]).to_pylist())
    known = sorted(counts, key=lambda sku: (-counts[sku], sku))
    asked = set(pc.list_flatten(parts["test"]["skus"]).to_pylist())
    skus = known + sorted(asked - counts.keys())
    codes = pa.array(skus, pa.string())
    session_ids = parts["test"]["session_id"].to_pylist()
    return shop.build(_log(seen, codes), _log(parts["test"], codes), len(known), skus, session_ids)


def _read(snapshot: Path, name: str, manifest: dict[str, Any]) -> pa.Table:
    paths = [entry["path"] for entry in manifest["files"] if entry["path"].startswith(f"{name}/")]
    columns = ["session_id", "started_at", "skus", "event_times"]
    tables = [pq.read_table(snapshot / path, columns=columns, partitioning=None) for path in paths]
    keys = [("started_at", "ascending"), ("session_id", "ascending")]
    return pa.concat_tables(tables).sort_by(keys).combine_chunks()


def _log(table: pa.Table, codes: pa.Array) -> shop.Log:
    lengths = pc.list_value_length(table["skus"]).to_numpy().astype(np.int64)
    items = pc.index_in(pc.list_flatten(table["skus"]), codes).to_numpy().astype(np.int64)
    times = pc.list_flatten(table["event_times"]).to_numpy().astype(np.float64) / 1000.0
    return shop.Log(items, times, np.concatenate([[0], np.cumsum(lengths)]))

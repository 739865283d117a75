"""Cuts events into train, validation and test sessions, and writes them as one of our snapshots.

The snapshot is the only thing that anybody trains or is tested on, so that nobody's reading of the raw events
can differ. Sessions lie wholly in one part: those that straddle a boundary are dropped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb

PARTS = ("train", "validation", "test")
# Coveo's browsing schema and a plain table of events; the first that fits is taken.
_SCHEMAS = (
    ("session_id_hash", "product_sku_hash", "server_timestamp_epoch_ms", "product_action"),
    ("session", "item", "time_ms", "action"),
)


class BadEventsError(Exception):
    """The events cannot be cut as asked; the message says what to do."""


@dataclass(frozen=True)
class Options:
    """What is kept of the events and where they are cut.

    Attributes:
        actions: Product actions kept; those our sessions mart calls interactions. A table without an action
            column is taken whole.
        pause_minutes: A longer pause starts a new session; 0 leaves sessions as they come.
        min_support: A product needs as many interactions, counted again until every session has two.
        test_items: `all` counts support before the test part only and leaves test sessions whole, so that
            some targets are unknown to training. `known` counts it over everything and strikes from the test
            sessions what training does not hold.
        validation_share: Share of the sessions, by start, in the validation part.
        test_share: The same of the test part, which comes last.
        max_queries: Above it, whole test sessions are drawn by the hash of their id.
    """

    actions: tuple[str, ...] = ("detail", "add", "purchase")
    pause_minutes: float = 0.0
    min_support: int = 5
    test_items: Literal["all", "known"] = "all"
    validation_share: float = 0.1
    test_share: float = 0.1
    # What train.py scores at most; all methods answer the same questions.
    max_queries: int = field(default=50_000)


def write_split(
    events: Path, folder: Path, options: Options, catalogue: Path | None = None
) -> dict[str, Any]:
    """Writes the snapshot folder, its manifest last, and returns the manifest.

    Raises:
        BadEventsError: The file has no known columns, or a part would be empty.
    """
    with duckdb.connect() as db:
        db.execute("set threads = 2; set preserve_insertion_order = false; set TimeZone = 'UTC'")
        _read(db, events, options)
        _cut(db, options)
        _keep_supported(db, options)
        if options.test_items == "known":
            db.execute("delete from events where part = 'test' and item not in (from known_items())")
            _tidy(db)
        _draw_test_sessions(db, options.max_queries)
        counts = dict.fromkeys(PARTS, 0) | dict(
            db.execute("select part, count(distinct session) from events group by part").fetchall()
        )
        if empty := [part for part in PARTS if not counts[part]]:
            raise BadEventsError(
                f"No session is left for {' and '.join(empty)}: lower --min-support or take more events."
            )
        if catalogue:
            counts["catalog"] = _write_catalogue(db, catalogue, folder)
        return _write(db, folder, counts, events.name, options)


def _read(db: duckdb.DuckDBPyConnection, path: Path, options: Options) -> None:
    options_of_csv = "header = true, all_varchar = true"
    reader = "read_parquet(?)" if path.suffix == ".parquet" else f"read_csv(?, {options_of_csv})"
    source = f"select * from {reader}"
    try:
        columns = {row[0] for row in db.execute(f"describe {source}", [str(path)]).fetchall()}
    except duckdb.Error as error:
        raise BadEventsError(f"Cannot read {path}: {error}") from error
    schema = next((names for names in _SCHEMAS if columns.issuperset(names[:3])), None)
    if schema is None:
        wanted = " or ".join(", ".join(names[:3]) for names in _SCHEMAS)
        raise BadEventsError(f"{path} has columns {', '.join(sorted(columns))}; needed are {wanted}.")
    session, item, time, action = schema
    kept = f"{action} in (select unnest(?))" if action in columns else "len(?) > 0"
    db.execute(
        f"""create table events as
            select cast({session} as varchar) as session, cast({item} as varchar) as item,
                cast({time} as bigint) as time_ms,
                {f"cast({action} as varchar)" if action in columns else "'detail'"} as action
            from ({source})
            where coalesce(cast({item} as varchar), '') <> '' and {session} is not null and {kept}""",
        [str(path), list(options.actions)],
    )
    if options.pause_minutes:
        db.execute(
            """create or replace table events as
               select session || '_' || sum(is_pause) over (partition by session order by time_ms, item)
                   as session, item, time_ms, action
               from (select *, coalesce(time_ms - lag(time_ms) over
                   (partition by session order by time_ms, item) > ?, false)::int as is_pause from events)""",
            [options.pause_minutes * 60_000],
        )


def _cut(db: duckdb.DuckDBPyConnection, options: Options) -> None:
    """Names the part of every session; short sessions go first, so that they do not move the boundaries."""
    db.execute("alter table events add column part varchar default 'train'")
    _tidy(db)
    db.execute(
        """create table spans as
           select session, min(time_ms) as began, max(time_ms) as ended from events group by session"""
    )
    shares = [1 - options.test_share - options.validation_share, 1 - options.test_share]
    bounds = db.execute("select quantile_disc(began, ?) from spans", [shares]).fetchone()
    if bounds is None or bounds[0] is None:
        raise BadEventsError("No session has two interactions: look at --actions.")
    first, second = bounds[0]
    # began <= ended, so a session is in one part at most.
    db.execute(
        """create or replace table events as
           select session, item, time_ms, action, case
               when ended < $first then 'train'
               when began >= $first and ended < $second then 'validation'
               when began >= $second then 'test' end as part
           from events join spans using (session)
           where ended < $first or began >= $second or (began >= $first and ended < $second)""",
        {"first": first, "second": second},
    )
    db.execute("create macro known_items() as table select distinct item from events where part <> 'test'")


def _keep_supported(db: duckdb.DuckDBPyConnection, options: Options) -> None:
    parts = PARTS if options.test_items == "known" else PARTS[:2]
    before = -1
    while before != (now := _size(db)):
        before = now
        db.execute(
            """delete from events where part in (select unnest($parts)) and item not in (
                   select item from events where part in (select unnest($parts))
                   group by item having count(*) >= $support)""",
            {"parts": list(parts), "support": options.min_support},
        )
        _tidy(db)


def _tidy(db: duckdb.DuckDBPyConnection) -> None:
    """Collapses consecutive repeats, then drops sessions of fewer than two interactions."""
    db.execute(
        """create or replace table events as
           select session, item, time_ms, action, part from (
               select *, lag(item) over (partition by session order by time_ms, item, action) as before
               from events)
           where before is null or before <> item"""
    )
    db.execute(
        """delete from events where session in (
               select session from events group by session having count(*) < 2)"""
    )


def _draw_test_sessions(db: duckdb.DuckDBPyConnection, limit: int) -> None:
    db.execute(
        """delete from events where session in (
               select session from (
                   select session, sum(count(*) - 1) over (order by md5(session)) as queries
                   from events where part = 'test' group by session)
               where queries > ?)""",
        [limit],
    )


def _size(db: duckdb.DuckDBPyConnection) -> int:
    row = db.execute("select count(*) from events").fetchone()
    assert row is not None
    return int(row[0])


def _write_catalogue(db: duckdb.DuckDBPyConnection, catalogue: Path, folder: Path) -> int:
    """Writes Coveo's catalogue as our snapshots hold it; returns its products."""
    shutil.rmtree(folder / "catalog", ignore_errors=True)
    (folder / "catalog").mkdir(parents=True)
    db.execute(
        """create table products as
           select product_sku_hash as product_sku, nullif(category_hash, '') as category,
               try_cast(price_bucket as double) as price_bucket
           from read_csv(?, header = true, all_varchar = true) order by product_sku""",
        [str(catalogue)],
    )
    db.execute(f"copy products to '{folder / 'catalog' / 'part-0.parquet'}' (format parquet)")
    row = db.execute("select count(*) from products").fetchone()
    assert row is not None
    return int(row[0])


def _write(
    db: duckdb.DuckDBPyConnection, folder: Path, counts: dict[str, int], name: str, options: Options
) -> dict[str, Any]:
    # A split that was stopped half way has no manifest; what it left must not be read as ours.
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
        db.execute(
            f"""copy (
                select session as session_id, make_timestamptz(min(time_ms) * 1000) as started_at,
                    list(item order by time_ms, item, action) as skus,
                    list(action order by time_ms, item, action) as actions,
                    list(time_ms order by time_ms, item, action) as event_times
                from events where part = '{part}' group by session order by started_at, session_id
            ) to '{folder / part / "part-0.parquet"}' (format parquet)"""
        )
    files = [
        {
            "path": f"{part}/part-0.parquet",
            "rows": counts[part],
            "bytes": (path := folder / part / "part-0.parquet").stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for part in counts
    ]
    content = hashlib.sha256("".join(str(entry["sha256"]) for entry in files).encode()).hexdigest()
    manifest = {
        "schema_version": 1,
        "snapshot_id": f"bench-{content[:12]}",
        "tenant": "bench",
        "counts": counts,
        "files": files,
        "split": {"events": name, **asdict(options)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest

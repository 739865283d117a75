"""Writes a shop of Coveo's real size: 36 million browsing events, the catalogue with vectors, searches.

`include.local.shop` invents a shop whose structure a model can learn, session by session in Python. This one
is about volume: DuckDB computes every row from hashes of its number, a day at a time, in bounded memory.
The same options give the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb

DAY_MS = 86_400_000
VECTOR_LENGTH = 50
LATE_SHARE, REPEATED_SHARE, BROKEN_SHARE = 0.02, 0.01, 0.001


@dataclass(frozen=True)
class Scale:
    """How much of it; the defaults are the figures of the Coveo SIGIR eCom 2021 data set."""

    sessions: int = 5_000_000
    events_per_session: float = 7.2
    products: int = 66_386
    products_in_sessions: int = 57_483
    searches: int = 800_000
    days: int = 90
    first_day: date = date(2019, 1, 15)

    def shrunk(self, share: float) -> Scale:
        """Returns the same shop with a share of its sessions and searches."""
        return Scale(
            sessions=max(1000, int(self.sessions * share)),
            events_per_session=self.events_per_session,
            products=max(200, int(self.products * min(1.0, share * 10))),
            products_in_sessions=max(150, int(self.products_in_sessions * min(1.0, share * 10))),
            searches=max(100, int(self.searches * share)),
            days=self.days,
            first_day=self.first_day,
        )


MACROS = """
create macro draw(number, salt) as (hash(number, salt) % 1000000) / 1e6;
create macro hexid(kind, number) as sha256(concat(kind, number));
-- Zipf-like: a few products take most of the interactions.
create macro product_of(number, salt, products) as
    cast(floor(products * pow(draw(number, salt), 3)) as bigint);
"""

EVENTS = f"""
with sessions as (
    select
        number,
        cast($midnight + floor($day_ms * (0.15 + 0.8 * (draw(number, 1) + draw(number, 2)) / 2)) as bigint)
            as started,
        1 + cast(floor(-ln(1 - draw(number, 3)) * ($length - 0.5)) as bigint) as length
    from range($first, $last) as numbers (number)
),
steps as (
    select number, started, unnest(range(least(length, 200))) as step from sessions
),
events as (
    select
        number * 256 + step as event,
        number,
        -- Never half an hour of idleness: these sessions arrive cut.
        started + sum(
            1000 + cast(floor(least(-ln(1 - draw(number * 256 + step, 4)) * 40000, 1500000)) as bigint)
        ) over (partition by number order by step) as moment
    from steps
),
acted as (
    select
        *,
        draw(event, 5) < 0.3 as is_pageview,
        case
            when draw(event, 6) < 0.86 then 'detail'
            when draw(event, 6) < 0.94 then 'add'
            when draw(event, 6) < 0.97 then 'remove'
            else 'purchase'
        end as action
    from events
),
lines as (
    select
        event,
        moment,
        hexid('session', number) as session_id_hash,
        case when is_pageview then 'pageview' else 'event_product' end as event_type,
        case when is_pageview then '' else action end as product_action,
        case when is_pageview then '' else hexid('sku', product_of(event, 7, $products)) end
            as product_sku_hash,
        cast(moment as varchar) as server_timestamp_epoch_ms,
        hexid('url', product_of(event, 8, $products)) as hashed_url
    from acted
),
copies as (
    select *, moment + case when draw(event, 9) < {LATE_SHARE} then 3600000 else 0 end as arrived from lines
    union all
    select *, moment + 60000 as arrived from lines where draw(event, 10) < {REPEATED_SHARE}
    union all
    select * replace ('yesterday' as server_timestamp_epoch_ms), moment as arrived
    from lines where draw(event, 11) < {BROKEN_SHARE}
)
select * exclude (event, moment, arrived) from copies order by arrived, event
"""

PRODUCTS = """
select
    hexid('sku', number) as product_sku_hash,
    case when draw(number, 1) < 0.57 then $vector else '' end as description_vector,
    hexid('branch', number % 12) || '/' || hexid('leaf', number % 180) as category_hash,
    case when draw(number, 2) < 0.57 then $vector else '' end as image_vector,
    case when draw(number, 3) < 0.95 then cast(1 + number % 10 as varchar) || '.0' else '' end as price_bucket
from range($products) as numbers (number)
"""

SEARCHES = """
select
    hexid('session', cast(floor(draw(number, 1) * $sessions) as bigint)) as session_id_hash,
    $vector as query_vector,
    case
        when draw(number, 2) < 0.3 then '[''' || hexid('sku', product_of(number, 3, $products)) || ''']'
        else ''
    end as clicked_skus_hash,
    '[''' || array_to_string(
        list_transform(range(5), lambda x: hexid('sku', product_of(number * 8 + x, 4, $products))), ''', '''
    ) || ''']' as product_skus_hash,
    $midnight + cast(floor(draw(number, 5) * $days * $day_ms) as bigint) as server_timestamp_epoch_ms
from range($searches) as numbers (number)
"""


def _connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"memory_limit": "3GB"})
    connection.execute("set enable_progress_bar = false")
    connection.execute(MACROS)
    return connection


def write_events(path: Path, scale: Scale, days: range) -> None:
    """Writes the browsing events of some days in order of arrival.

    Args:
        path: CSV file to write.
        scale: How much of it.
        days: Which days; one behind the last of the scale is the next night's load.
    """
    connection = _connect()
    midnight = int(datetime.combine(scale.first_day, datetime.min.time(), UTC).timestamp() * 1000)
    per_day = scale.sessions // scale.days
    part = path.with_suffix(".part")
    with path.open("wb") as whole:
        for number, day in enumerate(days):
            connection.execute(
                f"create or replace temporary table day as {EVENTS}",
                {
                    "midnight": midnight + day * DAY_MS,
                    "day_ms": DAY_MS,
                    "length": scale.events_per_session,
                    "first": day * per_day,
                    "last": (day + 1) * per_day,
                    "products": scale.products_in_sessions,
                },
            )
            connection.execute(f"copy day to '{part}' (format csv, header {number == 0}, quote '')")
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, whole, 16 << 20)
    part.unlink()


def _vector() -> str:
    values = f"list_transform(range({VECTOR_LENGTH}), lambda x: round(draw(number * 64 + x, 9) - 0.5, 4))"
    return f"'[' || array_to_string({values}, ', ') || ']'"


def _filled(query: str, values: Mapping[str, object]) -> str:
    # A COPY binds no values; these are our own numbers and expressions.
    for name, value in values.items():
        query = query.replace(f"${name}", str(value))
    return query


def write_catalogue(path: Path, scale: Scale) -> None:
    """Writes the catalogue; more than half of the products have vectors."""
    query = _filled(PRODUCTS, {"vector": _vector(), "products": scale.products})
    _connect().execute(f"copy ({query}) to '{path}' (format csv, header)")


def write_searches(path: Path, scale: Scale) -> None:
    """Writes the searches with their vectors and the products they showed."""
    midnight = int(datetime.combine(scale.first_day, datetime.min.time(), UTC).timestamp() * 1000)
    query = _filled(
        SEARCHES,
        {
            "vector": _vector(),
            "sessions": scale.sessions,
            "products": scale.products_in_sessions,
            "midnight": midnight,
            "days": scale.days,
            "day_ms": DAY_MS,
            "searches": scale.searches,
        },
    )
    _connect().execute(f"copy ({query}) to '{path}' (format csv, header)")


def write_shop(folder: Path, scale: Scale) -> None:
    """Writes the three files of the data set into a folder, in Coveo's names."""
    folder.mkdir(parents=True, exist_ok=True)
    write_events(folder / "browsing_train.csv", scale, range(scale.days))
    write_catalogue(folder / "sku_to_content.csv", scale)
    write_searches(folder / "search_train.csv", scale)

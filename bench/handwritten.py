"""What one would write by hand for one shop on one machine: the yardstick of the data land's speed.

The same marts from the same files in one process of DuckDB, and nothing else: no tests, no contracts, no
documentation, no reasons for rejects, no second tenant, no pauses to cut at, no resuming. Days are worked on
in groups, because all sessions at once do not fit into the memory that both sides are given.

`python -m bench.handwritten STEP DATABASE [SOURCE]`
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import duckdb

MEMORY = "4GB"
DAYS_AT_ONCE = 10
MARTS = ("sessions", "products", "daily_statistics")

TABLES = """
create schema if not exists raw;
create table if not exists raw.events (event_type varchar, event_date date, raw_data json);
create table if not exists raw.products (product_sku varchar, raw_data json);
create table if not exists raw.searches (event_date date, raw_data json);
create table if not exists events (
    session_id varchar, event_date date, event_epoch_ms bigint, event_type varchar, product_action varchar,
    product_sku varchar
);
create table if not exists searches (
    session_id varchar, event_date date, search_epoch_ms bigint, clicked varchar, shown varchar
);
create table if not exists product_days (
    event_date date, product_sku varchar, n_events bigint, n_interactions bigint, n_pageviews bigint,
    n_details bigint, n_adds bigint, n_removes bigint, n_purchases bigint
);
create table if not exists sessions (
    session_id varchar, session_date date, n_events bigint, is_bot boolean, skus varchar[], actions varchar[],
    event_times bigint[]
);
"""

EVENTS = """
insert into events
select
    event.session_id_hash, event_date, cast(event.server_timestamp_epoch_ms as bigint) as event_epoch_ms,
    event_type, nullif(event.product_action, ''), nullif(event.product_sku_hash, '')
from (
    select event_date, event_type, from_json(raw_data, '{"session_id_hash": "VARCHAR",
        "product_action": "VARCHAR", "product_sku_hash": "VARCHAR", "server_timestamp_epoch_ms": "VARCHAR",
        "hashed_url": "VARCHAR"}') as event
    from raw.events where event_date between $first and $last
)
group by 1, 2, 3, 4, 5, 6, case when event_type = 'pageview' then event.hashed_url end
"""

SEARCHES = """
insert into searches
select distinct
    search.session_id_hash, event_date, cast(search.server_timestamp_epoch_ms as bigint),
    search.clicked_skus_hash, search.product_skus_hash
from (
    select event_date, from_json(raw_data, '{"session_id_hash": "VARCHAR", "clicked_skus_hash": "VARCHAR",
        "product_skus_hash": "VARCHAR", "server_timestamp_epoch_ms": "VARCHAR"}') as search
    from raw.searches where event_date between $first and $last
)
"""

PRODUCT_DAYS = """
insert into product_days
select
    event_date, product_sku, count(*),
    count(*) filter (product_action in ('detail', 'add', 'purchase') and product_sku is not null),
    count(*) filter (event_type = 'pageview'),
    count(*) filter (product_action = 'detail'), count(*) filter (product_action = 'add'),
    count(*) filter (product_action = 'remove'), count(*) filter (product_action = 'purchase')
from events where event_date between $first and $last
group by event_date, product_sku
"""

SESSIONS = """
insert into sessions
select
    md5('coveo|' || session_id || '|' || steps[1].epoch_ms), cast(epoch_ms(steps[1].epoch_ms) as date),
    n_events,
    n_events > 300 or (n_events >= 30 and duration <= n_events * 500),
    [step.sku for step in steps], [step.action for step in steps], [step.epoch_ms for step in steps]
from (
    select
        session_id, count(*) as n_events, max(event_epoch_ms) - min(event_epoch_ms) as duration,
        list_sort(list({
            'epoch_ms': event_epoch_ms,
            'rank': case product_action when 'detail' then 1 when 'add' then 2 else 4 end,
            'sku': product_sku,
            'action': product_action
        }) filter (product_action <> 'remove' and product_sku is not null))[:300] as steps
    from events where event_date between $first - 1 and $last + 1 group by session_id
)
where cast(epoch_ms(steps[1].epoch_ms) as date) between $first and $last
"""

WHOLE = """
create or replace table products as
select
    coalesce(catalogue.product_sku, seen.product_sku) as product_sku, category,
    price_bucket, coalesce(seen.n, 0) as n_interactions
from (
    select
        product_sku, nullif(raw_data ->> 'category_hash', '') as category,
        try_cast(nullif(raw_data ->> 'price_bucket', '') as double) as price_bucket
    from raw.products qualify row_number() over (partition by product_sku) = 1
) as catalogue
full join (
    select product_sku, sum(n_interactions) as n from product_days where n_interactions > 0 group by 1
) as seen using (product_sku);
create or replace table daily_statistics as
select
    event_date, sum(n_events) as n_events, coalesce(any_value(started.n), 0) as n_sessions,
    coalesce(any_value(searched.n), 0) as n_searches, count(*) filter (n_interactions > 0) as n_products,
    sum(n_pageviews) as n_pageviews, sum(n_details) as n_details, sum(n_adds) as n_adds,
    sum(n_removes) as n_removes, sum(n_purchases) as n_purchases
from product_days
left join (select session_date as event_date, count(*) as n from sessions group by 1) as started
    using (event_date)
left join (select event_date, count(*) as n from searches group by 1) as searched using (event_date)
group by event_date;
"""


def connect(path: str) -> duckdb.DuckDBPyConnection:
    """Opens the file with the memory that the project's own side has too."""
    connection = duckdb.connect(path, config={"memory_limit": MEMORY, "preserve_insertion_order": False})
    connection.execute("set enable_progress_bar = false")
    connection.execute(TABLES)
    return connection


def _json(columns: str) -> str:
    return "json_object(" + ", ".join(f"'{name}', {name}" for name in columns.split()) + ")"


def load(path: str, source: str) -> None:
    """Reads the CSV files into a raw log as JSON; broken lines are dropped."""
    connection = connect(path)
    connection.execute("set preserve_insertion_order = true")
    event = "session_id_hash event_type product_action product_sku_hash server_timestamp_epoch_ms hashed_url"
    moment = "try_cast(server_timestamp_epoch_ms as bigint)"
    connection.execute(
        f"insert into raw.events select event_type, cast(epoch_ms({moment}) as date), {_json(event)} "
        f"from read_csv('{source}/browsing_train.csv', all_varchar = true, nullstr = '\x01') "
        f"where {moment} is not null"
    )
    if connection.execute(f"select count(*) from glob('{source}/sku_to_content.csv')").fetchall() == [(0,)]:
        return
    product = "product_sku_hash description_vector category_hash image_vector price_bucket"
    connection.execute(
        f"insert into raw.products select product_sku_hash, {_json(product)} "
        f"from read_csv('{source}/sku_to_content.csv', all_varchar = true, nullstr = '\x01')"
    )
    search = "session_id_hash query_vector clicked_skus_hash product_skus_hash server_timestamp_epoch_ms"
    connection.execute(
        f"insert into raw.searches select cast(epoch_ms(cast(server_timestamp_epoch_ms as bigint)) as date), "
        f"{_json(search)} from read_csv('{source}/search_train.csv', all_varchar = true, nullstr = '\x01')"
    )


def build(path: str) -> None:
    """Builds every mart from the raw log."""
    connection = connect(path)
    days = [
        row[0]
        for row in connection.execute("select distinct event_date from raw.events order by 1").fetchall()
    ]
    groups = [days[n : n + DAYS_AT_ONCE] for n in range(0, len(days), DAYS_AT_ONCE)]
    for statement in (EVENTS, SEARCHES, PRODUCT_DAYS, SESSIONS):
        for group in groups:
            connection.execute(statement, {"first": group[0], "last": group[-1]})
    connection.execute(WHOLE)


def night(path: str) -> None:
    """Builds the newest day, and the day before it, anew."""
    connection = connect(path)
    newest = connection.execute("select max(event_date) from raw.events").fetchall()[0][0]
    dates = {"events": "event_date", "searches": "event_date", "product_days": "event_date"}
    for statement, (table, day) in zip(
        (EVENTS, SEARCHES, PRODUCT_DAYS, SESSIONS),
        [*dates.items(), ("sessions", "session_date")],
        strict=True,
    ):
        connection.execute("begin")
        # One day further back for sessions, which the rebuilt days may have changed.
        back = 2 if table == "sessions" else 1
        values = {"first": newest, "last": newest}
        connection.execute(f"delete from {table} where {day} between $first - {back} and $last", values)
        connection.execute(statement.replace("$first", f"($first - {back})"), values)
        connection.execute("commit")
    connection.execute(WHOLE)


def export(path: str, folder: str) -> None:
    """Writes the sessions, split by time, and the catalogue as parquet."""
    connection = connect(path)
    connection.execute(
        "create temporary table chosen as select session_id, epoch_ms(event_times[1]) as started_at, "
        "epoch_ms(event_times[-1]) as ended_at, skus, actions, event_times from sessions "
        "where not is_bot and len(list_distinct(skus)) > 1"
    )
    bounds = "select quantile_disc(started_at, [0.8, 0.9]) as moments from chosen"
    for name, rule in {
        "train": "ended_at < moments[1]",
        "validation": "started_at >= moments[1] and ended_at < moments[2]",
        "test": "started_at >= moments[2]",
    }.items():
        connection.execute(
            f"copy (select chosen.* from chosen, ({bounds}) where {rule} order by started_at, session_id) "
            f"to '{folder}/{name}.parquet' (compression zstd)"
        )
    connection.execute(f"copy products to '{folder}/catalog.parquet' (compression zstd)")


if __name__ == "__main__":
    steps: dict[str, Callable[..., None]] = {"load": load, "build": build, "night": night, "export": export}
    steps[sys.argv[1]](*sys.argv[2:])

{{
    config(
        materialized='incremental_by_day',
        day='event_date',
        source_model='stg_searches',
        source_day='event_date'
    )
}}

with source_rows as (

    {{ rows_by_day(ref('stg_searches'), 'event_date') }}

),

deduplicated as (

    select
        tenant,
        session_id,
        event_date,
        search_epoch_ms,
        clicked_skus,
        shown_skus,
        min(etl_timestamp) as first_loaded_at
    from {{ ref('stg_searches') }}
    where {{ days_of_batch('event_date') }}
    group by tenant, session_id, event_date, search_epoch_ms, clicked_skus, shown_skus

)

select
    deduplicated.tenant,
    deduplicated.session_id,
    deduplicated.event_date,
    deduplicated.search_epoch_ms,
    deduplicated.clicked_skus,
    deduplicated.shown_skus,
    deduplicated.first_loaded_at,
    cast(source_rows.n_source_rows as bigint) as n_source_rows
from deduplicated
inner join source_rows
    on
        deduplicated.tenant = source_rows.tenant
        and deduplicated.event_date = source_rows.source_day

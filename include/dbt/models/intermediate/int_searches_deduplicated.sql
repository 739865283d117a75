{{
    config(
        materialized='incremental_by_day',
        day='event_date',
        source_model='stg_searches',
        source_day='event_date',
        source_version='etl_timestamp'
    )
}}

with sources as (

    {{ sources_by_day(ref('stg_searches'), 'event_date', 'etl_timestamp') }}

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
    sources.built_from
from deduplicated
inner join sources
    on
        deduplicated.tenant = sources.tenant
        and deduplicated.event_date = sources.source_day

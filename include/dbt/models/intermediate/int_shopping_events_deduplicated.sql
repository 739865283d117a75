{{
    config(
        materialized='incremental_by_day',
        day='event_date',
        source_model='stg_shopping_events',
        source_day='event_date',
        source_version='etl_timestamp'
    )
}}

with sources as (

    {{ sources_by_day(ref('stg_shopping_events'), 'event_date', 'etl_timestamp') }}

),

deduplicated as (

    -- The same event may have come with several loads, or twice in one. Only a page view is told apart by its
    -- page: what was done with a product is told apart by the product.
    select
        tenant,
        session_id,
        event_date,
        event_epoch_ms,
        event_type,
        product_action,
        product_sku,
        min(etl_timestamp) as first_loaded_at
    from {{ ref('stg_shopping_events') }}
    where {{ days_of_batch('event_date') }}
    group by
        tenant,
        session_id,
        event_date,
        event_epoch_ms,
        event_type,
        product_action,
        product_sku,
        case when event_type = 'pageview' then page_url end

)

select
    deduplicated.tenant,
    deduplicated.session_id,
    deduplicated.event_date,
    deduplicated.event_epoch_ms,
    deduplicated.event_type,
    deduplicated.product_action,
    deduplicated.product_sku,
    deduplicated.first_loaded_at,
    cast(case deduplicated.product_action
        when 'detail' then 1
        when 'add' then 2
        when 'remove' then 3
        when 'purchase' then 4
        else 0
    end as integer) as funnel_rank,
    coalesce(deduplicated.product_action in ('detail', 'add', 'purchase'), false)
    and deduplicated.event_type = 'event_product'
    and deduplicated.product_sku is not null as is_interaction,
    sources.built_from
from deduplicated
inner join sources
    on
        deduplicated.tenant = sources.tenant
        and deduplicated.event_date = sources.source_day

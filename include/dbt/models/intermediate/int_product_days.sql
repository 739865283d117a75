{{
    config(
        materialized='incremental_by_day',
        day='event_date',
        source_model='int_shopping_events_deduplicated',
        source_day='event_date',
        source_version='built_from'
    )
}}

with sources as (

    {{ sources_by_day(ref('int_shopping_events_deduplicated'), 'event_date', 'built_from') }}

),

counted as (

    select
        tenant,
        event_date,
        product_sku,
        count(*) as n_events,
        sum(case when is_interaction then 1 else 0 end) as n_interactions,
        sum(case when event_type = 'pageview' then 1 else 0 end) as n_pageviews,
        sum(case when product_action = 'detail' then 1 else 0 end) as n_details,
        sum(case when product_action = 'add' then 1 else 0 end) as n_adds,
        sum(case when product_action = 'remove' then 1 else 0 end) as n_removes,
        sum(case when product_action = 'purchase' then 1 else 0 end) as n_purchases,
        sum(
            case
                when event_type not in ('event_product', 'pageview') then 1
                when product_action not in ('detail', 'add', 'remove', 'purchase') then 1
                else 0
            end
        ) as n_unknown_kinds
    from {{ ref('int_shopping_events_deduplicated') }}
    where {{ days_of_batch('event_date') }}
    group by tenant, event_date, product_sku

)

select
    counted.tenant,
    counted.event_date,
    counted.product_sku,
    cast(counted.n_events as bigint) as n_events,
    cast(counted.n_interactions as bigint) as n_interactions,
    cast(counted.n_pageviews as bigint) as n_pageviews,
    cast(counted.n_details as bigint) as n_details,
    cast(counted.n_adds as bigint) as n_adds,
    cast(counted.n_removes as bigint) as n_removes,
    cast(counted.n_purchases as bigint) as n_purchases,
    cast(counted.n_unknown_kinds as bigint) as n_unknown_kinds,
    sources.built_from
from counted
inner join sources
    on
        counted.tenant = sources.tenant
        and counted.event_date = sources.source_day

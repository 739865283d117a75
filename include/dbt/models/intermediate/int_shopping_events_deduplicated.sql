{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='event_date',
        on_schema_change='fail'
    )
}}

with events as (

    select * from {{ ref('stg_shopping_events') }}

),

{% if is_incremental() %}

newest_load as (

    select coalesce(max(processed.etl_timestamp), cast('1970-01-01' as timestamp)) as loaded_at
    from {{ this }} as processed

),

touched_dates as (

    -- A date is rebuilt whole where a load touched it, however late its events are. The look-back covers
    -- loads that took their timestamp early and became visible late.
    select distinct events.event_date
    from events
    cross join newest_load
    where events.etl_timestamp >= {{ days_before('newest_load.loaded_at', var('lookback_days')) }}

),

{% endif %}

affected as (

    select events.*
    from events
    {% if is_incremental() %}
    inner join touched_dates on events.event_date = touched_dates.event_date
    {% endif %}

),

deduplicated as (

    -- The same event may have come with several loads, or twice in one. Which copy stays is of no
    -- consequence for the marts: the copies differ in the load's id and moment alone.
    select *
    from affected
    qualify
        row_number() over (
            partition by
                tenant, session_id, event_epoch_ms, event_type, product_action, product_sku, page_url
            order by etl_timestamp, etl_id
        ) = 1

),

ordered as (

    select
        etl_id,
        etl_timestamp,
        tenant,
        event_date,
        session_id,
        event_type,
        product_action,
        product_sku,
        page_url,
        event_epoch_ms,
        event_at,
        case product_action
            when 'detail' then 1
            when 'add' then 2
            when 'remove' then 3
            when 'purchase' then 4
            else 0
        end as funnel_rank,
        coalesce(product_action in ('detail', 'add', 'purchase'), false)
        and product_sku is not null as is_interaction
    from deduplicated

)

select * from ordered

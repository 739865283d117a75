{{
    config(
        materialized='incremental_by_day',
        day='session_date',
        source_model='int_shopping_events_deduplicated',
        source_day='event_date',
        source_version='built_from',
        margin=1
    )
}}

-- A session belongs to the day of its first interaction. What it needs is on that day, on the day before, in
-- case it began with page views before midnight, and on the day after, in case it went on.
with sources as (

    {{ sources_by_day(ref('int_shopping_events_deduplicated'), 'event_date', 'built_from', margin=1) }}

),

events as (

    select
        tenant,
        session_id as shop_session_id,
        event_epoch_ms,
        funnel_rank,
        product_action,
        product_sku,
        is_interaction
    from {{ ref('int_shopping_events_deduplicated') }}
    where {{ days_of_batch('event_date', margin=1) }}

),

long_sessions as (

    -- Only these can hold a pause that ends a session; few shops send sessions that are not cut yet.
    select
        tenant,
        shop_session_id
    from events
    group by tenant, shop_session_id
    having max(event_epoch_ms) - min(event_epoch_ms) > {{ var('session_idle_minutes') * 60000 }}

),

pauses as (

    select
        events.*,
        events.event_epoch_ms - lag(events.event_epoch_ms) over (
            partition by events.tenant, events.shop_session_id
            order by events.event_epoch_ms
        ) as pause_ms
    from events
    inner join long_sessions
        on
            events.tenant = long_sessions.tenant
            and events.shop_session_id = long_sessions.shop_session_id

),

cut_events as (

    select
        tenant,
        shop_session_id,
        event_epoch_ms,
        funnel_rank,
        product_action,
        product_sku,
        is_interaction,
        coalesce(
            max(case when pause_ms > {{ var('session_idle_minutes') * 60000 }} then event_epoch_ms end) over (
                partition by tenant, shop_session_id
                order by event_epoch_ms
            ), 0
        ) as session_part
    from pauses

),

session_events as (

    select * from cut_events
    union all
    select
        events.*,
        0 as session_part
    from events
    left join long_sessions
        on
            events.tenant = long_sessions.tenant
            and events.shop_session_id = long_sessions.shop_session_id
    where long_sessions.shop_session_id is null

),

ordered_sessions as (

    {{ ordered_sessions('session_events') }}

),

timed as (

    select
        *,
        {{ first_element('event_times') }} as first_epoch_ms,
        {{ last_element('event_times') }} as last_epoch_ms
    from ordered_sessions

),

sessions as (

    select
        tenant,
        md5(tenant || '|' || shop_session_id || '|' || cast(first_epoch_ms as varchar)) as session_id,
        shop_session_id,
        cast({{ epoch_ms_to_timestamp('first_epoch_ms') }} as date) as session_date,
        {{ epoch_ms_to_timestamp('first_epoch_ms') }} as started_at,
        {{ epoch_ms_to_timestamp('last_epoch_ms') }} as ended_at,
        cast(n_interactions as integer) as n_interactions,
        cast(n_steps as integer) as n_steps,
        cast(n_events as integer) as n_events,
        n_events > {{ var('max_session_events') }}
        or duration_ms > {{ var('max_session_hours') * 3600000 }}
        or (
            n_events >= {{ var('fast_session_events') }}
            and duration_ms <= n_events * {{ var('fast_session_ms_per_event') }}
        ) as is_bot,
        skus,
        actions,
        event_times
    from timed
    -- Who never rests for a day is a machine, and more of it may lie outside of the days that are read here:
    -- it is left out, or its parts would depend on which days are built together.
    where duration_ms < {{ (1440 - (var('session_idle_minutes') | int)) * 60000 }}

)

select
    sessions.tenant,
    sessions.session_id,
    sessions.shop_session_id,
    sessions.session_date,
    sessions.started_at,
    sessions.ended_at,
    sessions.n_interactions,
    sessions.n_steps,
    sessions.n_events,
    sessions.is_bot,
    sessions.skus,
    sessions.actions,
    sessions.event_times,
    sources.built_from
from sessions
-- Also leaves out the sessions of the days around the batch, which were read only for what crosses midnight.
inner join sources
    on
        sessions.tenant = sources.tenant
        and sessions.session_date = sources.source_day

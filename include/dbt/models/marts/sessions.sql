with events as (

    select * from {{ ref('int_shopping_events_deduplicated') }}

),

totals as (

    select
        tenant,
        session_id,
        count(*) as n_events,
        max(event_epoch_ms) - min(event_epoch_ms) as duration_ms
    from events
    group by tenant, session_id

),

numbered as (

    select
        tenant,
        session_id,
        event_at,
        event_epoch_ms,
        product_action,
        product_sku,
        row_number() over (
            partition by tenant, session_id
            -- The page is part of the order only so that no two events are equal in it.
            order by event_epoch_ms, funnel_rank, product_sku, coalesce(page_url, '')
        ) as interaction_number,
        lag(product_sku) over (
            partition by tenant, session_id
            order by event_epoch_ms, funnel_rank, product_sku, coalesce(page_url, '')
        ) as previous_sku
    from events
    where is_interaction

),

sessions as (

    select
        tenant,
        session_id,
        min(event_at) as started_at,
        max(event_at) as ended_at,
        count(*) as n_interactions,
        sum(case when previous_sku is null or previous_sku != product_sku then 1 else 0 end) as n_steps,
        {{ ordered_array('product_sku', 'interaction_number') }} as skus,
        {{ ordered_array('product_action', 'interaction_number') }} as actions,
        {{ ordered_array('event_epoch_ms', 'interaction_number') }} as event_times
    from numbered
    where interaction_number <= {{ var('max_session_events') }}
    group by tenant, session_id

),

flagged as (

    select
        sessions.tenant,
        sessions.session_id,
        sessions.started_at,
        sessions.ended_at,
        sessions.skus,
        sessions.actions,
        sessions.event_times,
        cast(sessions.started_at as date) as session_date,
        cast(sessions.n_interactions as integer) as n_interactions,
        cast(sessions.n_steps as integer) as n_steps,
        cast(totals.n_events as integer) as n_events,
        totals.n_events > {{ var('max_session_events') }}
        or (
            totals.n_events >= {{ var('fast_session_events') }}
            and totals.duration_ms <= totals.n_events * {{ var('fast_session_ms_per_event') }}
        ) as is_bot
    from sessions
    inner join totals
        on
            sessions.tenant = totals.tenant
            and sessions.session_id = totals.session_id

)

select
    tenant,
    session_id,
    session_date,
    started_at,
    ended_at,
    n_interactions,
    n_steps,
    n_events,
    is_bot,
    skus,
    actions,
    event_times
from flagged

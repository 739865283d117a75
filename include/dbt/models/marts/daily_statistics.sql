with product_days as (

    select * from {{ ref('int_product_days') }}

),

searches as (

    select
        tenant,
        event_date,
        count(*) as n_searches
    from {{ ref('int_searches_deduplicated') }}
    group by tenant, event_date

),

sessions as (

    select
        tenant,
        session_date,
        count(*) as n_sessions,
        sum(case when is_bot then 1 else 0 end) as n_bot_sessions
    from {{ ref('sessions') }}
    group by tenant, session_date

),

events as (

    select
        tenant,
        event_date,
        sum(n_events) as n_events,
        sum(case when n_interactions > 0 then 1 else 0 end) as n_products,
        sum(n_pageviews) as n_pageviews,
        sum(n_details) as n_details,
        sum(n_adds) as n_adds,
        sum(n_removes) as n_removes,
        sum(n_purchases) as n_purchases
    from product_days
    group by tenant, event_date

)

select
    events.tenant,
    events.event_date,
    cast(events.n_events as bigint) as n_events,
    cast(coalesce(sessions.n_sessions, 0) as bigint) as n_sessions,
    cast(coalesce(sessions.n_bot_sessions, 0) as bigint) as n_bot_sessions,
    cast(coalesce(searches.n_searches, 0) as bigint) as n_searches,
    cast(events.n_products as bigint) as n_products,
    cast(events.n_pageviews as bigint) as n_pageviews,
    cast(events.n_details as bigint) as n_details,
    cast(events.n_adds as bigint) as n_adds,
    cast(events.n_removes as bigint) as n_removes,
    cast(events.n_purchases as bigint) as n_purchases
from events
left join sessions
    on
        events.tenant = sessions.tenant
        and events.event_date = sessions.session_date
left join searches
    on
        events.tenant = searches.tenant
        and events.event_date = searches.event_date

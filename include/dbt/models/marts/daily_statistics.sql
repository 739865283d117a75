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
    coalesce(events.tenant, searches.tenant) as tenant,
    coalesce(events.event_date, searches.event_date) as event_date,
    cast(coalesce(events.n_events, 0) as bigint) as n_events,
    cast(coalesce(sessions.n_sessions, 0) as bigint) as n_sessions,
    cast(coalesce(sessions.n_bot_sessions, 0) as bigint) as n_bot_sessions,
    cast(coalesce(searches.n_searches, 0) as bigint) as n_searches,
    cast(coalesce(events.n_products, 0) as bigint) as n_products,
    cast(coalesce(events.n_pageviews, 0) as bigint) as n_pageviews,
    cast(coalesce(events.n_details, 0) as bigint) as n_details,
    cast(coalesce(events.n_adds, 0) as bigint) as n_adds,
    cast(coalesce(events.n_removes, 0) as bigint) as n_removes,
    cast(coalesce(events.n_purchases, 0) as bigint) as n_purchases
from events
left join sessions
    on
        events.tenant = sessions.tenant
        and events.event_date = sessions.session_date
full outer join searches
    on
        events.tenant = searches.tenant
        and events.event_date = searches.event_date

with events as (

    select * from {{ ref('int_shopping_events_deduplicated') }}

),

sessions as (

    select
        tenant,
        session_id,
        is_bot
    from {{ ref('sessions') }}

),

daily as (

    select
        events.tenant,
        events.event_date,
        count(*) as n_events,
        count(distinct events.session_id) as n_sessions,
        count(distinct case when sessions.is_bot then events.session_id end) as n_bot_sessions,
        count(distinct case when events.is_interaction then events.product_sku end) as n_products,
        sum(case when events.event_type = 'pageview' then 1 else 0 end) as n_pageviews,
        sum(case when events.product_action = 'detail' then 1 else 0 end) as n_details,
        sum(case when events.product_action = 'add' then 1 else 0 end) as n_adds,
        sum(case when events.product_action = 'remove' then 1 else 0 end) as n_removes,
        sum(case when events.product_action = 'purchase' then 1 else 0 end) as n_purchases
    from events
    left join sessions
        on
            events.tenant = sessions.tenant
            and events.session_id = sessions.session_id
    group by events.tenant, events.event_date

)

select
    tenant,
    event_date,
    cast(n_events as bigint) as n_events,
    cast(n_sessions as bigint) as n_sessions,
    cast(n_bot_sessions as bigint) as n_bot_sessions,
    cast(n_products as bigint) as n_products,
    cast(n_pageviews as bigint) as n_pageviews,
    cast(n_details as bigint) as n_details,
    cast(n_adds as bigint) as n_adds,
    cast(n_removes as bigint) as n_removes,
    cast(n_purchases as bigint) as n_purchases
from daily

-- Actions are disjoint kinds of events, and bots are sessions too.
select
    tenant,
    event_date
from {{ ref('daily_statistics') }}
where
    n_details + n_adds + n_removes + n_purchases > n_events
    or n_pageviews > n_events
    or n_bot_sessions > n_sessions
    or n_sessions > n_events

-- The three arrays of a session are parallel, and as long as the session says.
select
    tenant,
    session_id
from {{ ref('sessions') }}
where
    {{ array_length('skus') }} != n_interactions
    or {{ array_length('actions') }} != n_interactions
    or {{ array_length('event_times') }} != n_interactions
    or n_interactions > {{ var('max_session_events') }}
    or n_steps > n_interactions
    or n_interactions > n_events
    or started_at > ended_at

-- A day with ten times the events of a usual one, or a tenth of them, is seldom real: look before you train.
{{ config(severity='warn') }}

with daily as (

    select
        tenant,
        event_date,
        n_events,
        median(n_events) over (partition by tenant) as usual_events
    from {{ ref('daily_statistics') }}

)

select
    tenant,
    event_date,
    n_events,
    usual_events
from daily
where n_events > 10 * usual_events or 10 * n_events < usual_events

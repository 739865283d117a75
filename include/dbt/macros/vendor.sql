{#- The only places in which the vendors' SQL differs. -#}

{#- Reads a JSON column once, however many of its keys are wanted; `json_text` then picks them. -#}
{% macro parsed_json(document, keys) -%}
    {{ return(adapter.dispatch('parsed_json', 'post_modern_stack')(document, keys)) }}
{%- endmacro %}

{% macro default__parsed_json(document, keys) -%}
    from_json({{ document }}, '{ {%- for key in keys %}"{{ key }}": "VARCHAR"{{ ", " if not loop.last }}{% endfor -%} }')
{%- endmacro %}

{% macro snowflake__parsed_json(document, keys) -%}
    {{ document }}
{%- endmacro %}


{% macro json_text(parsed, key) -%}
    {{ return(adapter.dispatch('json_text', 'post_modern_stack')(parsed, key)) }}
{%- endmacro %}

{% macro default__json_text(parsed, key) -%}
    {{ parsed }}.{{ key }}
{%- endmacro %}

{% macro snowflake__json_text(parsed, key) -%}
    {{ parsed }}:{{ key }}::varchar
{%- endmacro %}


{% macro epoch_ms_to_timestamp(milliseconds) -%}
    {{ return(adapter.dispatch('epoch_ms_to_timestamp', 'post_modern_stack')(milliseconds)) }}
{%- endmacro %}

{% macro default__epoch_ms_to_timestamp(milliseconds) -%}
    epoch_ms({{ milliseconds }})
{%- endmacro %}

{% macro snowflake__epoch_ms_to_timestamp(milliseconds) -%}
    to_timestamp_ntz({{ milliseconds }}, 3)
{%- endmacro %}


{% macro array_length(array) -%}
    {{ return(adapter.dispatch('array_length', 'post_modern_stack')(array)) }}
{%- endmacro %}

{% macro default__array_length(array) -%}
    len({{ array }})
{%- endmacro %}

{% macro snowflake__array_length(array) -%}
    array_size({{ array }})
{%- endmacro %}


{% macro days_after(day, days) -%}
    {{ return(adapter.dispatch('days_after', 'post_modern_stack')(day, days)) }}
{%- endmacro %}

{% macro default__days_after(day, days) -%}
    {{ day }} + {{ days }}
{%- endmacro %}

{% macro snowflake__days_after(day, days) -%}
    dateadd(day, {{ days }}, {{ day }})
{%- endmacro %}


{#-
    The sessions of a relation of events (tenant, shop_session_id, session_part, event_epoch_ms, funnel_rank,
    product_action, product_sku, is_interaction) with their first `max_session_events` interactions in order,
    as parallel arrays: time first, then the funnel, then the product, so that no order of arrival shows.
-#}
{% macro ordered_sessions(events) -%}
    {{ return(adapter.dispatch('ordered_sessions', 'post_modern_stack')(events)) }}
{%- endmacro %}

{#- Window functions would sort all events several times; a list of small structs is sorted within its session. -#}
{% macro duckdb__ordered_sessions(events) -%}
    select
        * exclude (interactions),
        [step.sku for step in interactions] as skus,
        [step.action for step in interactions] as actions,
        [step.epoch_ms for step in interactions] as event_times,
        len(interactions) as n_interactions,
        1 + len(list_filter(
            list_zip(interactions[:-2], interactions[2:]), lambda pair: pair[1].sku <> pair[2].sku
        )) as n_steps
    from (
        select
            tenant,
            shop_session_id,
            session_part,
            count(*) as n_events,
            max(event_epoch_ms) - min(event_epoch_ms) as duration_ms,
            list_sort(
                list({
                    'epoch_ms': event_epoch_ms, 'rank': funnel_rank, 'sku': product_sku, 'action': product_action
                }) filter (is_interaction)
            )[:{{ var('max_session_events') }}] as interactions
        from {{ events }}
        group by tenant, shop_session_id, session_part
    )
    where interactions is not null
{%- endmacro %}

{% macro default__ordered_sessions(events) -%}
    select
        arrays.*,
        totals.n_events,
        totals.duration_ms
    from (
        select
            tenant,
            shop_session_id,
            session_part,
            count(*) as n_interactions,
            sum(case when previous_sku is null or previous_sku <> product_sku then 1 else 0 end) as n_steps,
            array_agg(product_sku) within group (order by interaction_number) as skus,
            array_agg(product_action) within group (order by interaction_number) as actions,
            array_agg(event_epoch_ms) within group (order by interaction_number) as event_times
        from (
            select
                *,
                row_number() over (
                    partition by tenant, shop_session_id, session_part
                    order by event_epoch_ms, funnel_rank, product_sku
                ) as interaction_number,
                lag(product_sku) over (
                    partition by tenant, shop_session_id, session_part
                    order by event_epoch_ms, funnel_rank, product_sku
                ) as previous_sku
            from {{ events }}
            where is_interaction
        ) as numbered
        where interaction_number <= {{ var('max_session_events') }}
        group by tenant, shop_session_id, session_part
    ) as arrays
    inner join (
        select
            tenant,
            shop_session_id,
            session_part,
            count(*) as n_events,
            max(event_epoch_ms) - min(event_epoch_ms) as duration_ms
        from {{ events }}
        group by tenant, shop_session_id, session_part
    ) as totals
        on
            arrays.tenant = totals.tenant
            and arrays.shop_session_id = totals.shop_session_id
            and arrays.session_part = totals.session_part
{%- endmacro %}


{#- First and last element of an array of epoch milliseconds. -#}
{% macro first_element(array) -%}
    {{ return(adapter.dispatch('first_element', 'post_modern_stack')(array)) }}
{%- endmacro %}

{% macro default__first_element(array) -%}
    {{ array }}[1]
{%- endmacro %}

{% macro snowflake__first_element(array) -%}
    {{ array }}[0]::bigint
{%- endmacro %}


{% macro last_element(array) -%}
    {{ return(adapter.dispatch('last_element', 'post_modern_stack')(array)) }}
{%- endmacro %}

{% macro default__last_element(array) -%}
    {{ array }}[len({{ array }})]
{%- endmacro %}

{% macro snowflake__last_element(array) -%}
    {{ array }}[array_size({{ array }}) - 1]::bigint
{%- endmacro %}

{#- The only places in which the vendors' SQL differs. -#}

{% macro json_text(document, key) -%}
    {{ return(adapter.dispatch('json_text', 'post_modern_stack')(document, key)) }}
{%- endmacro %}

{% macro default__json_text(document, key) -%}
    json_extract_string({{ document }}, '$.{{ key }}')
{%- endmacro %}

{% macro snowflake__json_text(document, key) -%}
    get({{ document }}, '{{ key }}')::varchar
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


{% macro ordered_array(expression, order_by) -%}
    {{ return(adapter.dispatch('ordered_array', 'post_modern_stack')(expression, order_by)) }}
{%- endmacro %}

{% macro default__ordered_array(expression, order_by) -%}
    array_agg({{ expression }} order by {{ order_by }})
{%- endmacro %}

{% macro snowflake__ordered_array(expression, order_by) -%}
    array_agg({{ expression }}) within group (order by {{ order_by }})
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


{% macro days_before(moment, days) -%}
    {{ return(adapter.dispatch('days_before', 'post_modern_stack')(moment, days)) }}
{%- endmacro %}

{% macro default__days_before(moment, days) -%}
    {{ moment }} - to_days({{ days }})
{%- endmacro %}

{% macro snowflake__days_before(moment, days) -%}
    dateadd(day, -{{ days }}, {{ moment }})
{%- endmacro %}

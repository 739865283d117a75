{#- Where fakesnow falls short of Snowflake. Only the tests' copy of the project has this file. -#}

{#- It has no temporary relation with a schema in its name. -#}
{% macro snowflake__create_table_temporary_sql(relation, compiled_code) -%}
    create or replace transient table {{ relation }} as ({{ compiled_code }})
{%- endmacro %}

{% macro snowflake__create_view_as_with_temp_flag(relation, sql, is_temporary=False) -%}
    create or replace view {{ relation }} as ({{ sql }})
{%- endmacro %}

{#- It writes the keys of an object constant in upper case. -#}
{% macro snowflake__cast(field, type) -%}
    {%- if field is mapping -%}
        parse_json('{{ tojson(field) }}')
    {%- else -%}
        cast({{ field }} as {{ type }})
    {%- endif -%}
{%- endmacro %}

{#- It cannot comment the columns of a table, nor take a comment with a quote in it. -#}
{% macro snowflake__alter_column_comment(relation, column_dict) -%}
    select 1
{%- endmacro %}

{% macro snowflake__alter_relation_comment(relation, relation_comment) -%}
    select 1
{%- endmacro %}

{#-
    A table that is kept day by day: a tenant's day is built anew, whole, where it would be built from something
    else than it was. What it was built from is in its column `built_from`, a digest of the number of its source's
    rows, of the newest version among them, and of the model's own SQL. So late, repeated, backfilled and
    withdrawn rows all give the same table as one orderly load, without a look-back that could be too short, and
    a changed rule or column reaches every day. Days are built in batches of a bounded number of rows, each in a
    transaction of its own: memory is bounded, and a killed run goes on where it stopped.

    A model reads the days it has to build through `days_of_batch`, and joins `sources_by_day` for `built_from`.
    Its config names `day`, its own column of days; `source_model`, `source_day` and `source_version`, where its
    rows come from; and `margin`, how many days around its own a day is built from.
-#}
{% materialization incremental_by_day, default %}

    {%- set existing = load_cached_relation(this) -%}
    {%- set target_relation = this.incorporate(type='table') -%}
    {%- set empty = 'select * from (' ~ compiled_code ~ ') as model where false' -%}
    {%- set query_tag = set_query_tag() if adapter.type() == 'snowflake' else none -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- set columns = get_column_schema_from_query(empty) | map(attribute='name') | map('lower') | list -%}
    {%- set is_usable = existing is not none and existing.type == 'table' and not should_full_refresh()
        and has_columns(existing, columns) -%}
    {% if not is_usable %}
        {#- Everything in it can be built from the log: another shape is no reason to ask anybody. -#}
        {{ drop_relation_if_exists(existing) }}
        {% call statement('create') %}{{ create_table_as(False, target_relation, empty) }}{% endcall %}
        {% do adapter.commit() %}
    {% endif %}

    {%- set batches = batches_of_days(stale_days(target_relation)) -%}
    {% for ranges in batches %}
        {{ log(this.identifier ~ ': batch ' ~ loop.index ~ ' of ' ~ batches | length, info=True) }}
        {% do replace_rows(
            target_relation, columns, in_ranges(ranges, config.get('day'), 0), rows_of_batch(with_digest(compiled_code), ranges)
        ) %}
    {% endfor %}

    {% call statement('main') %}select {{ batches | length }} as batches_built{% endcall %}
    {% do apply_grants(target_relation, config.get('grants'), should_revoke=False) %}
    {% do persist_docs(target_relation, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {% if query_tag %}{% do unset_query_tag(query_tag) %}{% endif %}
    {{ return({'relations': [target_relation]}) }}

{% endmaterialization %}


{#- Stands in a model for the days of the current batch; anywhere else it is true, so that the model is plain SQL. -#}
{% macro days_of_batch(day, margin=0) -%}
    /* days_of_batch {{ day }} {{ margin }} */ true
{%- endmacro %}


{#- By tenant and day of a source: how many rows a day of the model is built from, and `built_from`. -#}
{% macro sources_by_day(relation, day, version, margin=0) -%}
    with days as (
        select
            tenant,
            {{ day }} as source_day,
            count(*) as n_source_rows,
            cast(count(*) as varchar) || ' ' || cast(max({{ version }}) as varchar) as source_version
        from {{ relation }}
        where {{ days_of_batch(day, margin) }}
        group by tenant, {{ day }}
    )

    select
        centre.tenant,
        centre.source_day,
        sum(around.n_source_rows) as n_source_rows,
        md5({{ dbt.listagg('around.source_version', "','", 'order by around.source_day') }} || '{{ place_of_digest() }}')
            as built_from
    from days as centre
    inner join days as around
        on
            centre.tenant = around.tenant
            and around.source_day between {{ days_after('centre.source_day', -margin) }}
            and {{ days_after('centre.source_day', margin) }}
    where {{ days_of_batch('centre.source_day') }}
    group by centre.tenant, centre.source_day
{%- endmacro %}


{#- Stands for the digest of the model's SQL, which cannot stand in the SQL itself. -#}
{% macro place_of_digest() %}{% do return('/* digest of the SQL */') %}{% endmacro %}

{% macro with_digest(sql) %}
    {#- A view has no rows of its own: its SQL is part of the model's. -#}
    {%- set source = graph.nodes['model.' ~ project_name ~ '.' ~ config.get('source_model')] -%}
    {%- set seen_through = source.raw_code if source.config.materialized == 'view' else '' -%}
    {% do return(sql | replace(place_of_digest(), local_md5(compiled_code ~ seen_through))) %}
{% endmacro %}


{#- Rows of (tenant, day, rows to read): days that are missing, or would be built from something else. -#}
{% macro stale_days(target_relation) %}
    {%- set sources = sources_by_day(
        ref(config.get('source_model')), config.get('source_day'), config.get('source_version'), config.get('margin', 0)
    ) -%}
    {% do return(run_query(with_digest(
        "select coalesce(source_days.tenant, built.tenant) as tenant, "
        ~ "coalesce(source_days.source_day, built.built_day) as stale_day, "
        ~ "coalesce(source_days.n_source_rows, 0) as n_source_rows "
        ~ "from (" ~ sources ~ ") as source_days full outer join ("
        ~ "select tenant, " ~ config.get('day') ~ " as built_day, max(built_from) as built_from from "
        ~ target_relation ~ " group by tenant, " ~ config.get('day') ~ ") as built "
        ~ "on source_days.tenant = built.tenant and source_days.source_day = built.built_day "
        ~ "where source_days.built_from is null or built.built_from is null "
        ~ "or source_days.built_from <> built.built_from order by 1, 2"
    ))) %}
{% endmacro %}


{#- Lists of ranges (tenant, first day, last day), each list of days for one transaction. -#}
{% macro batches_of_days(stale) %}
    {%- set batches = [] -%}
    {%- set filled = namespace(rows=var('rows_per_batch')) -%}
    {%- for row in stale.rows -%}
        {%- if filled.rows >= var('rows_per_batch') -%}
            {% do batches.append([]) %}
            {%- set filled.rows = 0 -%}
        {%- endif -%}
        {#- Neighbouring days share the margins that they count. -#}
        {%- set filled.rows = filled.rows + (row[2] | int) // (2 * config.get('margin', 0) + 1) -%}
        {#- A date, or a moment at midnight, as the driver has it. -#}
        {%- set day = modules.datetime.date(row[1].year, row[1].month, row[1].day) -%}
        {%- set ranges = batches[-1] -%}
        {%- if ranges and ranges[-1].tenant == row[0] and (day - ranges[-1].last).days == 1 -%}
            {% do ranges[-1].update({'last': day}) %}
        {%- else -%}
            {% do ranges.append({'tenant': row[0], 'first': day, 'last': day}) %}
        {%- endif -%}
    {%- endfor -%}
    {% do return(batches) %}
{% endmacro %}


{% macro in_ranges(ranges, day, margin) %}
    {%- set around = modules.datetime.timedelta(days=margin) -%}
    {%- set tenant = day | replace(day.split('.')[-1], 'tenant') -%}
    {%- set parts = [] -%}
    {%- for range in ranges -%}
        {% do parts.append(
            "(" ~ tenant ~ " = " ~ string_literal(escape_single_quotes(range.tenant)) ~ " and " ~ day ~ " between cast('"
            ~ (range.first - around) ~ "' as date) and cast('" ~ (range.last + around) ~ "' as date))"
        ) %}
    {%- endfor -%}
    {#- The outer bounds let the warehouse skip whatever lies outside of all of them. -#}
    {% do return(
        "(" ~ parts | join(" or ") ~ ") and " ~ day ~ " between cast('"
        ~ (ranges | map(attribute='first') | min - around) ~ "' as date) and cast('"
        ~ (ranges | map(attribute='last') | max + around) ~ "' as date)"
    ) %}
{% endmacro %}


{% macro rows_of_batch(sql, ranges) %}
    {%- set filled = namespace(sql=sql) -%}
    {%- for day, margin in modules.re.findall('/[*] days_of_batch ([a-z_.]+) ([0-9]+) [*]/ true', sql) -%}
        {%- set place = '/* days_of_batch ' ~ day ~ ' ' ~ margin ~ ' */ true' -%}
        {%- set filled.sql = filled.sql | replace(place, in_ranges(ranges, day, margin | int)) -%}
    {%- endfor -%}
    {% do return(filled.sql) %}
{% endmacro %}


{% macro has_columns(relation, columns) %}
    {%- set found = adapter.get_columns_in_relation(relation) | map(attribute='name') | map('lower') | list -%}
    {% do return(found | sort == columns | sort) %}
{% endmacro %}


{#- Deletes the rows of a batch and inserts them anew, both or neither. -#}
{% macro replace_rows(target_relation, columns, condition, rows) %}
    {% do adapter.dispatch('replace_rows', 'post_modern_stack')(
        "delete from " ~ target_relation ~ " where " ~ condition,
        "insert into " ~ target_relation ~ " (" ~ columns | join(', ') ~ ") select " ~ columns | join(', ')
        ~ " from (" ~ rows ~ ") as rows_of_batch"
    ) %}
{% endmacro %}

{% macro default__replace_rows(delete, insert) %}
    {% call statement('delete') %}{{ delete }}{% endcall %}
    {% call statement('insert') %}{{ insert }}{% endcall %}
    {% do adapter.commit() %}
{% endmacro %}

{% macro snowflake__replace_rows(delete, insert) %}
    {% call statement('replace') %}{{ snowflake_dml_explicit_transaction(delete ~ ";\n" ~ insert) }}{% endcall %}
{% endmacro %}

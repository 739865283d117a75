{#- With `day`, only the newest `tested_days` are looked at: a day is built whole, or not at all. -#}
{% test unique_combination(model, columns, day=none) %}

    select {{ columns | join(', ') }}
    from {{ model }}
    {% if day -%}
    where {{ day }} > (select {{ days_after('max(' ~ day ~ ')', -var('tested_days')) }} from {{ model }})
    {%- endif %}
    group by {{ columns | join(', ') }}
    having count(*) > 1

{% endtest %}

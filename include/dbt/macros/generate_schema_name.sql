{% macro generate_schema_name(custom_schema_name, node) -%}
    {#- Every model lives in the target schema: it is the one name that the export knows. -#}
    {{ target.schema }}
{%- endmacro %}

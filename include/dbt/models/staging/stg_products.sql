with source as (

    select * from {{ source('raw', 'products') }}

),

loads as (

    select etl_id from {{ source('raw', 'loads') }}

),

parsed as (

    select
        etl_id,
        etl_timestamp,
        api_key as tenant,
        product_sku,
        {{ parsed_json('raw_data', ['category_hash', 'price_bucket']) }} as parsed_row
    from source
    where etl_id in (select loads.etl_id from loads)

),

renamed as (

    select
        etl_id,
        etl_timestamp,
        tenant,
        product_sku,
        nullif({{ json_text('parsed_row', 'category_hash') }}, '') as category,
        try_cast({{ json_text('parsed_row', 'price_bucket') }} as double) as price_bucket
    from parsed

),

priced as (

    select
        etl_id,
        etl_timestamp,
        tenant,
        product_sku,
        category,
        -- Both warehouses read nan and inf as numbers, which they are not.
        case when price_bucket between -1e300 and 1e300 then price_bucket end as price_bucket
    from renamed

)

select * from priced

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

)

select * from renamed

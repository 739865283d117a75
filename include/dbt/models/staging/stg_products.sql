with source as (

    select * from {{ source('raw', 'products') }}

),

renamed as (

    select
        etl_id,
        etl_timestamp,
        api_key as tenant,
        product_sku,
        nullif({{ json_text('raw_data', 'category_hash') }}, '') as category,
        try_cast({{ json_text('raw_data', 'price_bucket') }} as double) as price_bucket
    from source

)

select * from renamed

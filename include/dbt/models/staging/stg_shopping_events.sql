with source as (

    select * from {{ source('raw', 'shopping_events') }}

),

parsed as (

    select
        etl_id,
        etl_timestamp,
        api_key as tenant,
        event_date,
        event_type,
        {{ json_text('raw_data', 'session_id_hash') }} as session_id,
        nullif({{ json_text('raw_data', 'product_action') }}, '') as product_action,
        nullif({{ json_text('raw_data', 'product_sku_hash') }}, '') as product_sku,
        nullif({{ json_text('raw_data', 'hashed_url') }}, '') as page_url,
        cast({{ json_text('raw_data', 'server_timestamp_epoch_ms') }} as bigint) as event_epoch_ms
    from source

),

renamed as (

    select
        etl_id,
        etl_timestamp,
        tenant,
        event_date,
        session_id,
        event_type,
        product_action,
        product_sku,
        page_url,
        event_epoch_ms,
        {{ epoch_ms_to_timestamp('event_epoch_ms') }} as event_at
    from parsed

)

select * from renamed

with source as (

    select * from {{ source('raw', 'shopping_events') }}

),

loads as (

    select etl_id from {{ source('raw', 'loads') }}

),

parsed as (

    select
        etl_id,
        etl_timestamp,
        api_key as tenant,
        event_date,
        event_type,
        {{ parsed_json('raw_data', [
            'session_id_hash', 'product_action', 'product_sku_hash', 'server_timestamp_epoch_ms', 'hashed_url'
        ]) }} as parsed_row
    from source
    -- A load that is not finished, or was refused, is not there yet.
    where etl_id in (select loads.etl_id from loads)

),

renamed as (

    select
        etl_id,
        etl_timestamp,
        tenant,
        event_date,
        event_type,
        {{ json_text('parsed_row', 'session_id_hash') }} as session_id,
        nullif({{ json_text('parsed_row', 'product_action') }}, '') as product_action,
        nullif({{ json_text('parsed_row', 'product_sku_hash') }}, '') as product_sku,
        nullif({{ json_text('parsed_row', 'hashed_url') }}, '') as page_url,
        cast({{ json_text('parsed_row', 'server_timestamp_epoch_ms') }} as bigint) as event_epoch_ms
    from parsed

)

select * from renamed

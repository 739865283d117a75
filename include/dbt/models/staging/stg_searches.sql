with source as (

    select * from {{ source('raw', 'searches') }}

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
        {{ parsed_json('raw_data', [
            'session_id_hash', 'clicked_skus_hash', 'product_skus_hash', 'server_timestamp_epoch_ms'
        ]) }} as parsed_row
    from source
    where etl_id in (select loads.etl_id from loads)

),

renamed as (

    select
        etl_id,
        etl_timestamp,
        tenant,
        event_date,
        {{ json_text('parsed_row', 'session_id_hash') }} as session_id,
        nullif(nullif({{ json_text('parsed_row', 'clicked_skus_hash') }}, ''), '[]') as clicked_skus,
        nullif(nullif({{ json_text('parsed_row', 'product_skus_hash') }}, ''), '[]') as shown_skus,
        cast({{ json_text('parsed_row', 'server_timestamp_epoch_ms') }} as bigint) as search_epoch_ms
    from parsed

)

select * from renamed

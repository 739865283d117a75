with catalogue as (

    select
        tenant,
        product_sku,
        category,
        price_bucket
    from {{ ref('stg_products') }}
    qualify
        row_number() over (
            partition by tenant, product_sku
            order by etl_timestamp desc, etl_id desc, category asc, price_bucket asc
        ) = 1

),

seen as (

    select
        tenant,
        product_sku,
        sum(n_interactions) as n_interactions
    from {{ ref('int_product_days') }}
    where n_interactions > 0
    group by tenant, product_sku

)

select
    coalesce(catalogue.tenant, seen.tenant) as tenant,
    coalesce(catalogue.product_sku, seen.product_sku) as product_sku,
    catalogue.category,
    catalogue.price_bucket,
    catalogue.product_sku is not null as is_in_catalogue,
    cast(coalesce(seen.n_interactions, 0) as bigint) as n_interactions
from catalogue
full outer join seen
    on
        catalogue.tenant = seen.tenant
        and catalogue.product_sku = seen.product_sku

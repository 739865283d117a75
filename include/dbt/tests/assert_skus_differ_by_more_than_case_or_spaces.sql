-- Such products are kept apart, for SKUs come out as they went in; but the shop may mean only one.
{{ config(severity='warn') }}

select
    tenant,
    lower(trim(product_sku)) as folded_sku,
    count(*) as n_products
from {{ ref('products') }}
group by tenant, lower(trim(product_sku))
having count(*) > 1

-- Everything the pipeline needs in a Snowflake account, with no privilege that it does not use.
--
-- Run it once as a person who may use ACCOUNTADMIN (integrations and resource monitors need it), with
-- `snow sql -f` or in a worksheet; at run time nothing uses ACCOUNTADMIN. It can be run again. Set the
-- names first, then do the two steps at the end, which need values that Snowflake and AWS hand out.

set database_name = 'SHOP_RECOMMENDATIONS';
set warehouse_name = 'SHOP_RECOMMENDATIONS_WH';
set mart_schema = 'SHOP_RECOMMENDATIONS.SHOP'; -- PMS_WAREHOUSE_SCHEMA
set raw_schema = 'SHOP_RECOMMENDATIONS.RAW'; -- fixed: the raw log is always in `raw`
set loader_role = 'SHOP_LOADER';
set transformer_role = 'SHOP_TRANSFORMER';
set exporter_role = 'SHOP_EXPORTER';
set pipeline_role = 'SHOP_PIPELINE';
set service_user = 'SHOP_PIPELINE_SERVICE';
set public_key = 'MIIBIjANBgkqh…'; -- the public half of the key pair, without its first and last line

use role accountadmin;

-- Compute ----------------------------------------------------------------------------------------------
-- The smallest size, asleep after a minute: a load, a dbt run and an export are minutes a day.
create warehouse if not exists identifier($warehouse_name)
    warehouse_size = 'XSMALL'
    auto_suspend = 60
    auto_resume = true
    initially_suspended = true
    statement_timeout_in_seconds = 3600;

-- A loop that nobody watches cannot cost more than this a month.
create resource monitor if not exists shop_recommendations_monitor with
    credit_quota = 20
    frequency = monthly
    start_timestamp = immediately
    triggers on 80 percent do notify on 100 percent do suspend;
alter warehouse identifier($warehouse_name) set resource_monitor = shop_recommendations_monitor;

-- Data -------------------------------------------------------------------------------------------------
create database if not exists identifier($database_name);
-- `managed access`: owners of tables cannot hand them on, only this script's roles can.
create schema if not exists identifier($raw_schema) with managed access;
create schema if not exists identifier($mart_schema) with managed access;

-- Roles ------------------------------------------------------------------------------------------------
-- One per verb, so that each privilege has a reason. The service user is given the fourth alone, the union of
-- the three, and every step of the pipeline runs with it: the roles of the verbs limit no step today. They are
-- for people, who may be given one of them, and for a later split into a connection for each verb.
create role if not exists identifier($loader_role);
create role if not exists identifier($transformer_role);
create role if not exists identifier($exporter_role);
create role if not exists identifier($pipeline_role);
grant role identifier($loader_role) to role identifier($pipeline_role);
grant role identifier($transformer_role) to role identifier($pipeline_role);
grant role identifier($exporter_role) to role identifier($pipeline_role);
-- So that administrators see and can repair what the pipeline made.
grant role identifier($pipeline_role) to role sysadmin;

grant usage on warehouse identifier($warehouse_name) to role identifier($pipeline_role);
grant usage on database identifier($database_name) to role identifier($loader_role);
grant usage on database identifier($database_name) to role identifier($transformer_role);
grant usage on database identifier($database_name) to role identifier($exporter_role);

-- load: makes and fills the raw log, and stages files for it.
grant usage, create table, create stage on schema identifier($raw_schema) to role identifier($loader_role);
grant select, insert, update, delete on all tables in schema identifier($raw_schema)
    to role identifier($loader_role);
grant select, insert, update, delete on future tables in schema identifier($raw_schema)
    to role identifier($loader_role);
grant read, write on all stages in schema identifier($raw_schema) to role identifier($loader_role);
grant read, write on future stages in schema identifier($raw_schema) to role identifier($loader_role);

-- transform: reads the raw log, never writes it; makes tables and views of the marts' schema.
grant usage on schema identifier($raw_schema) to role identifier($transformer_role);
grant select on all tables in schema identifier($raw_schema) to role identifier($transformer_role);
grant select on future tables in schema identifier($raw_schema) to role identifier($transformer_role);
grant usage, create table, create view on schema identifier($mart_schema)
    to role identifier($transformer_role);
grant select, insert, update, delete, truncate on all tables in schema identifier($mart_schema)
    to role identifier($transformer_role);
grant select, insert, update, delete, truncate on future tables in schema identifier($mart_schema)
    to role identifier($transformer_role);

-- export: reads the marts. The temporary tables of a snapshot's rows need no privilege.
grant usage on schema identifier($mart_schema) to role identifier($exporter_role);
grant select on all tables in schema identifier($mart_schema) to role identifier($exporter_role);
grant select on future tables in schema identifier($mart_schema) to role identifier($exporter_role);
grant select on all views in schema identifier($mart_schema) to role identifier($exporter_role);
grant select on future views in schema identifier($mart_schema) to role identifier($exporter_role);

-- The bucket -------------------------------------------------------------------------------------------
-- Snowflake writes snapshots by itself; the pipeline's AWS credentials never enter a statement. Name the
-- integration in the connection's extra as storage_integration. Its values are constants: edit them.
create storage integration if not exists shop_recommendations_s3
    type = external_stage
    storage_provider = 'S3'
    enabled = true
    storage_aws_role_arn = 'arn:aws:iam::123456789012:role/post-modern-stack-snowflake'
    storage_allowed_locations = ('s3://post-modern-stack/shop/snapshots/');
grant usage on integration shop_recommendations_s3 to role identifier($exporter_role);

-- The user ---------------------------------------------------------------------------------------------
-- `service`: no password, no browser; the key pair is its only way in.
create user if not exists identifier($service_user)
    type = service
    default_role = $pipeline_role
    default_warehouse = $warehouse_name
    default_namespace = $mart_schema
    rsa_public_key = $public_key
    comment = 'Airflow: load, dbt, snapshot export';
-- Times are UTC without a zone in dbt's sessions too, whatever the account's defaults.
alter user identifier($service_user) set timezone = 'UTC' timestamp_type_mapping = 'TIMESTAMP_NTZ';
grant role identifier($pipeline_role) to user identifier($service_user);

-- Only from where Airflow runs: put its addresses here, and uncomment.
-- create network policy shop_recommendations_airflow allowed_ip_list = ('203.0.113.0/24');
-- alter user identifier($service_user) set network_policy = shop_recommendations_airflow;

-- Step 1: let the integration into the bucket. This prints STORAGE_AWS_IAM_USER_ARN and
-- STORAGE_AWS_EXTERNAL_ID; deploy include/cloud/aws.yaml again with them as SnowflakeUserArn and
-- SnowflakeExternalId, which makes the role above and lets it read and write snapshots, and nothing else.
describe integration shop_recommendations_s3;

-- Step 2: try it, as the pipeline.
-- use role identifier($pipeline_role);
-- copy into 's3://post-modern-stack/shop/snapshots/try/' from (select 1 as "one")
--     storage_integration = shop_recommendations_s3 file_format = (type = parquet) header = true;

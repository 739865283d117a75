"""The transform step: one Airflow task per dbt model, rendered by Cosmos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import airflow  # noqa: F401  # Cosmos imports Airflow in a circle unless Airflow came first
from cosmos import DbtTaskGroup, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import InvocationMode, LoadMode, TestBehavior
from cosmos.profiles import DuckDBUserPasswordProfileMapping, SnowflakePrivateKeyPemProfileMapping

from include.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from cosmos.profiles.base import BaseProfileMapping

    from include.settings import Settings

DBT_PROJECT = PROJECT_ROOT / "include" / "dbt"
WAREHOUSE_POOL = "warehouse"


def _profile(settings: Settings) -> ProfileConfig:
    """Lets the warehouse connection itself be dbt's profile: nothing secret is written to disk.

    Cosmos hands passwords and keys to dbt through environment variables of the task's process.
    """
    arguments = {"schema": settings.warehouse_schema, "threads": 2}
    mapping: BaseProfileMapping
    if settings.warehouse == "snowflake":
        mapping = SnowflakePrivateKeyPemProfileMapping(settings.warehouse_conn_id, profile_args=arguments)
    else:
        mapping = DuckDBUserPasswordProfileMapping(settings.warehouse_conn_id, profile_args=arguments)
    return ProfileConfig(
        profile_name="post_modern_stack", target_name=settings.warehouse, profile_mapping=mapping
    )


def transform_group(settings: Settings) -> DbtTaskGroup:
    """Returns the task group that builds and tests every dbt model.

    The graph comes from the manifest that `make` (or the image build) prepared, so that parsing the
    DAG runs no dbt. Each task is `dbt build` of one model: its unit tests, the model, its data tests.

    Args:
        settings: Chooses profile and schema.
    """
    return DbtTaskGroup(
        group_id="transform",
        project_config=ProjectConfig(
            dbt_project_path=DBT_PROJECT,
            manifest_path=DBT_PROJECT / "target" / "manifest.json",
            install_dbt_deps=False,
        ),
        profile_config=_profile(settings),
        # In-process dbt starts in 2 s, a subprocess in 15 s.
        execution_config=ExecutionConfig(invocation_mode=InvocationMode.DBT_RUNNER),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST, test_behavior=TestBehavior.BUILD, emit_datasets=False
        ),
        # One slot: DuckDB lets a single process in; on Snowflake the pool is as wide as you like.
        operator_args={"pool": WAREHOUSE_POOL, "install_deps": False},
        default_args={"retries": 2},
    )

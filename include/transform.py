"""The transform step: one Airflow task per dbt model, rendered by Cosmos, or one job of dbt Cloud."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import airflow  # noqa: F401  # Cosmos imports Airflow in a circle unless Airflow came first
from airflow.sdk import TaskGroup
from cosmos import DbtTaskGroup, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import InvocationMode, LoadMode, SourceRenderingBehavior, TestBehavior
from cosmos.operators.local import DbtDocsLocalOperator
from cosmos.profiles import DuckDBUserPasswordProfileMapping

from include.contracts import SettingsError
from include.dbt_profile import QUERY_TAG, KeyPairProfileMapping
from include.operators.keep_dbt_artifacts import keep_docs, keep_run_results
from include.operators.links import DbtDocsLink
from include.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from cosmos.profiles.base import BaseProfileMapping

    from include.settings import Settings

DBT_PROJECT = PROJECT_ROOT / "include" / "dbt"
MANIFEST = DBT_PROJECT / "target" / "manifest.json"
GROUP = "transform"


def _profile(settings: Settings) -> ProfileConfig:
    """Lets the warehouse connection itself be dbt's profile: nothing secret is written to disk.

    Cosmos hands passwords and keys to dbt through environment variables of the task's process.
    """
    arguments: dict[str, object] = {"schema": settings.warehouse_schema, "threads": 2}
    mapping: BaseProfileMapping
    if settings.warehouse == "snowflake":
        chosen = {"warehouse": settings.snowflake_warehouse, "role": settings.snowflake_role}
        arguments |= {name: value for name, value in chosen.items() if value} | {"query_tag": QUERY_TAG}
        mapping = KeyPairProfileMapping(settings.warehouse_conn_id, profile_args=arguments)
    else:
        # As in profiles.yml, which says why.
        duckdb = {"memory_limit": settings.duckdb_memory_limit, "preserve_insertion_order": False}
        mapping = DuckDBUserPasswordProfileMapping(
            settings.warehouse_conn_id, profile_args={**arguments, "settings": duckdb}
        )
    return ProfileConfig(
        profile_name="post_modern_stack", target_name=settings.warehouse, profile_mapping=mapping
    )


def transform_group(settings: Settings, check: BaseOperator) -> TaskGroup:
    """Returns the task group that builds and tests every dbt model.

    Args:
        settings: Chooses runner, profile and schema.
        check: The task without whose success nothing of this may run.

    Raises:
        SettingsError: The manifest has not been built.
    """
    return _dbt_cloud_group(settings) if settings.dbt_runner == "cloud" else _dbt_core_group(settings, check)


def _dbt_cloud_group(settings: Settings) -> TaskGroup:
    # Here, so that only who uses dbt Cloud pays for its import at every parse.
    from include.operators.run_dbt_cloud_job import RunDbtCloudJobOperator

    with TaskGroup(GROUP) as group:
        RunDbtCloudJobOperator(
            task_id="run_dbt_cloud_job",
            dbt_cloud_conn_id=settings.dbt_cloud_conn_id,
            job_id=settings.dbt_cloud_job_id,
            check_interval=settings.poll_seconds,
            execution_timeout=timedelta(minutes=settings.dbt_cloud_minutes),
        )
    return group


def _dbt_core_group(settings: Settings, check: BaseOperator) -> TaskGroup:
    """Draws the graph from the manifest that `make` (or the image build) prepared, without running dbt.

    Each task is `dbt build` of one model: the model and its data tests.
    """
    if not MANIFEST.exists():
        raise SettingsError(f"There is no dbt manifest at {MANIFEST}: run make setup.")
    profile = _profile(settings)
    arguments: dict[str, Any] = {"pool": settings.warehouse_pool, "install_deps": False}
    group = DbtTaskGroup(
        group_id=GROUP,
        project_config=ProjectConfig(
            dbt_project_path=DBT_PROJECT, manifest_path=MANIFEST, install_dbt_deps=False
        ),
        profile_config=profile,
        # In-process dbt starts in 2 s, a subprocess in 15 s.
        execution_config=ExecutionConfig(invocation_mode=InvocationMode.DBT_RUNNER),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            test_behavior=TestBehavior.BUILD,
            # One task for the freshness of the newest load.
            source_rendering_behavior=SourceRenderingBehavior.WITH_TESTS_OR_FRESHNESS,
            emit_datasets=False,
            exclude=["resource_type:exposure"],  # no task; Cosmos would warn of it at every parse
        ),
        operator_args={
            **arguments,
            "callback": keep_run_results,
            # Their inputs never change: dbt's advice is to run them where the code does, in tests.
            "env": {"DBT_EXCLUDE_RESOURCE_TYPES": "unit_test"},
            "full_refresh": "{{ params.full_refresh }}",
        },
        default_args={"retries": 2},
    )
    models = list(group.get_leaves())
    with group:
        docs = DbtDocsLocalOperator(
            task_id="generate_docs",
            project_dir=str(DBT_PROJECT),
            profile_config=profile,
            invocation_mode=InvocationMode.DBT_RUNNER,
            emit_datasets=False,
            callback=keep_docs,
            cache_dir=models[0].cache_dir,  # what the models' tasks have parsed
            **arguments,
        )
        docs.operator_extra_links = (DbtDocsLink(),)
    # Documentation is for people, so the pipeline neither waits for it nor fails with it. That is what
    # Airflow calls a teardown: no leaf of its group, and without a say in the run's state. The check is
    # its setup, so that there is none where the check failed or skipped the run.
    models >> docs.as_teardown(setups=check, on_failure_fail_dagrun=False)
    return group

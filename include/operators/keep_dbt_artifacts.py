"""Puts what dbt left behind on S3: Cosmos calls these after dbt, and before it looks how dbt ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import Context

from include import dbt_artifacts
from include.operators.guard import aws_faults
from include.sagemaker.storage import object_exists
from include.settings import get_settings


def keep_run_results(project_dir: str, context: Context) -> None:
    """Keeps the task's `run_results.json`, and tells failed tests from faults.

    Args:
        project_dir: The copy of the dbt project that Cosmos ran.
        context: The task's.

    Raises:
        AirflowFailException: A test failed, which a retry cannot mend; the message names it.
        AirflowException: S3 does not answer for now.
    """
    path = Path(project_dir) / "target" / "run_results.json"
    if not path.exists():
        # dbt ended before it ran anything. The reason is dbt's to tell: Cosmos raises it next.
        return
    content = path.read_bytes()
    keep_files(context, {"run_results.json": content})
    with aws_faults("dbt"):
        dbt_artifacts.refuse_failed_tests(json.loads(content))


def keep_docs(project_dir: str, context: Context) -> None:
    """Keeps the manifest and the documentation of `dbt docs generate`, the latter as one page.

    Args:
        project_dir: The copy of the dbt project that Cosmos ran.
        context: The task's.

    Raises:
        AirflowException: S3 does not answer for now.
    """
    manifest, catalog = (Path(project_dir) / "target" / name for name in ("manifest.json", "catalog.json"))
    if catalog.exists():
        page = docs_page(manifest.read_bytes(), catalog.read_bytes())
        keep_files(context, {"docs.html": page, "manifest.json": manifest.read_bytes()})


def docs_page(manifest: bytes, catalog: bytes) -> bytes:
    """Returns the documentation as one page, with the reader that dbt brings."""
    from dbt.task.docs import DOCS_INDEX_FILE_PATH

    return dbt_artifacts.docs_page(Path(DOCS_INDEX_FILE_PATH).read_text(), manifest, catalog)


def keep_files(context: Context, files: Mapping[str, bytes], attempt: str | None = None) -> None:
    """Uploads a task's files under its run and attempt, and hands the claim check over through XCom.

    Args:
        context: The task's.
        files: Names and contents, see `dbt_artifacts.keep`.
        attempt: Names the attempt; None for the number of the task's try.

    Raises:
        AirflowFailException: S3 refuses.
        AirflowException: S3 does not answer for now.
    """
    prefix, task = _prefix(context, attempt), context["ti"]
    with aws_faults("Keeping dbt's files"):
        kept = dbt_artifacts.keep(_s3(), get_settings().bucket, prefix, files)
    task.xcom_push(key=dbt_artifacts.XCOM_KEY, value=kept.to_xcom())


def are_files_kept(context: Context, attempt: str) -> bool:
    """Tells whether all files of an attempt are on S3; the manifest is the last of them.

    Raises:
        AirflowFailException: S3 refuses.
        AirflowException: S3 does not answer for now.
    """
    with aws_faults("Looking for dbt's files"):
        uri = f"s3://{get_settings().bucket}/{_prefix(context, attempt)}/manifest.json"
        return object_exists(_s3(), uri)


def _s3() -> Any:
    return AwsBaseHook(aws_conn_id=get_settings().aws_conn_id, client_type="s3").get_conn()


def _prefix(context: Context, attempt: str | None) -> str:
    task = context["ti"]
    return dbt_artifacts.attempt_prefix(
        get_settings().prefix, task.run_id, task.task_id, attempt or task.try_number
    )

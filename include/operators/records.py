"""Leaves a step's claim check on S3, under the run that made it."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context

from include.contracts import Contract
from include.runs import write_record
from include.settings import Settings


def leave_record(context: Context, client: Any, settings: Settings, claim: Contract) -> None:
    """Writes the claim check to `runs/<run id>/`, where `include.client` finds it.

    Args:
        context: The task's context; without a run, as where a test calls `execute`, nothing is written.
        client: boto3 S3 client of the AWS connection.
        settings: Bucket and prefix.
        claim: What the task is about to return.
    """
    if run_id := context.get("run_id"):
        write_record(client, settings.bucket, settings.prefix, run_id, claim)

"""Reads what the card shows of the data: the snapshot's manifest, its drift, and what dbt's tests left."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from airflow.sdk import BaseOperator, Context

from include import snapshots
from include.cards.data import Data, data_of
from include.contracts import DbtArtifacts, Snapshot
from include.dbt_artifacts import XCOM_KEY
from include.drift import Drift
from include.runs import read_record
from include.settings import Settings

log = logging.getLogger(__name__)
FoundT = TypeVar("FoundT")
TRANSFORM = "transform."


def gather_data(
    task: BaseOperator, context: Context, client: Any, settings: Settings, snapshot_id: str
) -> Data:
    """Returns as much of the section as can be had; what cannot is logged and left out.

    Args:
        task: The task that draws; dbt's tasks lie before it.
        context: Its context.
        client: boto3 S3 client.
        settings: Bucket and prefix.
        snapshot_id: What the model was trained on.
    """
    return data_of(
        _if_possible("the snapshot", lambda: _manifest(client, settings, snapshot_id)),
        _if_possible("its drift", lambda: _drift(context, client, settings, snapshot_id)),
        _if_possible("dbt's tests", lambda: _results(task, context, client)),
    )


def _if_possible(what: str, read: Callable[[], FoundT]) -> FoundT | None:
    try:
        return read()
    except Exception:
        # A picture never decides over a model.
        log.warning("The card goes without %s.", what, exc_info=True)
        return None


def _manifest(client: Any, settings: Settings, snapshot_id: str) -> Mapping[str, object] | None:
    uri = snapshots.snapshot_uri(settings.bucket, settings.prefix, snapshot_id)
    manifest = snapshots.read_manifest(client, uri)
    return None if manifest is None else manifest.model_dump(mode="json")


def _drift(
    context: Context, client: Any, settings: Settings, snapshot_id: str
) -> Mapping[str, object] | None:
    """The comparison that this run made: the record of its export says where it lies."""
    claim = read_record(client, settings.bucket, settings.prefix, context["run_id"], Snapshot)
    if claim is None or claim.snapshot_id != snapshot_id or not claim.drift_uri:
        return None
    return Drift.model_validate_json(_read(client, claim.drift_uri)).model_dump(mode="json")


def _results(task: BaseOperator, context: Context, client: Any) -> list[Mapping[str, object]]:
    before = task.get_flat_relatives(upstream=True)
    names = sorted(other.task_id for other in before if other.task_id.startswith(TRANSFORM))
    # A list of names gives a list of values, with None for a task that left nothing.
    left = context["ti"].xcom_pull(task_ids=names, key=XCOM_KEY) if names else []
    uris = [DbtArtifacts.model_validate(value).run_results_uri for value in left if value]
    return [json.loads(_read(client, uri)) for uri in uris if uri]


def _read(client: Any, uri: str) -> bytes:
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return content

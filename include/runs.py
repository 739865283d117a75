"""What each run of the pipeline left behind, on S3: one small JSON file per step, the step's claim check.

`s3://bucket/prefix/runs/<run id, percent-encoded>/<step>.json`. A notebook can then list runs without
Airflow's database. A step that runs again replaces its own file, and says the same where nothing changed.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from botocore.exceptions import ClientError

from include.contracts import Contract, Deployment, Snapshot, TrainedModel, Verdict

ClaimT = TypeVar("ClaimT", bound=Contract)
STEP_OF: dict[type[Contract], str] = {
    Snapshot: "snapshot",
    TrainedModel: "model",
    Verdict: "verdict",
    Deployment: "deployment",
}


def _root(prefix: str) -> str:
    return "/".join(part for part in (prefix.strip("/"), "runs/") if part)


def _key(prefix: str, run_id: str, step: str) -> str:
    return f"{_root(prefix)}{quote(run_id, safe='')}/{step}.json"


def write_record(client: Any, bucket: str, prefix: str, run_id: str, claim: Contract) -> str:
    """Leaves a claim check under the run that made it; a single put, so it is there whole or not at all.

    Args:
        client: boto3 S3 client.
        bucket: The project's bucket.
        prefix: The project's prefix.
        run_id: Airflow's id of the run.
        claim: One of the kinds in `STEP_OF`.

    Returns:
        The record's URI.
    """
    key = _key(prefix, run_id, STEP_OF[type(claim)])
    body = json.dumps(claim.to_xcom(), sort_keys=True, indent=2).encode() + b"\n"
    client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")
    return f"s3://{bucket}/{key}"


def delete_record(client: Any, bucket: str, prefix: str, run_id: str, kind: type[Contract]) -> None:
    """Takes back the claim check of a step that runs again and may end otherwise; none is no error."""
    client.delete_object(Bucket=bucket, Key=_key(prefix, run_id, STEP_OF[kind]))


def read_record(client: Any, bucket: str, prefix: str, run_id: str, kind: type[ClaimT]) -> ClaimT | None:
    """Returns the claim check of a kind, or None where the run has not come so far.

    Raises:
        pydantic.ValidationError: What lies there is no such claim check.
    """
    try:
        body = client.get_object(Bucket=bucket, Key=_key(prefix, run_id, STEP_OF[kind]))["Body"].read()
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in {"404", "NoSuchKey", "NotFound"}:
            return None
        raise
    return kind.model_validate_json(body)


def list_runs(client: Any, bucket: str, prefix: str) -> dict[str, datetime]:
    """Returns the id of every run that left a record, with the moment of its latest one; newest first."""
    root = _root(prefix)
    found: dict[str, datetime] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root):
        for entry in page.get("Contents", []):
            folder, _, name = entry["Key"].removeprefix(root).partition("/")
            if name.removesuffix(".json") in STEP_OF.values():
                run_id, moment = unquote(folder), entry["LastModified"]
                found[run_id] = max(found.get(run_id, moment), moment)
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0]), reverse=True))

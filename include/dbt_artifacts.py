"""What a dbt run leaves on S3 for people: its results, its manifest and its documentation.

They are for cards and pages; no later step of the pipeline reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from include.contracts import BadInputError, DbtArtifacts

# Every task that runs dbt hands its `DbtArtifacts` over under this XCom key.
XCOM_KEY = "dbt_artifacts"
FOLDER = "dbt"
_CONTENT_TYPES = {"json": "application/json", "html": "text/html; charset=utf-8"}
_FIELDS = {"manifest.json": "manifest_uri", "run_results.json": "run_results_uri", "docs.html": "docs_uri"}


def attempt_prefix(prefix: str, run_id: str, task_id: str, attempt: int | str) -> str:
    """Returns the key prefix of one attempt of one task: no two attempts share it, so none is overwritten.

    Args:
        prefix: Key prefix of the project.
        run_id: The DAG run; whatever it is made of, it stays one part of the key.
        task_id: The task.
        attempt: Number of the try, or the id of the run that dbt Cloud gave it.
    """
    parts = [quote(part, safe="") for part in (run_id, task_id, str(attempt))]
    return "/".join(part for part in (prefix, FOLDER, *parts) if part)


def keep(s3: Any, bucket: str, prefix: str, files: Mapping[str, bytes]) -> DbtArtifacts:
    """Uploads files and returns the claim check.

    Args:
        s3: boto3 S3 client.
        bucket: Name of the bucket.
        prefix: From `attempt_prefix`.
        files: `manifest.json`, `run_results.json` and `docs.html`, or some of them.

    Raises:
        ClientError: S3 refused.
    """
    uris: dict[str, str] = {}
    for name, content in files.items():
        key = f"{prefix}/{name}"
        s3.put_object(
            Bucket=bucket, Key=key, Body=content, ContentType=_CONTENT_TYPES[name.rpartition(".")[2]]
        )
        uris[_FIELDS[name]] = f"s3://{bucket}/{key}"
    return DbtArtifacts(**uris)


def refuse_failed_tests(run_results: Mapping[str, Any]) -> None:
    """Tells bad data from a fault: a failed test fails again with the same rows, an error may pass.

    Args:
        run_results: Content of `run_results.json`.

    Raises:
        BadInputError: A data or unit test failed; the message names each.
    """
    failed = [result for result in run_results["results"] if result["status"] == "fail"]
    if failed:
        listed = "".join(
            f"\n  {result['unique_id'].split('.')[2]}: {result.get('message') or 'failed'}"
            for result in failed
        )
        raise BadInputError(
            f"{len(failed)} dbt test(s) failed, so nothing downstream of them may run:{listed}\n"
            "Mend the data (or the rule), then clear this task."
        )


def docs_page(index: str, manifest: bytes, catalog: bytes) -> bytes:
    """Returns dbt's documentation as one page, as `dbt docs generate --static` builds it.

    Args:
        index: dbt's own `index.html`.
        manifest: Content of `manifest.json`.
        catalog: Content of `catalog.json`.
    """
    for mark, content in (("MANIFEST", manifest), ("CATALOG", catalog)):
        # Parsed and written anew, so that what comes from outside is JSON and cannot end the script.
        text = json.dumps(json.loads(content)).replace("</", "<\\/")
        index = index.replace(f'"{mark}.JSON INLINE DATA"', text)
    return index.encode()

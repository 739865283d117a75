"""The run's model card inside Airflow: a page behind Airflow's own login."""

from __future__ import annotations

import json
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from include.settings import get_settings

URL_PREFIX = "/post-modern-stack"
DAG_ID, GATE_TASK = "post_modern_stack", "gate.gate_model"
# The card is one self-contained file: it may style itself, and neither run scripts nor fetch anything.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}

app = FastAPI(title="Post-modern stack", docs_url=None, redoc_url=None, openapi_url=None)


def _verdict(run_id: str) -> dict[str, Any] | None:
    """Returns the gate's verdict of a run from its XCom, or None where the gate has not spoken."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(
            run_id=run_id, dag_ids=DAG_ID, task_ids=GATE_TASK, key="return_value", limit=1
        )
        row = session.scalars(query).first()
        if row is None:
            return None
        value = XComModel.deserialize_value(row)
    verdict: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
    return verdict


def _read_card(uri: str) -> str:
    """Reads a card from S3; only ever from the project's own reports."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    settings = get_settings()
    own = f"s3://{settings.bucket}/{settings.prefix}/reports/"
    if not uri.startswith(own):
        raise HTTPException(404, "This run's card is not among this project's reports.")
    return str(S3Hook(settings.aws_conn_id).read_key(uri.split("/", 3)[3], settings.bucket))


# The DAG is named here and not taken from the request, so that no other DAG's permission opens it.
@app.get("/card", dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.XCOM, DAG_ID))])
def card(run_id: str, dag_id: str = DAG_ID) -> HTMLResponse:
    """Shows the card of a run.

    Args:
        run_id: The DAG run.
        dag_id: The DAG whose tab asks; every DAG but the pipeline's has no card.
    """
    verdict = _verdict(run_id) if dag_id == DAG_ID else None
    if verdict is None or not verdict.get("card_uri"):
        message = (
            "<!doctype html><title>No card</title><p>This run has no model card (yet): the gate draws it."
        )
        return HTMLResponse(message, headers=HEADERS)
    return HTMLResponse(_read_card(verdict["card_uri"]), headers=HEADERS)

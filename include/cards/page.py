"""A run's model card and dbt documentation inside Airflow: pages behind Airflow's own login."""

from __future__ import annotations

import json
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.responses import HTMLResponse

from include.dbt_artifacts import FOLDER, XCOM_KEY
from include.settings import get_settings

RunId = Annotated[str, Query(min_length=1)]
DAG_ID, GATE_TASK = "post_modern_stack", "gate.gate_model"
# The card is one self-contained file: it may style itself, and neither run scripts nor fetch anything.
CARD_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# dbt's documentation is a program of dbt's and texts of the project's. The sandbox gives it an origin of its
# own, without the reader's login, and it may run but not talk to anybody.
DOCS_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:"
)

app = FastAPI(title="Post-modern stack", docs_url=None, redoc_url=None, openapi_url=None)


# The DAG is named here and not taken from the request, so that no other DAG's permission opens it.
MAY_READ_RUNS = Depends(requires_access_dag("GET", DagAccessEntity.XCOM, DAG_ID))


def _page(content: str, policy: str = CARD_POLICY) -> HTMLResponse:
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
    }
    return HTMLResponse(content, headers=headers)


def _handed_over(run_id: str, key: str, task_id: str | None = None) -> list[dict[str, Any]]:
    """Returns what tasks of a run handed over through XCom under a key; all tasks by default."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(run_id=run_id, dag_ids=DAG_ID, task_ids=task_id, key=key)
        values = [XComModel.deserialize_value(row) for row in session.scalars(query)]
    return [json.loads(value) if isinstance(value, str) else value for value in values]


def _read(uri: str, folder: str) -> str:
    """Reads a page from S3; only ever from the project's own folder."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    settings = get_settings()
    if not uri.startswith(f"s3://{settings.bucket}/{settings.prefix}/{folder}/"):
        raise HTTPException(404, f"This run's page is not among this project's {folder}.")
    return str(S3Hook(settings.aws_conn_id).read_key(uri.split("/", 3)[3], settings.bucket))


@app.get("/card", dependencies=[MAY_READ_RUNS])
def card(run_id: RunId, dag_id: str = DAG_ID) -> HTMLResponse:
    """Shows the card of a run.

    Args:
        run_id: The DAG run.
        dag_id: The DAG whose tab asks; every DAG but the pipeline's has no card.
    """
    verdicts = _handed_over(run_id, "return_value", GATE_TASK) if dag_id == DAG_ID else []
    for verdict in verdicts:
        if verdict.get("card_uri"):
            return _page(_read(verdict["card_uri"], "reports"))
    return _page(
        "<!doctype html><title>No card</title><p>This run has no model card (yet): the gate draws it."
    )


@app.get("/dbt-docs", dependencies=[MAY_READ_RUNS])
def dbt_docs(run_id: RunId, dag_id: str = DAG_ID) -> HTMLResponse:
    """Shows the dbt documentation of a run.

    Args:
        run_id: The DAG run.
        dag_id: The DAG whose tab asks; every DAG but the pipeline's has none.
    """
    artifacts = _handed_over(run_id, XCOM_KEY) if dag_id == DAG_ID else []
    for left in artifacts:
        if left.get("docs_uri"):
            return _page(_read(left["docs_uri"], FOLDER), DOCS_POLICY)
    return _page(
        "<!doctype html><title>No dbt docs</title><p>This run has no dbt documentation (yet): the task "
        "<i>generate_docs</i> writes it, or, with dbt Cloud, a job that generates docs on its run."
    )

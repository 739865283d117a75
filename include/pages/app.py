"""The project's pages inside Airflow, behind its login: a run's card and dbt docs, and all models."""

from __future__ import annotations

import logging
import re
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse

from include.dbt_artifacts import FOLDER, XCOM_KEY
from include.pages import ask, models, stored
from include.pages.render import render
from include.run_note import DAG_ID, GATE
from include.sagemaker.errors import explain
from include.settings import get_settings

log = logging.getLogger(__name__)
# They name accounts and roles, which are no reader's business.
_ARN = re.compile(r"arn:aws[\w-]*:\S+")
SHADOW_TEST = "deploy.shadow_test"
RunId = Annotated[str, Query(min_length=1)]
# Pages and cards style themselves; they run no script, and fetch and send nothing but their own form.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
# dbt's documentation is a program of dbt's and texts of the project's. The sandbox gives it an origin of its
# own, without the reader's login, and it may run but not talk to anybody.
DOCS_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:"
)

# On the application, so that no page can be added without it. The DAG is named here and not taken from the
# request, so that no other DAG's permission opens a page.
MAY_READ_RUNS = Depends(requires_access_dag("GET", DagAccessEntity.XCOM, DAG_ID))

app = FastAPI(
    title="Post-modern stack", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[MAY_READ_RUNS]
)


def _page(content: str, policy: str = PAGE_POLICY, status: int = 200) -> HTMLResponse:
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "private, no-store",
    }
    return HTMLResponse(content, status, headers)


def _say(title: str, text: str, status: int = 200) -> HTMLResponse:
    return _page(render("message.html.j2", title=title, text=text), status=status)


@app.exception_handler(ClientError)
@app.exception_handler(BotoCoreError)
def aws_refused(request: Request, error: ClientError | BotoCoreError) -> HTMLResponse:
    """Says what AWS said; the login has been asked for before."""
    log.warning("AWS refused %s", request.url.path, exc_info=error)
    return _say("AWS does not answer", _ARN.sub("(see the log)", explain(error)), status=502)


@app.exception_handler(RequestValidationError)
def not_understood(request: Request, error: RequestValidationError) -> HTMLResponse:
    """Says what is wrong with the address, without repeating it."""
    first = error.errors()[0]
    return _say("Not understood", f"{first['loc'][-1]}: {first['msg']}.", status=422)


@app.exception_handler(Exception)
def broken(request: Request, error: Exception) -> HTMLResponse:
    """Says that a page broke; what the error says is for the log, not for every reader."""
    log.error("The page %s broke", request.url.path, exc_info=error)
    return _say(
        "This page broke",
        f"The web server's log says why ({type(error).__name__}): a setting, or an Airflow connection.",
        status=500,
    )


@app.exception_handler(stored.NotOursError)
@app.exception_handler(stored.GoneError)
def not_there(request: Request, error: Exception) -> HTMLResponse:
    """Says why there is nothing to show."""
    return _say("Not there", str(error), status=404)


@app.get("/card")
def card(run_id: RunId, dag_id: str = DAG_ID) -> HTMLResponse:
    """Shows the card of a run.

    Args:
        run_id: The DAG run.
        dag_id: The DAG whose tab asks; every DAG but the pipeline's has no card.
    """
    verdicts = stored.handed_over(DAG_ID, run_id, "return_value", GATE) if dag_id == DAG_ID else []
    tests = stored.handed_over(DAG_ID, run_id, "return_value", SHADOW_TEST) if verdicts else []
    # Where the gate was cleared, and judged another model, an older test may still be there.
    jobs = [verdict.get("job_name") for verdict in verdicts if verdict.get("approved")]
    for drawn in [*(test for test in tests if test.get("job_name") in jobs), *verdicts]:
        if drawn.get("card_uri"):
            return _page(stored.read_page(drawn["card_uri"], models.REPORTS))
    return _say("No model card", "This run has no model card (yet): the gate draws it.")


@app.get("/dbt-docs")
def dbt_docs(run_id: RunId, dag_id: str = DAG_ID) -> HTMLResponse:
    """Shows the dbt documentation of a run.

    Args:
        run_id: The DAG run.
        dag_id: The DAG whose tab asks; every DAG but the pipeline's has none.
    """
    artifacts = stored.handed_over(DAG_ID, run_id, XCOM_KEY) if dag_id == DAG_ID else []
    for left in artifacts:
        if left.get("docs_uri"):
            return _page(stored.read_page(left["docs_uri"], FOLDER), DOCS_POLICY)
    return _say(
        "No dbt docs",
        "This run has no dbt documentation (yet): the task generate_docs writes it, or, with dbt Cloud, "
        "a job that generates docs on its run.",
    )


@app.get("/models")
def all_models(before: Annotated[int | None, Query(ge=1)] = None) -> HTMLResponse:
    """Shows the registered models, what became of each, and the panel to try the one that is live.

    Args:
        before: Only versions older than this one.
    """
    settings = get_settings()
    s3 = stored.client("s3")
    overview = models.gather(stored.client("sagemaker"), s3, settings, before)
    return _page(
        render(
            "models.html.j2",
            overview=overview,
            roll_back=models.ROLL_BACK,
            charts=models.charts(overview.rows),
            form=ask.Form(settings.endpoint_name),
            examples=models.example_sessions(s3, overview.live_row, settings),
        )
    )


@app.get("/cards/{path:path}")
def model_card(path: Annotated[str, Path(pattern=models.CARD_PATH)]) -> HTMLResponse:
    """Shows a model's card.

    Args:
        path: Where it lies in the project's reports.
    """
    uri = f"{get_settings().home}/{models.REPORTS}/{path}"
    return _page(stored.read_page(uri, models.REPORTS))


@app.get("/try")
def try_it(
    request: Request,
    sku: Annotated[list[str] | None, Query(max_length=ask.MOST_SKUS)] = None,
    skus: Annotated[str, Query(max_length=ask.LONGEST_PASTE)] = "",
) -> HTMLResponse:
    """Asks the live endpoint for one session.

    Args:
        request: Says who sends the reader here.
        sku: The session's products, as a link gives them: exactly.
        skus: The same, as people paste them: one a line.
    """
    said = request.headers
    # Asking costs the live endpoint work: only a reader's own click may.
    if said.get("sec-fetch-site") == "cross-site" or "prefetch" in said.get(
        "sec-purpose", said.get("purpose", "")
    ):
        return _say("Not asked", "Open the page Models and ask from there.", status=403)
    endpoint = get_settings().endpoint_name
    session = [*(sku or []), *ask.pasted(skus)][-ask.MOST_SKUS :]
    form = ask.ask(stored.client("sagemaker-runtime"), endpoint, session)
    return _page(render("try.html.j2", form=form, examples=[]))

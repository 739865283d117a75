"""Registers with Airflow what the project adds to it: its pages, and a listener; nothing else is here."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from include import run_note

URL_PREFIX = "/post-modern-stack"


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the pages' application, imported at the first request.

    Every Airflow process executes this file, and only the API server needs FastAPI.
    """
    from include.cards.page import app

    await app(scope, receive, send)


class PostModernStackPlugin(AirflowPlugin):
    """Adds the tabs *Model card* and *dbt docs* to every DAG run."""

    name = "post_modern_stack"
    listeners = [run_note]
    fastapi_apps = [{"app": pages, "url_prefix": URL_PREFIX, "name": "Post-modern stack"}]
    external_views = [
        {
            "name": title,
            "href": f"{URL_PREFIX}/{page}?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": route,
        }
        for title, page, route in (("Model card", "card", "model-card"), ("dbt docs", "dbt-docs", "dbt-docs"))
    ]

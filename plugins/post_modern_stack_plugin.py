"""Registers with Airflow what the project adds to it: its pages, and a listener; nothing else is here."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from include import run_note

# Without a slash in front where a browser reads it: Airflow may be served from a folder of its host.
FOLDER = "post-modern-stack"


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the pages' application, imported at the first request.

    Every Airflow process executes this file, and only the API server needs FastAPI.
    """
    from include.pages.app import app

    await app(scope, receive, send)


class PostModernStackPlugin(AirflowPlugin):
    """Adds the page *Models*, and the tabs *Model card* and *dbt docs* to every DAG run."""

    name = "post_modern_stack"
    listeners = [run_note]
    fastapi_apps = [{"app": pages, "url_prefix": f"/{FOLDER}", "name": "Post-modern stack"}]
    external_views = [
        {
            "name": "Models",
            "href": f"{FOLDER}/models",
            "destination": "nav",
            "nav_top_level": True,
            "url_route": "models",
        },
        *(
            {
                "name": title,
                "href": f"{FOLDER}/{page}?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
                "destination": "dag_run",
                "url_route": route,
            }
            for title, page, route in (
                ("Model card", "card", "model-card"),
                ("dbt docs", "dbt-docs", "dbt-docs"),
            )
        ),
    ]

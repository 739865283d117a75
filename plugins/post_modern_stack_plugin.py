"""Registers the project's pages in Airflow's web UI, and nothing else."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from include.cards.page import URL_PREFIX, app


class PostModernStackPlugin(AirflowPlugin):
    """Adds the tab *Model card* to every DAG run."""

    name = "post_modern_stack"
    fastapi_apps = [{"app": app, "url_prefix": URL_PREFIX, "name": "Post-modern stack"}]
    external_views = [
        {
            "name": "Model card",
            "href": f"{URL_PREFIX}/card?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "model-card",
        }
    ]

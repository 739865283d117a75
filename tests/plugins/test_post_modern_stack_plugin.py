from __future__ import annotations

import runpy
from pathlib import Path
from urllib.parse import urljoin

from fastapi import FastAPI
from fastapi.testclient import TestClient


def test_plugin_passes_requests_on_to_the_pages(root: Path) -> None:
    plugin = runpy.run_path(str(root / "plugins" / "post_modern_stack_plugin.py"))["PostModernStackPlugin"]
    outer = FastAPI()
    for registered in plugin.fastapi_apps:
        outer.mount(registered["url_prefix"], registered["app"])
    client = TestClient(outer, raise_server_exceptions=False)
    views = {view["name"]: view for view in plugin.external_views}
    assert {name: view["destination"] for name, view in views.items()} == {
        "Models": "nav",
        "Model card": "dag_run",
        "dbt docs": "dag_run",
    }
    for view in views.values():
        href = view["href"].format(DAG_ID="post_modern_stack", RUN_ID="r")
        assert urljoin("https://host/folder/", href).startswith("https://host/folder/post-modern-stack/")
        assert client.get(f"/{href}").status_code == 401, "asked for a login, so the page is there"
    assert client.get("/post-modern-stack/nothing").status_code == 404

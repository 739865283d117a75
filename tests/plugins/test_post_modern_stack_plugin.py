from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.core_api.security import get_user
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from include.cards import page
from include.dbt_artifacts import XCOM_KEY

BUCKET = "post-modern-stack"


@pytest.fixture
def anonymous() -> TestClient:
    return TestClient(page.app, raise_server_exceptions=False)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client whose user may read every DAG."""

    class AllowAll:
        def is_authorized_dag(self, **_: Any) -> bool:
            return True

    monkeypatch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", AllowAll)
    monkeypatch.setattr("airflow.api_fastapi.core_api.security.DagModel.get_team_name", lambda *_, **__: None)
    page.app.dependency_overrides[get_user] = lambda: object()
    yield TestClient(page.app)
    page.app.dependency_overrides.clear()


def test_every_route_refuses_an_anonymous_caller(anonymous: TestClient) -> None:
    routes = [route for route in page.app.routes if isinstance(route, APIRoute)]
    assert routes
    for route in routes:
        assert anonymous.get(route.path, params={"run_id": "r"}).status_code == 401, route.path
    assert anonymous.get("/docs").status_code == 404


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """What the run's tasks left in XCom, by key; the pages on S3 say where they were read."""
    left: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(page, "_handed_over", lambda run_id, key, task_id=None: left.get(key, []))
    monkeypatch.setattr(S3Hook, "read_key", lambda self, key, bucket: f"<html>{bucket}/{key}</html>")
    return left


PAGES = [
    ("/card", "return_value", "card_uri", f"s3://{BUCKET}/shop/reports/pms-1/card.html"),
    ("/dbt-docs", XCOM_KEY, "docs_uri", f"s3://{BUCKET}/shop/dbt/r/transform.generate_docs/1/docs.html"),
]
EACH_PAGE = pytest.mark.parametrize(("path", "key", "field", "uri"), PAGES, ids=["card", "dbt docs"])


@EACH_PAGE
def test_page_of_the_run_is_shown(
    reader: TestClient, handed_over: dict[str, Any], path: str, key: str, field: str, uri: str
) -> None:
    handed_over[key] = [{field: None}, {field: uri}]
    answer = reader.get(path, params={"run_id": "r", "dag_id": "post_modern_stack"})
    assert answer.text == f"<html>{uri.removeprefix('s3://')}</html>"


@EACH_PAGE
def test_run_without_a_page_says_so(
    reader: TestClient, handed_over: dict[str, Any], path: str, key: str, field: str, uri: str
) -> None:
    for handed_over[key] in ([], [{field: None}]):
        answer = reader.get(path, params={"run_id": "r"})
        assert (answer.status_code, "This run has no" in answer.text) == (200, True)


@pytest.mark.parametrize("path", ["/card", "/dbt-docs"])
def test_empty_run_id_is_the_callers_fault(reader: TestClient, path: str) -> None:
    assert reader.get(path, params={"run_id": ""}).status_code == 422


@EACH_PAGE
@pytest.mark.parametrize("elsewhere", ["s3://somebody-else/shop/{}", f"s3://{BUCKET}/secrets/{{}}"])
def test_page_outside_the_projects_own_is_not_read(
    reader: TestClient,
    handed_over: dict[str, Any],
    path: str,
    key: str,
    field: str,
    uri: str,
    elsewhere: str,
) -> None:
    handed_over[key] = [{field: elsewhere.format(uri.rpartition("/")[2])}]
    assert reader.get(path, params={"run_id": "r"}).status_code == 404


@EACH_PAGE
def test_another_dags_run_with_the_same_id_shows_nothing(
    reader: TestClient, handed_over: dict[str, Any], path: str, key: str, field: str, uri: str
) -> None:
    handed_over[key] = [{field: uri}]
    answer = reader.get(path, params={"run_id": "r", "dag_id": "other"})
    assert "<html>" not in answer.text


def test_card_runs_no_script_and_documentation_none_with_the_readers_login(
    reader: TestClient, handed_over: dict[str, Any]
) -> None:
    policies = {}
    for path, key, field, uri in PAGES:
        handed_over[key] = [{field: uri}]
        policies[path] = (
            reader.get(path, params={"run_id": "r"}).headers["Content-Security-Policy"].split("; ")
        )
    for policy in policies.values():
        assert "default-src 'none'" in policy, "neither page may fetch or send anything"
        assert not any(part.startswith("connect-src") for part in policy)
    assert not any(part.startswith("script-src") for part in policies["/card"])
    # Without allow-same-origin the page has an origin of its own: no cookie of Airflow's, no call to its API.
    assert "sandbox allow-scripts" in policies["/dbt-docs"]


def test_plugin_passes_requests_on_to_the_pages(root: Path) -> None:
    plugin = runpy.run_path(str(root / "plugins" / "post_modern_stack_plugin.py"))["PostModernStackPlugin"]
    outer = FastAPI()
    for registered in plugin.fastapi_apps:
        outer.mount(registered["url_prefix"], registered["app"])
    client = TestClient(outer, raise_server_exceptions=False)
    assert [view["name"] for view in plugin.external_views] == ["Model card", "dbt docs"]
    for view in plugin.external_views:
        href = view["href"].format(DAG_ID="post_modern_stack", RUN_ID="r")
        assert client.get(href).status_code == 401, "asked for a login, so the page is there"
    assert client.get("/post-modern-stack/nothing").status_code == 404

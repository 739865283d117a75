from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from include.cards import page

CARD = "s3://post-modern-stack/shop/reports/pms-1/card.html"


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


def test_run_without_a_verdict_has_no_card(reader: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_verdict", lambda run_id: None)
    answer = reader.get("/card", params={"run_id": "r"})
    assert answer.status_code == 200
    assert "no model card" in answer.text


def test_card_outside_the_projects_reports_is_not_read(
    reader: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_verdict", lambda run_id: {"card_uri": "s3://somebody-else/card.html"})
    assert reader.get("/card", params={"run_id": "r"}).status_code == 404


def test_card_runs_no_script(reader: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_verdict", lambda run_id: {"card_uri": CARD})
    monkeypatch.setattr(page, "_read_card", lambda uri: "<html>card</html>")
    answer = reader.get("/card", params={"run_id": "r", "dag_id": "post_modern_stack"})
    assert answer.text == "<html>card</html>"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_another_dags_run_with_the_same_id_shows_nothing(
    reader: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_verdict", lambda run_id: {"card_uri": CARD})
    monkeypatch.setattr(page, "_read_card", lambda uri: "<html>secret</html>")
    assert "secret" not in reader.get("/card", params={"run_id": "r", "dag_id": "other"}).text

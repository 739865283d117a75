"""The pages in Airflow: nobody without login and access, no path but a card's, no script in what is shown."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient

from include.pages import app as pages
from include.sagemaker.registry import Package
from tests.pages.conftest import NASTY_SKUS, Cloud, package, recommendations
from tests.pages.conftest import cloud as cloud
from tests.pages.conftest import reader as reader
from tests.pages.test_app import EACH_SKU, Page, routes
from tests.pages.test_app import registry as registry


def test_every_route_refuses_an_anonymous_caller_and_asks_nobody_else(cloud: Cloud) -> None:
    cloud.fault = AssertionError("AWS was asked before the login")
    anonymous = TestClient(pages.app, raise_server_exceptions=False)
    assert len(routes()) >= 5
    for method, path in routes():
        for query in ({}, {"run_id": "r", "sku": "a", "skus": "b"}):
            assert anonymous.request(method, path, params=query).status_code == 401, path
    for path in ("/docs", "/redoc", "/openapi.json", "/cards", "/models/"):
        assert anonymous.get(path, follow_redirects=False).status_code in {401, 404, 307}, path


@pytest.fixture
def outsider(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Logged in, but without access to the DAG; what the auth manager was asked."""
    asked: list[dict[str, Any]] = []

    class DenyAll:
        def is_authorized_dag(self, **question: Any) -> bool:
            asked.append(question)
            return False

    monkeypatch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", DenyAll)
    monkeypatch.setattr("airflow.api_fastapi.core_api.security.DagModel.get_team_name", lambda *_, **__: None)
    pages.app.dependency_overrides[get_user] = lambda: object()
    yield asked
    pages.app.dependency_overrides.clear()


def test_every_route_refuses_who_may_not_read_the_dag(outsider: list[dict[str, Any]], cloud: Cloud) -> None:
    cloud.fault = AssertionError("AWS was asked before the permission")
    client = TestClient(pages.app, raise_server_exceptions=False)
    for method, path in routes():
        answer = client.request(method, path, params={"run_id": "r", "dag_id": "a_dag_of_mine"})
        assert answer.status_code == 403, path
    # Whatever DAG the caller names, it is the pipeline's permission that counts.
    assert {question["details"].id for question in outsider} == {"post_modern_stack"}


@pytest.mark.parametrize(
    "path",
    ["/cards/pms-1/verdict.json", "/cards/pms-1/..%2f..%2fsecrets/card.html", "/cards//card.html"],
)
def test_card_of_a_model_is_nothing_but_a_card(reader: TestClient, cloud: Cloud, path: str) -> None:
    cloud.fault = AssertionError("S3 was asked")
    assert reader.get(path).status_code in {404, 422}


@pytest.mark.parametrize("sku", [sku for name, sku in NASTY_SKUS.items() if name != "half a surrogate"])
def test_nasty_sku_is_shown_harmless_and_asked_for_exactly(
    reader: TestClient, cloud: Cloud, sku: str
) -> None:
    cloud.live, cloud.answer = "s3://b/m.tar.gz", lambda session: recommendations([sku])
    answer = reader.get("/try", params={"sku": "a"})
    assert answer.status_code == 200
    page = Page(answer.text)
    assert not page.tags & {"script", "img", "b"}
    assert not {name for name in page.attributes if name.startswith("on")}
    body = answer.text.partition("</style>")[2]
    assert max(map(len, re.findall(r">([^<]*)<", body))) < 200, "a page is for people"
    # The link goes on with the very product.
    [again] = [address for address in page.addresses if address.startswith("try?")]
    asked = [value for _, value in parse_qsl(urlsplit(html.unescape(again)).query, keep_blank_values=True)]
    assert asked == ["a", sku]
    assert reader.get("/" + again).status_code == 200
    assert cloud.asked[-1] == asked


@EACH_SKU
def test_nasty_names_in_registry_and_report_are_shown_harmless(
    reader: TestClient, cloud: Cloud, registry: list[Package], sku: str
) -> None:
    nasty = {name: sku for name in ("job_name", "snapshot_id", "override_reason", "approval_description")}
    registry += [package(2, **nasty), package(1, card_uri=f"s3://post-modern-stack/shop/reports/{sku}")]
    cloud.live = registry[0].model_uri
    example = {"session": [sku, "b"], "target": sku, "predictions": [sku], "rank": 1}
    cloud.objects["s3://post-modern-stack/shop/reports/pms-2/0123456789ab/report.json"] = json.dumps(
        {"schema_version": 1, "checks": [], "examples": [example]}
    )
    answer = reader.get("/models")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert not page.tags & {"script", "img", "b"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert not any(address.startswith("javascript:") for address in page.addresses)

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from include.dbt_artifacts import XCOM_KEY
from include.pages import app as pages
from include.pages import models, stored
from include.sagemaker.registry import Package
from tests.pages.conftest import NASTY_SKUS, Cloud, package, recommendations

BUCKET = "post-modern-stack"
PATHS = {"/cards/{path:path}": "/cards/pms-1/0123456789ab/card.html"}
EACH_SKU = pytest.mark.parametrize("sku", NASTY_SKUS.values(), ids=NASTY_SKUS)


class Page(HTMLParser):
    """What a browser makes of a page: its tags, the addresses in it, the text of its text area."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.textarea = ""
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.addresses += [value or "" for name, value in attributes if name in {"href", "src", "action"}]
        self._inside = tag == "textarea"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "textarea"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.textarea += data


def routes() -> list[tuple[str, str]]:
    """Method and an address of every route."""
    return [
        (method, PATHS.get(route.path, route.path))
        for route in pages.app.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods)
    ]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[Package]:
    """The registered models, newest first."""
    found: list[Package] = []
    monkeypatch.setattr(
        models,
        "list_packages",
        lambda client, group, limit, before=None: [p for p in found if before is None or p.version < before][
            :limit
        ],
    )
    return found


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """What the run's tasks left in XCom, by key."""
    left: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(stored, "handed_over", lambda dag_id, run_id, key, task_id=None: left.get(key, []))
    return left


PAGES = [
    ("/card", "return_value", "card_uri", f"s3://{BUCKET}/shop/reports/pms-1/card.html"),
    ("/dbt-docs", XCOM_KEY, "docs_uri", f"s3://{BUCKET}/shop/dbt/r/transform.generate_docs/1/docs.html"),
]
EACH_PAGE = pytest.mark.parametrize(("path", "key", "field", "uri"), PAGES, ids=["card", "dbt docs"])


@EACH_PAGE
def test_page_of_the_run_is_shown(
    reader: TestClient,
    cloud: Cloud,
    handed_over: dict[str, Any],
    path: str,
    key: str,
    field: str,
    uri: str,
) -> None:
    handed_over[key] = [{field: None}, {field: uri}]
    cloud.objects[uri] = "<html>the page</html>"
    answer = reader.get(path, params={"run_id": "r", "dag_id": "post_modern_stack"})
    assert answer.text == "<html>the page</html>"


@pytest.mark.parametrize(
    ("job", "approved", "shown"),
    [("pms-1", True, "tested"), ("pms-0", True, "judged"), ("pms-1", False, "judged")],
    ids=["of this model", "of another one", "of a model that was rejected since"],
)
def test_card_with_the_shadow_test_takes_the_place_of_the_gates(
    reader: TestClient, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, job: str, approved: bool, shown: str
) -> None:
    cards = {name: f"s3://{BUCKET}/shop/reports/pms-1/r/{name}/card.html" for name in ("judged", "tested")}
    cloud.objects |= {uri: name for name, uri in cards.items()}
    left = {
        pages.GATE: [{"job_name": "pms-1", "approved": approved, "card_uri": cards["judged"]}],
        pages.SHADOW_TEST: [{"job_name": job, "card_uri": cards["tested"]}],
    }
    monkeypatch.setattr(stored, "handed_over", lambda dag_id, run_id, key, task_id: left[task_id])
    assert reader.get("/card", params={"run_id": "r"}).text == shown


@EACH_PAGE
def test_run_without_a_page_says_so(
    reader: TestClient, handed_over: dict[str, Any], path: str, key: str, field: str, uri: str
) -> None:
    for handed_over[key] in ([], [{field: None}]):
        answer = reader.get(path, params={"run_id": "r"})
        assert (answer.status_code, "This run has no" in answer.text) == (200, True)


@EACH_PAGE
def test_page_that_was_deleted_says_so(
    reader: TestClient,
    cloud: Cloud,
    handed_over: dict[str, Any],
    path: str,
    key: str,
    field: str,
    uri: str,
) -> None:
    handed_over[key] = [{field: uri}]
    answer = reader.get(path, params={"run_id": "r"})
    assert (answer.status_code, "is gone" in answer.text) == (404, True)


@pytest.mark.parametrize("path", ["/card", "/dbt-docs"])
def test_empty_run_id_is_the_callers_fault(reader: TestClient, path: str) -> None:
    assert reader.get(path, params={"run_id": ""}).status_code == 422


@EACH_PAGE
@pytest.mark.parametrize("elsewhere", ["s3://somebody-else/shop/{}", f"s3://{BUCKET}/secrets/{{}}"])
def test_page_outside_the_projects_own_is_not_read(
    reader: TestClient,
    cloud: Cloud,
    handed_over: dict[str, Any],
    path: str,
    key: str,
    field: str,
    uri: str,
    elsewhere: str,
) -> None:
    other = elsewhere.format(uri.rpartition("/")[2])
    handed_over[key], cloud.objects[other] = [{field: other}], "secret"
    answer = reader.get(path, params={"run_id": "r"})
    assert (answer.status_code, "secret" in answer.text) == (404, False)


@EACH_PAGE
def test_another_dags_run_with_the_same_id_shows_nothing(
    reader: TestClient,
    cloud: Cloud,
    handed_over: dict[str, Any],
    path: str,
    key: str,
    field: str,
    uri: str,
) -> None:
    handed_over[key], cloud.objects[uri] = [{field: uri}], "the page"
    assert "the page" not in reader.get(path, params={"run_id": "r", "dag_id": "other"}).text


def test_pages_run_no_script_and_documentation_none_with_the_readers_login(
    reader: TestClient, cloud: Cloud, registry: list[Package], handed_over: dict[str, Any]
) -> None:
    cloud.objects["s3://post-modern-stack/shop/reports/pms-1/0123456789ab/card.html"] = "<html>"
    for _, key, field, uri in PAGES:
        handed_over[key], cloud.objects[uri] = [{field: uri}], "<html>"
    for _, path in routes():
        headers = reader.get(path, params={"run_id": "r"}).headers
        policy = headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in policy, f"{path} may neither fetch nor send"
        assert not any(part.startswith("connect-src") for part in policy), path
        assert headers["Cache-Control"] == "private, no-store", path
        scripts = any(part.startswith("script-src") for part in policy)
        # Without allow-same-origin the page has an origin of its own: no cookie, no call to Airflow's API.
        assert not scripts or (path == "/dbt-docs" and "sandbox allow-scripts" in policy), path


def test_models_page_shows_what_became_of_each(
    reader: TestClient, cloud: Cloud, registry: list[Package]
) -> None:
    registry += [
        package(5, approval="Rejected"),
        package(4, approval="PendingManualApproval"),
        package(3, override_reason="Black Friday"),
        package(2, approval_description="Approved by ann"),
        package(1),
    ]
    cloud.live = registry[2].model_uri
    cloud.keep(registry[3])
    page = " ".join(reader.get("/models").text.split())
    states = re.findall(r'data-name="State"><span class="state (\w+)"', page)
    assert states == ["rejected", "waiting", "live", "ready", "gone"]
    assert "Black Friday" in page and "Approved by ann" in page
    assert "version 3 on endpoint" in page
    assert "trigger the DAG <code>roll_back_endpoint</code>" in page
    assert page.count("<polyline") == 2
    assert 'href="cards/pms-3/0123456789ab/card.html"' in page


def test_empty_registry_without_an_endpoint_is_a_page_too(
    reader: TestClient, cloud: Cloud, registry: list[Package]
) -> None:
    page = reader.get("/models").text
    assert "Nothing is registered yet" in page
    assert "Nothing is live" in page


def test_card_of_a_model_is_shown(reader: TestClient, cloud: Cloud) -> None:
    cloud.objects["s3://post-modern-stack/shop/reports/pms-1/0123456789ab/card.html"] = "<html>the card"
    assert reader.get("/cards/pms-1/0123456789ab/card.html").text == "<html>the card"


def test_links_are_relative_and_lead_to_pages(
    reader: TestClient, cloud: Cloud, registry: list[Package]
) -> None:
    registry += [package(2), package(1)]
    cloud.live = registry[0].model_uri
    report = {
        "schema_version": 1,
        "checks": [],
        "examples": [{"session": ["a", "b"], "target": "c", "predictions": ["c"], "rank": 1}],
    }
    cloud.objects["s3://post-modern-stack/shop/reports/pms-2/0123456789ab/report.json"] = json.dumps(report)
    for start in ("/models", "/try?sku=a"):
        addresses = Page(reader.get(start).text).addresses
        assert len(addresses) >= 3
        for address in addresses:
            parts = urlsplit(address)
            assert not parts.scheme and not parts.netloc and not parts.path.startswith("/"), address
            target = urlsplit(urljoin(f"https://host/folder/post-modern-stack{start}", address)).path
            # Not to Airflow's own: the frame for plugins lets nothing out, and shows Airflow in Airflow.
            inside = target.removeprefix("/folder/post-modern-stack")
            assert inside.startswith(("/models", "/try", "/cards/")), address


def test_endpoint_is_asked_for_what_was_pasted(reader: TestClient, cloud: Cloud) -> None:
    cloud.live = "s3://b/m.tar.gz"
    page = reader.get("/try", params={"skus": " a \r\n\n b\n"}).text
    assert cloud.asked == [["a", "b"]]
    assert "2 products in" in page and " ms" in page
    assert Page(page).textarea.strip() == "a\nb"


def test_unknown_products_are_said_to_be_unknown(reader: TestClient, cloud: Cloud) -> None:
    cloud.live, cloud.answer = "s3://b/m.tar.gz", lambda session: recommendations(["p"], "popularity")
    assert "None of these products is known" in reader.get("/try", params={"sku": "nope"}).text
    assert "None of these products is known" not in reader.get("/try").text


def test_answer_with_half_a_surrogate_is_refused_and_crashes_nothing(
    reader: TestClient, cloud: Cloud
) -> None:
    cloud.live, cloud.answer = "s3://b/m.tar.gz", lambda session: recommendations(["\ud83d"])
    assert "cannot be read" in reader.get("/try", params={"sku": "a"}).text


@pytest.mark.parametrize("query", [{"skus": "x" * 16_001}, {"sku": ["a"] * 101}], ids=["paste", "list"])
def test_too_long_a_session_is_refused(reader: TestClient, cloud: Cloud, query: dict[str, Any]) -> None:
    answer = reader.get("/try", params=query)
    assert (answer.status_code, "Not understood" in answer.text, cloud.asked) == (422, True, [])


def test_longest_session_goes_on_and_every_paste_of_the_text_area_fits(
    reader: TestClient, cloud: Cloud
) -> None:
    cloud.live = "s3://b/m.tar.gz"
    page = Page(reader.get("/try", params={"sku": ["a"] * 100}).text)
    again = next(address for address in page.addresses if address.startswith("try?"))
    assert reader.get("/" + again).status_code == 200
    assert len(cloud.asked[-1]) == 100 and cloud.asked[-1][-1] == "b"
    assert reader.get("/try", params={"skus": "a\r\n" * 3500}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Purpose": "prefetch"}, {"Sec-Purpose": "prefetch;prerender"}],
)
def test_endpoint_is_asked_for_nobody_but_the_reader(
    reader: TestClient, cloud: Cloud, headers: dict[str, str]
) -> None:
    cloud.live = "s3://b/m.tar.gz"
    assert (reader.get("/try", headers=headers).status_code, cloud.asked) == (403, [])
    assert reader.get("/try", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_broken_page_says_so_and_tells_no_secret(
    reader: TestClient, cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    patient = TestClient(pages.app, raise_server_exceptions=False)
    cloud.fault = RuntimeError("canary: no such connection")
    answer = patient.get("/models")
    assert (answer.status_code, "This page broke" in answer.text) == (500, True)
    assert "canary" not in answer.text and "canary" in caplog.text
    denied = "arn:aws:iam::123456789012:role/r may not"
    cloud.fault = ClientError({"Error": {"Code": "AccessDenied", "Message": denied}}, "X")
    answer = patient.get("/models")
    assert "123456789012" not in answer.text and "may not" in answer.text and denied in caplog.text


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (NoCredentialsError(), "credentials"),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "<i>no</i>"}}, "X"), "&lt;i&gt;no"),
    ],
    ids=["no credentials", "denied"],
)
@pytest.mark.parametrize("path", ["/models", "/try"])
def test_aws_that_refuses_is_explained(
    reader: TestClient, cloud: Cloud, registry: list[Package], fault: Exception, said: str, path: str
) -> None:
    cloud.fault = fault
    answer = reader.get(path)
    assert (answer.status_code, said in answer.text) == (502, True)

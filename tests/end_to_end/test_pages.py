"""The pages as a person meets them: a real Airflow, a whole run, and a headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from include.local.airflow_api import AirflowApi
from include.local.demo import load, pipeline
from include.local.process_groups import stop_groups
from include.local.stack import Stack, start
from tests.end_to_end import browser as chromium
from tests.end_to_end.test_whole_pipeline import generate

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it comes with requirements/dev.txt"
)
if chromium.find_chromium() is None:
    pytest.skip(f"no Chromium on PATH: one of {', '.join(chromium.NAMES)}", allow_module_level=True)

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1500)]
SECONDS = 30_000.0


@dataclass(frozen=True)
class Ran:
    """A stack in which the pipeline ran, and what it told."""

    stack: Stack
    result: dict[str, Any]


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory, ml_python: Path) -> Iterator[Ran]:
    build = tmp_path_factory.mktemp("build")
    data = generate(root, build / "input", "--sessions", "3000", "--products", "300", "--days", "14")
    stack, groups = start(build, schedule="")
    try:
        api: AirflowApi = stack.api()
        yield Ran(stack, pipeline(stack, api, load(api, data, "browser-test"), build))
    finally:
        stop_groups(groups)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started(str(chromium.find_chromium())) as running:
        yield running


@pytest.fixture
def visitor(browser: Any, ran: Ran) -> Iterator[chromium.Visitor]:
    """Somebody who has logged in; what our pages complain of in the browser's console fails the test."""
    person = chromium.Visitor(browser, ran.stack).log_in()
    yield person
    assert person.complaints == []


def test_nobody_sees_a_page_without_logging_in(browser: Any, ran: Ran) -> None:
    stranger = chromium.Visitor(browser, ran.stack)
    for path in ("models", "try", "card?run_id=r", "dbt-docs?run_id=r", "cards/a/card.html"):
        answer = stranger.page.request.get(f"{ran.stack.airflow_url}/post-modern-stack/{path}")
        assert answer.status == 401, path
    stranger.open("plugin/models")
    playwright.expect(stranger.page.locator("input[name=password]")).to_be_visible()


def test_card_of_the_run_stands_in_its_tab(visitor: chromium.Visitor, ran: Ran) -> None:
    visitor.open_run(ran.result["run_id"])
    visitor.page.get_by_role("link", name="Model card").click()
    card = visitor.inside("Model card")
    playwright.expect(card.locator("body")).to_contain_text(
        ran.result["verdict"]["job_name"], timeout=SECONDS
    )
    playwright.expect(card.locator("body")).to_contain_text(re.compile("approved", re.IGNORECASE))


def test_dbt_docs_of_the_run_stand_in_their_tab(visitor: chromium.Visitor, ran: Ran) -> None:
    visitor.open_run(ran.result["run_id"])
    visitor.page.get_by_role("link", name="dbt docs").click()
    playwright.expect(visitor.inside("dbt docs").locator("body")).to_contain_text(
        re.compile("post_modern_stack|sessions"), timeout=SECONDS
    )


def test_task_of_the_gate_has_a_button_to_the_card(visitor: chromium.Visitor, ran: Ran) -> None:
    visitor.open_run(ran.result["run_id"])
    visitor.open(
        visitor.page.url.removeprefix(f"{ran.stack.airflow_url}/") + "/tasks/gate.gate_model/details"
    )
    visitor.page.get_by_role("link", name="Model card").last.click()
    playwright.expect(visitor.inside("Model card").locator("body")).to_contain_text(
        ran.result["verdict"]["job_name"], timeout=SECONDS
    )


def test_models_can_be_found_tried_and_left_again(visitor: chromium.Visitor, ran: Ran) -> None:
    visitor.page.get_by_role("link", name="Models").first.click()
    page = visitor.inside("Models")
    row = page.locator("tr", has_text=ran.result["verdict"]["job_name"])
    playwright.expect(row.locator(".state")).to_have_text("live", timeout=SECONDS)

    playwright.expect(page.locator("body")).to_contain_text("trigger the DAG roll_back_endpoint")

    viewed = ran.result["recommendations"][0]["session"][-1]
    page.get_by_label("Products that a customer looked at").fill(f"{viewed}\n")
    page.get_by_role("button", name="Recommend").click()
    playwright.expect(page.locator("#answer")).to_contain_text(re.compile(r"10 products in \d+\.\d ms"))
    links = page.locator("tbody a")
    recommended = links.evaluate_all(
        "links => links.map(link => new URL(link.href).searchParams.getAll('sku').at(-1))"
    )
    assert len(set(recommended)) == 10 and viewed not in recommended

    # On with the first of them, as a customer would.
    links.first.click()
    playwright.expect(page.locator("textarea")).to_have_value(f"{viewed}\n{recommended[0]}")
    playwright.expect(page.locator("#answer")).to_contain_text("10 products")

    page.get_by_role("link", name="All models").click()
    page.get_by_role("link", name="Card of version").first.click()
    playwright.expect(page.locator("body")).to_contain_text(ran.result["verdict"]["job_name"])


def test_example_session_and_newcomer_are_a_click_away(visitor: chromium.Visitor, ran: Ran) -> None:
    visitor.open("plugin/models")
    page = visitor.inside("Models")
    page.locator(".picks a").first.click()
    playwright.expect(page.locator("#answer")).to_contain_text("10 products", timeout=SECONDS)
    visitor.open("plugin/models")
    page.get_by_role("link", name="a newcomer").click()
    playwright.expect(page.locator("body")).to_contain_text("the most popular ones", timeout=SECONDS)


NASTY = "</textarea><script>document.title='owned'</script>"


def test_nasty_sku_does_nothing_but_be_unknown(visitor: chromium.Visitor, ran: Ran) -> None:
    visitor.open("plugin/models")
    page = visitor.inside("Models")
    page.locator("textarea").fill(NASTY)
    page.get_by_role("button", name="Recommend").click()
    playwright.expect(page.locator("body")).to_contain_text(
        "None of these products is known", timeout=SECONDS
    )
    playwright.expect(page.locator("textarea")).to_have_value(NASTY)
    assert page.locator("script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [chromium.WIDE, chromium.NARROW])
def test_pages_fit_their_window_and_follow_its_colours(
    browser: Any, ran: Ran, width: int, scheme: Any
) -> None:
    person = chromium.Visitor(browser, ran.stack, width=width, scheme=scheme).log_in()
    for path in ("models", "try"):
        person.open(f"post-modern-stack/{path}")
        shown = person.page.evaluate(
            "() => ({overflow: document.documentElement.scrollWidth - window.innerWidth,"
            " page: getComputedStyle(document.body).backgroundColor,"
            " ink: getComputedStyle(document.body).color})"
        )
        assert shown["overflow"] <= 0, path
        page, ink = (sum(map(int, re.findall(r"\d+", shown[name])[:3])) for name in ("page", "ink"))
        assert (page < ink) == (scheme == "dark"), path

"""A headless Chromium that is logged in to Airflow, for tests and screenshots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page

    from include.local.stack import Stack

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, NARROW, HIGH = 1200, 400, 900
DAG = "post_modern_stack"


def find_chromium() -> str | None:
    """Returns the system's Chromium, or None where there is none on PATH."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def started(chromium: str) -> Iterator[Browser]:
    """Yields a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox needs rights that a container's root has not; it visits nothing but our own pages.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """A person in Airflow's web UI.

    Attributes:
        page: What they look at.
        complaints: Errors in the browser's console that came from our pages.
    """

    def __init__(
        self,
        browser: Browser,
        stack: Stack,
        *,
        width: int = WIDE,
        height: int = HIGH,
        scheme: Literal["light", "dark"] = "light",
    ) -> None:
        self._stack = stack
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(30_000)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._hear)

    def _hear(self, message: object) -> None:
        kind = getattr(message, "type", "")
        url = str((getattr(message, "location", None) or {}).get("url"))
        # dbt's documentation asks for icons and fonts of the web, which its policy keeps from it.
        if kind == "error" and "/post-modern-stack/" in url and "/dbt-docs" not in url:
            self.complaints.append(str(getattr(message, "text", "")))

    def log_in(self) -> Visitor:
        """Opens Airflow, which asks who they are, and tells it."""
        self.page.goto(self._stack.airflow_url)
        self.page.locator("input[name=username]").fill("admin")
        self.page.locator("input[name=password]").fill(self._stack.password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_test_id("nav-sidebar").or_(self.page.get_by_role("navigation")).first.wait_for()
        return self

    def open(self, path: str) -> None:
        """Goes to a place in Airflow."""
        self.page.goto(f"{self._stack.airflow_url}/{path}")

    def open_run(self, run_id: str) -> None:
        """Goes to a run of the pipeline."""
        self.open(f"dags/{DAG}/runs/{quote(run_id, safe='')}")

    def inside(self, title: str) -> FrameLocator:
        """Returns one of our pages within Airflow's."""
        return self.page.frame_locator(f'iframe[title="{title}"]')

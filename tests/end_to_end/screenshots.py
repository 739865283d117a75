"""`make screenshots`: pictures of the pages for the README, from the stack of `make up` after `make demo`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from include.local.places import BUILD, ROOT
from include.local.stack import running
from tests.end_to_end import browser as chromium

IMAGES = ROOT / "docs" / "images"


def shoot(images: Path = IMAGES) -> list[Path]:
    """Takes the pictures.

    Args:
        images: Folder that receives them.

    Returns:
        What was written.

    Raises:
        RuntimeError: Something that the pictures need is missing; the message says what to do.
    """
    stack, result, browser = running(), BUILD / "demo.json", chromium.find_chromium()
    if stack is None or not result.exists():
        raise RuntimeError("The pictures are of a running stack: make up, then make demo, then this again.")
    if browser is None:
        raise RuntimeError(f"No Chromium on PATH: one of {', '.join(chromium.NAMES)}.")
    ran = json.loads(result.read_text())
    seen = ran["recommendations"][0]["session"][-3:]
    images.mkdir(parents=True, exist_ok=True)
    written = []

    def keep(person: chromium.Visitor, name: str) -> None:
        written.append(images / f"{name}.png")
        person.page.screenshot(path=written[-1])

    with chromium.started(browser) as opened:
        wide = chromium.Visitor(opened, stack).log_in()
        wide.open_run(ran["run_id"])
        wide.page.get_by_role("link", name="Model card").click()
        wide.inside("Model card").locator("h1").first.wait_for()
        keep(wide, "card")
        for scheme in ("light", "dark"):
            person = chromium.Visitor(opened, stack, height=1120, scheme=scheme).log_in()  # type: ignore[arg-type]
            person.open("plugin/models")
            person.inside("Models").locator("h1").wait_for()
            keep(person, "models" if scheme == "light" else "models-dark")
        page = wide.inside("Models")
        wide.open("plugin/models")
        page.locator("textarea").fill("\n".join(seen))
        page.get_by_role("button", name="Recommend").click()
        page.locator("#answer").wait_for()
        keep(wide, "try-it")
    return written


if __name__ == "__main__":
    try:
        for path in shoot():
            print(path.relative_to(ROOT))
    except (RuntimeError, ModuleNotFoundError) as error:
        sys.exit(f"make screenshots: {error}")

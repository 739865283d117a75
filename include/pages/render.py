"""Draws the pages from templates. Every text in them comes from outside and is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import Environment

from include.cards.html import page_environment

TEMPLATES = Path(__file__).with_name("templates")


def query(skus: Sequence[str]) -> str:
    """Returns the part of a link that names a session's products, exactly."""
    # Half of a surrogate pair has no bytes; the endpoint skips such a name, too.
    return urlencode([("sku", sku.encode("utf-8", "replace")) for sku in skus])


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = page_environment(TEMPLATES)
    environment.filters.update(query=query)
    return environment


def render(template: str, **content: object) -> str:
    """Returns a page without scripts or outside resources.

    Args:
        template: File in the templates' folder.
        **content: What it shows.
    """
    return _environment().get_template(template).render(**content)

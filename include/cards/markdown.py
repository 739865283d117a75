"""Shows a card as Markdown, with the headings and the metadata of Hugging Face's model and dataset cards."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from include.cards.card import Card
from include.cards.html import costs_of, shadow_of
from include.cards.text import method, number, percent, shorten, shown, words

TEMPLATES = Path(__file__).with_name("templates")
LONGEST_VALUE = 1000
MOST_ROWS = 200
# All that starts a mark, an HTML tag, a table's cell, or an address that a reader would turn into a link.
_SIGNS = re.compile(r"[\\`*_{}\[\]#!|~$^@]|:(?=//)|(?<=www)\.")
_BLANK_LINES = re.compile(r"\n{3,}")


def escape(value: object) -> Markup:
    """Returns a text that no Markdown or HTML reader takes for anything but itself, on one line."""
    if isinstance(value, Markup):
        return value
    plain = shorten(value, LONGEST_VALUE).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_SIGNS.sub(r"\\\g<0>", plain))


def code(value: object) -> Markup:
    """Returns a text as code, for outside of tables; what would end the code is replaced."""
    return Markup("`" + (shorten(value, 600).replace("`", "'") or " ") + "`")


def block(lines: tuple[str, ...]) -> Markup:
    """Returns commands as an indented block, which nothing within a line can end."""
    return Markup("\n".join(f"    {shorten(line, 600)}" for line in lines))


def render_markdown(card: Card) -> str:
    """Writes the card as `README.md` of a model repository would have it.

    Args:
        card: Its content; every text that comes from outside is escaped.

    Returns:
        Markdown with YAML front matter.
    """
    front = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=1000)
    body = _template().render(
        card=card,
        verdict=card.verdict,
        checks=card.verdict.checks[:MOST_ROWS],
        metric_names=list(card.verdict.metrics),
        costs=costs_of(card.cost) if card.cost else [],
        shadow=shadow_of(card.shadow) if card.shadow else [],
    )
    tidy = _BLANK_LINES.sub("\n\n", body).strip()
    return f"---\n{front}---\n\n{tidy}\n"


def front_matter(card: Card) -> dict[str, object]:
    """Returns the metadata block: library, task, data set and results, by the names that the Hub reads."""
    metrics = card.verdict.metrics
    return {
        "library_name": "keras",
        "pipeline_tag": "other",
        "tags": ["recommendation", "session-based", "next-item", f"gate-{card.outcome}"],
        "datasets": [shorten(card.verdict.snapshot_id)],
        "metrics": [shorten(name) for name in metrics],
        "model-index": [
            {
                "name": shorten(card.verdict.job_name),
                "results": [
                    {
                        "task": {"type": "other", "name": "Next-item recommendation"},
                        "dataset": {
                            "name": shorten(card.verdict.snapshot_id),
                            "type": "sessions",
                            "split": "test",
                        },
                        "metrics": [
                            {"type": shorten(name), "name": words(shorten(name)), "value": value}
                            for name, value in metrics.items()
                        ],
                    }
                ],
            }
        ],
    }


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # HTML's rules are not Markdown's; `finalize` sees every value instead
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        block=block, code=code, method=method, number=number, percent=percent, shown=shown, words=words
    )
    return environment.get_template("card.md.j2")

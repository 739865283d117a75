"""Poisoned texts as SKUs: inert in SQL, Jinja, HTML, Markdown, paths and JSON, from the log to the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from include.cards.compose import Surroundings, compose
from include.cards.html import render_html
from include.cards.markdown import render_markdown
from tests.cards.cards import COST, TRAINING, Page, report, verdict
from tests.faults.poison import POISON, REFUSED, Poisoned
from tests.local.serving import ask, ping
from tests.shops import rows

NAMES = [*POISON.values()]


def test_they_land_as_they_are_and_the_others_are_counted_as_rejects(poisoned: Poisoned) -> None:
    assert poisoned.report.rejected_by_reason == dict.fromkeys(REFUSED, 1)
    assert poisoned.report.events_landed == poisoned.report.events_read - len(REFUSED)
    raw = [
        json.loads(row[0])["product_sku_hash"]
        for row in rows(poisoned.warehouse, "select raw_data from raw.shopping_events")
    ]
    assert raw[1 : 3 * len(NAMES) : 3] == NAMES
    kept = rows(poisoned.warehouse, "select raw_line from raw.rejected_events")
    assert len(kept) == len(REFUSED) and all(len(line) <= 1000 for (line,) in kept)


def test_sql_and_dbt_take_them_for_values(poisoned: Poisoned) -> None:
    found = rows(poisoned.warehouse, "select skus from shop.sessions order by started_at")
    assert [skus[1] for (skus,) in found[: len(NAMES)]] == NAMES
    assert all(skus[1] in NAMES and len(skus) == 3 for (skus,) in found) and len(found) == 270
    known = rows(poisoned.warehouse, "select product_sku, category from shop.products where is_in_catalogue")
    assert dict(known) == {sku: f"{sku}/{name}" for name, sku in POISON.items()}
    assert rows(poisoned.warehouse, "select count(*) from raw.loads") == [(1,)]


def test_the_snapshot_holds_them_and_no_path_is_made_of_them(poisoned: Poisoned) -> None:
    exported = {
        skus[1]
        for part in poisoned.snapshot.glob("t*/*.parquet")
        for skus in pq.read_table(part, partitioning=None).column("skus").to_pylist()
    }
    assert exported == set(NAMES)
    paths = [*poisoned.keys, *(str(path.relative_to(poisoned.folder)) for path in poisoned.folder.rglob("*"))]
    for path in paths:
        assert path.isascii() and len(path) < 300 and ".." not in path
        assert not {"x", "after-0", "before-0"} & set(Path(path).parts)
        assert not set("<>'\"{}$%") & set(path)


def test_the_model_learned_them_and_they_are_in_its_evaluation(poisoned: Poisoned) -> None:
    items = pq.read_table(poisoned.job / "data/evaluation/items.parquet").column("product_sku").to_pylist()
    assert set(items) == {*NAMES, *(f"{side}-{n}" for n in range(len(NAMES)) for side in ("before", "after"))}
    for path in poisoned.job.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def card_of(poisoned: Poisoned, sku: str) -> Any:
    asked = pq.read_table(poisoned.job / "data/evaluation/predictions.parquet").to_pylist()
    example = next(row for row in asked if row["target"] == sku)
    shown = [{"session": [*example["session"], sku], "target": sku, "predictions": [sku], "rank": 1}]
    around = Surroundings(
        run_id="manual__1",
        judged_at="2026-11-24T03:41:07+00:00",
        params={"epochs": 2},
        chosen=frozenset(),
        products={sku: (sku, 1.0)},
        cost=COST,
    )
    return compose(verdict(), json.dumps(report(examples=shown)), TRAINING, around)


@pytest.mark.parametrize("name", POISON)
def test_the_card_shows_them_as_text(poisoned: Poisoned, name: str) -> None:
    card = card_of(poisoned, POISON[name])
    page = Page(render_html(card))
    assert page.open == []
    assert not {"script", "img", "iframe"} & set(page.tags)
    assert not [attribute for attribute, _ in page.attributes if attribute.startswith("on")]
    # Long ones are cut; what would turn the page's own text around is replaced.
    beginning = "".join(sign if sign.isprintable() else "\ufffd" for sign in POISON[name][:9])
    assert beginning in page.text
    assert "<script" not in render_markdown(card)


@pytest.mark.parametrize("name", POISON)
def test_the_endpoint_answers_with_them_and_to_them(shop_server: int, name: str) -> None:
    place = NAMES.index(POISON[name])
    status, answer = ask(
        shop_server,
        {"instances": [{"session": [f"before-{place}"], "k": 20}, {"session": [POISON[name]], "k": 20}]},
    )
    assert status == 200
    to_the_plain_one, to_the_poisoned_one = answer["predictions"]
    assert POISON[name] in to_the_plain_one["skus"]
    assert f"after-{place}" in to_the_poisoned_one["skus"]
    assert (to_the_plain_one["fallback"], to_the_poisoned_one["fallback"]) == ("none", "none")


def test_those_that_were_refused_are_unknown_to_the_endpoint_and_harmless(shop_server: int) -> None:
    for sku in REFUSED.values():
        status, answer = ask(shop_server, {"instances": [{"session": [sku]}]})
        assert status == 200 and answer["predictions"][0]["fallback"] == "popularity"
    assert ping(shop_server) == 200

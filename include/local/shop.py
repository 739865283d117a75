"""Generates the sessions of an invented shop, in the schema of the Coveo SIGIR eCom 2021 challenge.

What there is to learn: products have substitutes of their own inside their category, and complements in
the category that goes with it; a shopper keeps to one brand and to one purpose (comparing, or furnishing)
through a session. The last product alone therefore says less than the session does. Popularity follows
Zipf's law and drifts from day to day. `structure` blends all of that with uniform noise.

`python -m include.local.shop --out DIR` writes `browsing.csv.gz` and `sku_to_content.csv.gz`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EVENT_HEADER = (
    "session_id_hash,event_type,product_action,product_sku_hash,server_timestamp_epoch_ms,hashed_url"
)
PRODUCT_HEADER = "product_sku_hash,description_vector,category_hash,image_vector,price_bucket"

BRANDS = 3
BRAND_SHARES = (0.5, 0.3, 0.2)
PRODUCTS_PER_CATEGORY = 12
BRANCHES = 6
ZIPF_EXPONENT = 0.9
DRIFT = 1.2  # how far popularity swings, as a power of e
NEW_SHARE = 0.04  # of the products, those that appear while the log runs

MEAN_EXTRA_STEPS = 4.5
MAX_STEPS = 40
CHOICE_SHARES = (0.62, 0.25, 0.09, 0.04)  # among the products of the shopper's brand, best first
BRAND_LOYALTY = 0.92
# Shares of the moves: to a substitute, to a complement, back to an earlier product, anywhere.
COMPARING = (0.78, 0.10, 0.07, 0.05)
FURNISHING = (0.30, 0.58, 0.07, 0.05)

ADD_SHARE, REMOVE_SHARE, PURCHASE_SHARE = 0.14, 0.12, 0.4
PAGEVIEW_SHARE = 0.25
BOT_PER_SESSIONS = 4000
DUPLICATE_SHARE, LATE_SHARE, MALFORMED_SHARE = 0.01, 0.02, 0.003
VECTOR_LENGTH = 8
DAY_MS = 86_400_000


@dataclass(frozen=True)
class ShopOptions:
    """What the shop looks like; the same options give the same bytes.

    Attributes:
        structure: 1 for all the structure, 0 for uniform noise in which nothing can be learned.
    """

    sessions: int = 12_000
    products: int = 1_200
    days: int = 30
    seed: int = 7
    first_day: date = date(2026, 1, 1)
    structure: float = 1.0

    def __post_init__(self) -> None:
        if min(self.sessions, self.days) < 1 or self.products < 2 * BRANDS * BRANDS:
            raise ValueError(f"A shop needs a session, a day and {2 * BRANDS * BRANDS} products.")
        if not 0 <= self.structure <= 1:
            raise ValueError(f"structure must be between 0 and 1, not {self.structure}.")


class Event(NamedTuple):
    """One row of the log before it becomes text."""

    moment: int
    session: str
    kind: str
    action: str
    sku: str
    url: str

    def line(self) -> str:
        """Returns the CSV row."""
        return f"{self.session},{self.kind},{self.action},{self.sku},{self.moment},{self.url}"


@dataclass(frozen=True)
class Catalogue:
    """Products and how they hang together.

    Attributes:
        skus: Hashes, [products].
        category: Category of each product, [products].
        brand: Brand of each product, [products].
        day_weights: Chance that a session of a day starts with a product, [days, products].
        first_day: Day on which a product appears, [products].
        substitutes: Products of the same category, per brand, best first, [products, brands, choices].
        complements: Products of the category that goes with it, [products, brands, choices].
    """

    skus: list[str]
    category: Ints
    brand: Ints
    day_weights: Floats
    first_day: Ints
    substitutes: Ints
    complements: Ints


def _hash(seed: int, kind: str, number: int) -> str:
    return hashlib.sha256(f"{seed}:{kind}:{number}".encode()).hexdigest()


def make_catalogue(options: ShopOptions, rng: np.random.Generator) -> Catalogue:
    """Invents products, their popularity over the days, and who goes with whom."""
    count, days = options.products, options.days
    categories = max(2, count // PRODUCTS_PER_CATEGORY)
    # Every (category, brand) gets a product before any gets a second one.
    slots = np.arange(count) % (categories * BRANDS)
    category, brand = slots // BRANDS, slots % BRANDS
    shelves = [
        [np.flatnonzero((category == c) & (brand == b)) for b in range(BRANDS)] for c in range(categories)
    ]
    partner = np.roll(np.arange(categories), 1)

    choices = len(CHOICE_SHARES)
    substitutes = np.empty((count, BRANDS, choices), dtype=np.int64)
    complements = np.empty_like(substitutes)
    for product in range(count):
        for b in range(BRANDS):
            own = shelves[category[product]][b]
            others = own[own != product] if len(own) > 1 else own
            substitutes[product, b] = np.resize(rng.permutation(others), choices)
            complements[product, b] = np.resize(
                rng.permutation(shelves[partner[category[product]]][b]), choices
            )

    rank = rng.permutation(count) + 1
    phase, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.5, 1.5, count)
    turn = np.arange(days)[:, None] / max(days, 30)
    day_weights = rank**-ZIPF_EXPONENT * np.exp(DRIFT * np.sin(2 * np.pi * speed * turn + phase))
    first_day = np.where(rng.random(count) < NEW_SHARE, rng.integers(0, days, count), 0)
    day_weights = np.where(np.arange(days)[:, None] >= first_day, day_weights, 0.0)
    # A shop has something to sell on its first day.
    day_weights[:, 0] = np.maximum(day_weights[:, 0], 1e-6)
    shares = np.asarray(day_weights / day_weights.sum(axis=1, keepdims=True), dtype=np.float64)
    skus = [_hash(options.seed, "sku", number) for number in range(count)]
    return Catalogue(skus, category, brand, shares, first_day, substitutes, complements)


def _draw_by_day(catalogue: Catalogue, days: Ints, rng: np.random.Generator) -> Ints:
    """Draws a product by the popularity of each session's day, [sessions]."""
    result = np.empty(len(days), dtype=np.int64)
    for day in np.unique(days):
        mine = days == day
        result[mine] = rng.choice(
            catalogue.day_weights.shape[1], size=mine.sum(), p=catalogue.day_weights[day]
        )
    return result


def walk_sessions(
    options: ShopOptions, catalogue: Catalogue, days: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Lets every shopper walk through the shop.

    Args:
        options: Options of the shop.
        catalogue: Its products.
        days: Day of each session, [sessions].
        rng: Source of randomness.

    Returns:
        Products in order [sessions, steps], and how many of them each session has [sessions].
    """
    count = options.sessions
    lengths = np.minimum(1 + rng.geometric(1 / MEAN_EXTRA_STEPS, count), MAX_STEPS)
    brand = rng.choice(BRANDS, size=count, p=BRAND_SHARES)
    moves = np.where(rng.random((count, 1)) < 0.5, np.array([COMPARING]), np.array([FURNISHING])).cumsum(
        axis=1
    )
    path = np.empty((count, int(lengths.max())), dtype=np.int64)
    rows = np.arange(count)
    for step in range(path.shape[1]):
        anywhere = _draw_by_day(catalogue, days, rng)
        if step == 0:
            planned = anywhere
        else:
            here = path[:, step - 1]
            loyal = np.where(rng.random(count) < BRAND_LOYALTY, brand, rng.integers(0, BRANDS, count))
            choice = rng.choice(len(CHOICE_SHARES), size=count, p=CHOICE_SHARES)
            earlier = path[rows, rng.integers(0, step, count)]
            move = (rng.random((count, 1)) > moves).sum(axis=1)
            planned = np.select(
                [move == 0, move == 1, move == 2],
                [
                    catalogue.substitutes[here, loyal, choice],
                    catalogue.complements[here, loyal, choice],
                    earlier,
                ],
                anywhere,
            )
            planned = np.where(days >= catalogue.first_day[planned], planned, anywhere)
        noise = rng.integers(0, options.products, count)
        path[:, step] = np.where(rng.random(count) < options.structure, planned, noise)
    return path, lengths


def make_events(options: ShopOptions, catalogue: Catalogue, rng: np.random.Generator) -> list[Event]:
    """Returns the log of all sessions and bots, session by session."""
    midnight = int(datetime.combine(options.first_day, datetime.min.time(), UTC).timestamp() * 1000)
    days = rng.integers(0, options.days, options.sessions)
    # Evenings are busier than nights; no session starts so late that most of it is the next day's.
    clock = np.clip(rng.normal(0.66, 0.16, options.sessions), 0.0, 0.999)
    starts = midnight + days * DAY_MS + (clock * DAY_MS).astype(np.int64)
    path, lengths = walk_sessions(options, catalogue, days, rng)
    events: list[Event] = []
    for number in range(options.sessions):
        session = _hash(options.seed, "session", number)
        products = path[number, : lengths[number]].tolist()
        events += _session_events(session, int(starts[number]), products, catalogue, options.seed, rng)
    for number in range(max(1, options.sessions // BOT_PER_SESSIONS)):
        events += _bot_events(number, midnight, options, catalogue, rng)
    return events


def _session_events(
    session: str, start: int, products: list[int], catalogue: Catalogue, seed: int, rng: np.random.Generator
) -> list[Event]:
    """Turns a walk into a funnel: page views, details, additions, removals, purchases at the end."""
    steps = len(products)
    # Six moments per step are enough for whatever happens at it; no pause reaches half an hour.
    pauses = np.minimum(np.exp(rng.normal(3.4, 0.9, (steps + 1) * 2)) * 1000, 1_500_000).astype(np.int64)
    chance = rng.random((steps, 4))
    moment = start
    events: list[Event] = []
    cart: list[int] = []
    for step, product in enumerate(products):
        sku, url = catalogue.skus[product], _hash(seed, "url", product)
        if chance[step, 0] < PAGEVIEW_SHARE:
            events.append(Event(moment, session, "pageview", "", "", _hash(seed, "page", step)))
            moment += int(pauses[2 * step])
        events.append(Event(moment, session, "event_product", "detail", sku, url))
        if chance[step, 1] < ADD_SHARE and product not in cart:
            events.append(Event(moment + 4000, session, "event_product", "add", sku, url))
            cart.append(product)
            if chance[step, 2] < REMOVE_SHARE:
                events.append(Event(moment + 9000, session, "event_product", "remove", sku, url))
                cart.remove(product)
        moment += 10_000 + int(pauses[2 * step + 1])
    if cart and chance[0, 3] < PURCHASE_SHARE:
        events += [
            Event(moment, session, "event_product", "purchase", catalogue.skus[p], _hash(seed, "url", p))
            for p in cart
        ]
    return events


def _bot_events(
    number: int, midnight: int, options: ShopOptions, catalogue: Catalogue, rng: np.random.Generator
) -> list[Event]:
    """A crawler walks the catalogue, hundreds of products in minutes."""
    session = _hash(options.seed, "bot", number)
    moment = midnight + int(rng.integers(0, options.days)) * DAY_MS + int(rng.integers(0, DAY_MS // 2))
    first, count = int(rng.integers(0, options.products)), int(rng.integers(350, 900))
    return [
        Event(
            moment + 300 * step,
            session,
            "event_product",
            "detail",
            catalogue.skus[(first + step) % options.products],
            _hash(options.seed, "url", (first + step) % options.products),
        )
        for step in range(count)
    ]


def disturb(events: list[Event], rng: np.random.Generator) -> list[str]:
    """Orders the log by time, and then spoils it as real logs are: late, repeated and broken rows.

    Args:
        events: The clean log in any order.
        rng: Source of randomness.

    Returns:
        CSV lines.
    """
    ordered = sorted(events)
    count = len(ordered)
    places = np.arange(count, dtype=np.float64)
    late = rng.random(count) < LATE_SHARE
    places[late] += rng.exponential(count / 50, late.sum())
    repeated = np.flatnonzero(rng.random(count) < DUPLICATE_SHARE)
    sources = np.concatenate([np.arange(count), repeated])
    places = np.concatenate([places, repeated + rng.exponential(count / 100, len(repeated))])
    lines = [ordered[source].line() for source in sources[np.argsort(places, kind="stable")]]
    for row in np.flatnonzero(rng.random(len(lines)) < MALFORMED_SHARE):
        # A broken row comes beside the good one: nothing of the sessions is lost.
        lines[row] += "\n" + _break(lines[row], int(rng.integers(0, 6)))
    return lines


def _break(line: str, how: int) -> str:
    session, kind, action, sku, moment, url = line.split(",")
    return (
        f"{session},{kind},{action},{sku}",
        f"{session},{kind},{action},{sku},yesterday,{url}",
        f"{session},{kind},{action},{sku},{int(moment) // 1000},{url}",
        f",{kind},{action},{sku},{moment},{url}",
        f"{session},click,{action},{sku},{moment},{url}",
        f"{session},event_product,detail,,{moment},{url}",
    )[how]


def make_products(options: ShopOptions, catalogue: Catalogue, rng: np.random.Generator) -> list[str]:
    """Returns the CSV lines of the catalogue; some products have no category, price or vector."""
    prices = np.clip(np.round(rng.normal(5.5, 2.5, options.products)), 1, 10)
    known = rng.random((options.products, 3))
    vectors = np.round(rng.normal(0, 0.3, (options.products, VECTOR_LENGTH)), 4)
    lines = []
    for product, sku in enumerate(catalogue.skus):
        leaf = int(catalogue.category[product])
        levels = (("branch", leaf % BRANCHES), ("shelf", leaf // 2 % 40), ("leaf", leaf))
        path = "/".join(_hash(options.seed, kind, number) for kind, number in levels)
        vector = f'"{json.dumps(vectors[product].tolist())}"' if known[product, 0] < 0.6 else ""
        category = path if known[product, 1] < 0.97 else ""
        price = f"{prices[product]:.1f}" if known[product, 2] < 0.95 else ""
        lines.append(f"{sku},{vector},{category},,{price}")
    return lines


def write_shop(folder: Path, options: ShopOptions) -> tuple[int, int]:
    """Writes the shop's two files.

    Args:
        folder: Is created where it is missing.
        options: What the shop looks like.

    Returns:
        Number of event lines and of product lines.
    """
    rng = np.random.default_rng(options.seed)
    catalogue = make_catalogue(options, rng)
    events = disturb(make_events(options, catalogue, rng), rng)
    products = make_products(options, catalogue, rng)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "browsing.csv.gz", EVENT_HEADER, events)
    _write(folder / "sku_to_content.csv.gz", PRODUCT_HEADER, products)
    return len(events), len(products)


def _write(path: Path, header: str, lines: list[str]) -> None:
    # Neither time nor name go into the gzip header: the same rows are the same bytes.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file:
        file.write("\n".join([header, *lines, ""]).encode())


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    defaults = ShopOptions()
    parser = argparse.ArgumentParser(prog="python -m include.local.shop", description="Invents a shop.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--sessions", type=int, default=defaults.sessions)
    parser.add_argument("--products", type=int, default=defaults.products)
    parser.add_argument("--days", type=int, default=defaults.days)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--first-day", type=date.fromisoformat, default=defaults.first_day)
    parser.add_argument("--structure", type=float, default=defaults.structure, help="1: all, 0: noise")
    chosen = vars(parser.parse_args(arguments))
    folder = chosen.pop("out")
    try:
        options = ShopOptions(**chosen)
    except ValueError as error:
        parser.error(str(error))
    events, products = write_shop(folder, options)
    print(f"    {events:,} event rows, {products:,} products")
    return 0


if __name__ == "__main__":
    sys.exit(main())

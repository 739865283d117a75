from __future__ import annotations

import csv
import gzip
import time
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from include.local import shop
from include.local.shop import ShopOptions, main, make_catalogue, make_events, walk_sessions, write_shop

SMALL = ShopOptions(sessions=400, products=90, days=10)


def walks(structure: float) -> tuple[list[list[int]], list[int]]:
    """Sessions as lists of products, consecutive repeats collapsed; and the brand of each product."""
    options = ShopOptions(sessions=6000, products=360, structure=structure)
    rng = np.random.default_rng(1)
    catalogue = make_catalogue(options, rng)
    days = np.sort(rng.integers(0, options.days, options.sessions))
    path, lengths = walk_sessions(options, catalogue, days, rng)
    sessions = [row[:length].tolist() for row, length in zip(path, lengths, strict=True)]
    collapsed = [[p for n, p in enumerate(s) if n == 0 or s[n - 1] != p] for s in sessions]
    return collapsed, catalogue.brand.tolist()


def hit_rates(sessions: list[list[int]], brands: list[int], k: int = 5) -> dict[str, float]:
    """Hit rates of popularity, of the last product's followers, and of those that suit the session too."""
    cut = len(sessions) * 9 // 10
    counts: Counter[int] = Counter(product for session in sessions[:cut] for product in session)
    followers: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for session in sessions[:cut]:
        for last, target in zip(session, session[1:], strict=False):
            followers[last][target] += 1
    popular = [product for product, _ in counts.most_common(k)]
    hits: Counter[str] = Counter()
    for session in sessions[cut:]:
        for place in range(2, len(session)):
            after, target = followers[session[place - 1]], session[place]
            habit = Counter(brands[product] for product in session[:place])
            suited = Counter({p: n * (0.2 + habit[brands[p]]) for p, n in after.items()})
            hits["all"] += 1
            hits["popularity"] += target in popular
            hits["last"] += target in [p for p, _ in after.most_common(k)]
            hits["session"] += target in [p for p, _ in suited.most_common(k)]
    return {name: hits[name] / hits["all"] for name in ("popularity", "last", "session")}


def test_the_last_product_says_more_than_popularity_and_the_session_more_than_the_last_product() -> None:
    rates = hit_rates(*walks(1.0))
    assert rates["last"] > 0.4 > 2 * rates["popularity"]
    assert rates["session"] > rates["last"] + 0.02


def test_without_structure_there_is_nothing_to_learn() -> None:
    rates = hit_rates(*walks(0.0))
    chance = 5 / 360
    assert all(rate < 1.7 * chance for rate in rates.values()), rates


def test_popularity_follows_zipf_and_drifts() -> None:
    options = ShopOptions(sessions=10, products=300)
    weights = make_catalogue(options, np.random.default_rng(1)).day_weights
    mean = np.sort(weights.mean(axis=0))[::-1]
    assert mean[:30].sum() > 0.35
    assert np.abs(weights[0] - weights[-1]).sum() > 0.3


def test_actions_are_a_funnel() -> None:
    rng = np.random.default_rng(1)
    catalogue = make_catalogue(SMALL, rng)
    events = make_events(SMALL, catalogue, rng)
    actions = Counter(event.action for event in events)
    assert actions["detail"] > actions["add"] > actions["purchase"] > 0 < actions["remove"] < actions["add"]
    carts: defaultdict[str, set[str]] = defaultdict(set)
    for event in sorted(events):
        if event.action == "add":
            carts[event.session].add(event.sku)
        elif event.action == "remove":
            carts[event.session].remove(event.sku)
        elif event.action == "purchase":
            assert event.sku in carts[event.session]


def test_sessions_are_cut_at_half_an_hour() -> None:
    rng = np.random.default_rng(1)
    times: defaultdict[str, list[int]] = defaultdict(list)
    for event in make_events(SMALL, make_catalogue(SMALL, rng), rng):
        times[event.session].append(event.moment)
    pauses = [
        b - a
        for moments in times.values()
        for a, b in zip(sorted(moments), sorted(moments)[1:], strict=False)
    ]
    assert max(pauses) < 30 * 60 * 1000


def read(folder: Path, name: str) -> list[list[str]]:
    with gzip.open(folder / name, "rt", newline="") as file:
        return list(csv.reader(file))


def test_the_log_has_the_faults_of_real_logs(tmp_path: Path) -> None:
    write_shop(tmp_path, SMALL)
    header, *found = read(tmp_path, "browsing.csv.gz")
    assert ",".join(header) == shop.EVENT_HEADER
    good = [row for row in found if len(row) == 6 and row[0] and row[4].isdigit() and len(row[4]) == 13]
    broken = len(found) - len(good)
    assert 0 < broken < 0.01 * len(found)
    moments = [int(row[4]) for row in good]
    assert sum(a > b for a, b in zip(moments, moments[1:], strict=False)) > 10, "no late events"
    assert max(Counter(map(tuple, good)).values()) > 1, "no duplicates"
    assert max(Counter(row[0] for row in good).values()) > 300, "no bots"
    assert all(len(row[0]) == 64 for row in good)
    assert {row[1] for row in good} >= {"event_product", "pageview"}


def test_the_catalogue_is_in_the_schema(tmp_path: Path) -> None:
    write_shop(tmp_path, SMALL)
    header, *found = read(tmp_path, "sku_to_content.csv.gz")
    assert ",".join(header) == shop.PRODUCT_HEADER
    assert len(found) == SMALL.products and all(len(row) == 5 for row in found)
    assert {row[2].count("/") for row in found if row[2]} == {2}
    assert all(row[4] == "" or 1 <= float(row[4]) <= 10 for row in found)
    assert any(row[2] == "" for row in found) or any(row[4] == "" for row in found)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    arguments = ["--sessions", "200", "--products", "60", "--days", "5"]
    assert main(["--out", str(tmp_path / "a"), *arguments]) == 0
    time.sleep(1.1)  # a timestamp in the gzip header would show
    assert main(["--out", str(tmp_path / "b"), *arguments]) == 0
    assert main(["--out", str(tmp_path / "c"), *arguments, "--seed", "8"]) == 0
    for name in ("browsing.csv.gz", "sku_to_content.csv.gz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


def test_days_are_those_asked_for(tmp_path: Path) -> None:
    write_shop(tmp_path, ShopOptions(sessions=300, products=60, days=3, first_day=date(2019, 1, 15)))
    days = {
        int(row[4]) // shop.DAY_MS
        for row in read(tmp_path, "browsing.csv.gz")[1:]
        if len(row) == 6 and len(row[4]) == 13
    }
    first = (date(2019, 1, 15) - date(1970, 1, 1)).days
    assert {first, first + 1, first + 2} <= days <= {first, first + 1, first + 2, first + 3}


@pytest.mark.parametrize(
    "wrong", [["--structure", "2"], ["--sessions", "0"], ["--products", "3"], ["--days", "0"]]
)
def test_impossible_shops_are_refused(tmp_path: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--out", str(tmp_path), *wrong])
    assert caught.value.code == 2


@pytest.mark.parametrize("products", [18, 30, 100])
def test_small_catalogues_work(tmp_path: Path, products: int) -> None:
    events, lines = write_shop(tmp_path, ShopOptions(sessions=20, products=products, days=1))
    assert events > 20 and lines == products

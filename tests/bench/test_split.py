from __future__ import annotations

import csv
import importlib
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.next_item.encode import encode
from bench.next_item.split import PARTS, BadEventsError, Options, write_split

Event = tuple[str, str, int]  # session, product, minute


def write_events(path: Path, events: Iterable[Event | tuple[str, str, int, str]]) -> Path:
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        columns = ("session_id_hash", "event_type", "product_action", "product_sku_hash")
        table.writerow([*columns, "server_timestamp_epoch_ms", "hashed_url"])
        for session, item, minute, *action in events:
            kind = action[0] if action else "detail"
            table.writerow([session, "event_product", kind, item, 1_600_000_000_000 + minute * 60_000, ""])
    return path


def walks(sessions: int, seed: int = 1) -> list[Event]:
    """Sessions that begin ten minutes apart and last up to an hour, so that many straddle any boundary."""
    rng = random.Random(seed)
    return [
        (f"s{number:04d}", f"p{rng.randrange(12)}", number * 10 + step * rng.randrange(1, 12))
        for number in range(sessions)
        for step in range(rng.randrange(2, 6))
    ]


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {part: pq.read_table(folder / part / "part-0.parquet").to_pylist() for part in PARTS}


def in_order(part: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    return {row["session_id"]: row["skus"] for row in part}


def test_no_session_is_on_two_sides_and_nothing_is_learnt_from_the_future(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events.csv", walks(300))
    write_split(events, tmp_path / "snapshot", Options(min_support=1))
    parts = read(tmp_path / "snapshot")
    names = [{row["session_id"] for row in parts[part]} for part in PARTS]
    assert not names[0] & names[1] and not names[1] & names[2] and not names[0] & names[2]
    times = [[moment for row in parts[part] for moment in row["event_times"]] for part in PARTS]
    assert max(times[0]) < min(times[1]) and max(times[1]) < min(times[2])
    # Some sessions did straddle: dropped, and every other one is somewhere.
    assert 200 < sum(map(len, names)) < 300


def test_the_parts_are_the_last_tenths_by_start(tmp_path: Path) -> None:
    events = [(f"s{number:03d}", item, number * 10) for number in range(100) for item in ("a", "b")]
    manifest = write_split(
        write_events(tmp_path / "e.csv", events), tmp_path / "snapshot", Options(min_support=1)
    )
    # The session at a boundary belongs to the later part.
    assert manifest["counts"] == {"train": 79, "validation": 10, "test": 11}


def test_the_same_events_give_the_same_snapshot(tmp_path: Path) -> None:
    forward = write_events(tmp_path / "a.csv", walks(200))
    backward = write_events(tmp_path / "b.csv", walks(200)[::-1])
    ids = [write_split(path, tmp_path / path.stem, Options())["snapshot_id"] for path in (forward, backward)]
    assert ids[0] == ids[1]


def test_our_own_reader_takes_the_snapshot_as_it_is(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(write_events(tmp_path / "e.csv", walks(300)), tmp_path / "snapshot", Options())
    monkeypatch.syspath_prepend(root / "include" / "ml")  # the room is flat
    sessions = importlib.import_module("sessions")
    corpus = sessions.load(tmp_path / "snapshot")
    shop = encode(tmp_path / "snapshot")
    assert len(corpus.test) == len(shop.test)
    # Nothing was left for it to collapse or drop, and both walk the sessions in one order.
    assert [corpus.universe[code] for code in corpus.test.codes] == [
        shop.skus[code] for code in shop.test.items
    ]
    assert corpus.test.session_ids.to_pylist() == shop.session_ids


BASE = [(f"s{number:02d}", item, number * 10) for number in range(20) for item in ("a", "b")]
LAST = ("late", 1_000)


@pytest.mark.parametrize(
    ("extra", "options", "expected"),
    [
        pytest.param("aabba", Options(min_support=1), "aba", id="consecutive repeats are collapsed"),
        pytest.param("axb", Options(min_support=2), "axb", id="a rare product stays in the test part"),
        pytest.param("axb", Options(min_support=2, test_items="known"), "ab", id="or goes where asked"),
        pytest.param(
            "axa", Options(min_support=2, test_items="known"), None, id="and with it what it kept apart"
        ),
        pytest.param(
            "axxa", Options(min_support=1, test_items="known"), None, id="training decides what is known"
        ),
    ],
)
def test_what_is_left_of_a_test_session(
    extra: str, options: Options, expected: str | None, tmp_path: Path
) -> None:
    late = [(LAST[0], item, LAST[1] + step) for step, item in enumerate(extra)]
    write_split(write_events(tmp_path / "e.csv", BASE + late), tmp_path / "snapshot", options)
    found = in_order(read(tmp_path / "snapshot")["test"]).get(LAST[0])
    assert (None if found is None else "".join(found)) == expected


def test_support_is_counted_again_until_it_holds(tmp_path: Path) -> None:
    # x has two sessions; one of them is nothing without y, which is rare: then x is rare too.
    rare = [("r1", "x", 1), ("r1", "y", 2), ("r2", "x", 1), ("r2", "a", 2), ("r2", "b", 3)]
    write_split(write_events(tmp_path / "e.csv", BASE + rare), tmp_path / "snapshot", Options(min_support=2))
    train = in_order(read(tmp_path / "snapshot")["train"])
    assert "r1" not in train and train["r2"] == ["a", "b"]


def test_support_does_not_count_the_future(tmp_path: Path) -> None:
    early = [("early", "x", 1), ("early", "a", 2), ("early", "b", 3)]
    late = [("late", "x", 1_000), ("late", "a", 1_001)]
    events = write_events(tmp_path / "e.csv", BASE + early + late)
    write_split(events, tmp_path / "snapshot", Options(min_support=2))
    parts = read(tmp_path / "snapshot")
    assert in_order(parts["train"])["early"] == ["a", "b"]
    assert in_order(parts["test"])["late"] == ["x", "a"]


@pytest.mark.parametrize(
    ("pause", "expected"),
    [(0, {"long": ["a", "b", "a", "b"]}), (30, {"long_0": ["a", "b"], "long_1": ["a", "b"]})],
)
def test_a_pause_starts_a_new_session_where_asked(
    pause: float, expected: dict[str, list[str]], tmp_path: Path
) -> None:
    long = [("long", "a", 0), ("long", "b", 30), ("long", "a", 61), ("long", "b", 62)]
    events = write_events(tmp_path / "e.csv", BASE + long)
    write_split(events, tmp_path / "snapshot", Options(min_support=1, pause_minutes=pause))
    train = in_order(read(tmp_path / "snapshot")["train"])
    assert {name: skus for name, skus in train.items() if name.startswith("long")} == expected


def test_only_the_actions_asked_for_are_kept(tmp_path: Path) -> None:
    mixed = [
        ("m", "a", 1, "detail"),
        ("m", "x", 2, "remove"),
        ("m", "b", 3, "purchase"),
        ("m", "y", 4, "add"),
    ]
    events = write_events(tmp_path / "e.csv", [*BASE, *mixed])
    for actions, expected in (
        (("detail", "add", "purchase"), ["a", "b", "y"]),
        (("detail", "remove"), ["a", "x"]),
    ):
        write_split(events, tmp_path / "snapshot", Options(actions, min_support=1))
        assert in_order(read(tmp_path / "snapshot")["train"])["m"] == expected


def test_too_many_queries_are_cut_by_whole_sessions(tmp_path: Path) -> None:
    events = write_events(tmp_path / "e.csv", walks(400))
    write_split(events, tmp_path / "whole", Options(min_support=1))
    write_split(events, tmp_path / "cut", Options(min_support=1, max_queries=40))
    whole, cut = (in_order(read(tmp_path / name)["test"]) for name in ("whole", "cut"))
    assert cut.items() < whole.items()
    assert 30 < sum(len(skus) - 1 for skus in cut.values()) <= 40
    assert read(tmp_path / "whole")["train"] == read(tmp_path / "cut")["train"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("who,what\n1,2\n", "needed are session_id_hash"),
        ("session,item,time_ms\ns,a,1\n", "No session has two interactions"),
        ("session,item,time_ms\ns,a,1\ns,b,2\n", "No session is left for train and validation"),
    ],
)
def test_events_that_cannot_be_cut_are_refused(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(BadEventsError, match=complaint):
        write_split(tmp_path / "e.csv", tmp_path / "snapshot", Options())
    assert not (tmp_path / "snapshot" / "manifest.json").exists()

"""What outlives the emulator: resources as files, one by one."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from include.local.emulator.machine.persistence import LIVE, from_json, to_json, write_whole
from include.local.emulator.resources.store import Resource, Store
from include.local.emulator.wire.errors import AwsError

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@dataclass
class Toy(Resource):
    kind: ClassVar[str] = "toy"
    label: ClassVar[str] = "toy"

    count: int = 0
    seen: dict[str, tuple[float, datetime]] = field(default_factory=dict)
    friend: Toy | None = None
    thread: Any = field(default=None, metadata=LIVE)


def test_what_is_changed_under_its_lock_is_found_again(tmp_path: Path) -> None:
    store = Store(Toy, tmp_path)
    toy = Toy("a/b", "us-east-1", {"Tags": [{"Key": "k", "Value": "v"}]}, thread=object())
    store.add(toy)
    with toy.lock:
        toy.count, toy.seen = 3, {"loss": (0.5, WHEN)}
        toy.friend = Toy("friend", "us-east-1", {}, count=1)
        toy.tags = {"other": "tag"}
    (found,) = Store(Toy, tmp_path)
    assert found.thread is None
    toy.thread = None
    assert found == toy


def test_regions_are_apart_and_what_is_removed_stays_away(tmp_path: Path) -> None:
    store = Store(Toy, tmp_path)
    for region in ("us-east-1", "eu-west-1"):
        store.add(Toy("same", region, {}))
    gone = store.remove("us-east-1", "same")
    with gone.lock:  # a thread that still works on it
        gone.count = 9
    assert [(toy.region, toy.count) for toy in Store(Toy, tmp_path)] == [("eu-west-1", 0)]
    with pytest.raises(AwsError, match="Could not find"):
        store.remove("us-east-1", "same")


def test_the_end_of_the_emulator_is_not_written(tmp_path: Path) -> None:
    store = Store(Toy, tmp_path)
    store.add(toy := Toy("t", "us-east-1", {}))
    store.freeze()
    with toy.lock:
        toy.count = 7
    assert [found.count for found in Store(Toy, tmp_path)] == [0]


@pytest.mark.parametrize("content", [b"", b'{"name": "b", "reg', b"[]", b'{"name": "b"}', b"\xff"])
def test_a_file_that_cannot_be_read_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(Toy, tmp_path)
    for name in "abc":
        store.add(Toy(name, "us-east-1", {}))
    spoilt = tmp_path / "toy" / "us-east-1" / "b.json"
    spoilt.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert [toy.name for toy in Store(Toy, tmp_path)] == ["a", "c"]
    assert "b.json cannot be read" in caplog.text and "set aside as b.json.corrupt" in caplog.text
    assert spoilt.with_name("b.json.corrupt").read_bytes() == content
    Store(Toy, tmp_path).add(Toy("b", "us-east-1", {}))


def test_a_file_of_an_older_version_has_defaults_for_what_it_did_not_know(tmp_path: Path) -> None:
    store = Store(Toy, tmp_path)
    store.add(Toy("a", "us-east-1", {}, count=4))
    path = tmp_path / "toy" / "us-east-1" / "a.json"
    state = json.loads(path.read_text())
    del state["seen"]
    path.write_text(json.dumps({**state, "of_a_newer_version": 1}))
    assert [(toy.count, toy.seen) for toy in Store(Toy, tmp_path)] == [(4, {})]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_no_file_can_hold_is_told() -> None:
    with pytest.raises(TypeError, match="a file cannot hold a set"):
        to_json({"a": {1}})


def test_values_come_back_as_they_went() -> None:
    value = {"n": None, "l": [1, 2.5, True, "x"], "t": ("a", WHEN), "d": {"$time": 1, "b": {}}}
    assert from_json(json.loads(json.dumps(to_json(value))), Resource.kinds.__getitem__) == value

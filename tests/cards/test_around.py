from __future__ import annotations

import shlex
from typing import Any

import pytest

from include.cards.around import Live, Load, lineage_of, loads_of, rollback_of
from include.contracts import Tuning
from tests.cards.cards import CHAMPION, TRAINED, verdict

LIVE = Live(endpoint="shop", instance="ml.m5.large", region="us-east-1", config="pms-before")
MANIFEST: dict[str, Any] = {
    "interval": {"start": "2026-01-01", "end": "2026-02-01"},
    "counts": {"train": 800, "validation": 100, "test": 100, "catalog": 9},
}


def extra(etl_id: str, first: str, last: str, **changes: Any) -> dict[str, Any]:
    said = {"tenant": "t", "etl_id": etl_id, "first_event_date": first, "last_event_date": last, "rows": 10}
    return said | changes


def test_the_loads_of_a_snapshot_are_those_of_its_shop_and_days_newest_first() -> None:
    extras = [
        extra("before", "2025-12-01", "2025-12-31"),
        extra("straddles", "2025-12-30", "2026-01-01"),
        extra("within", "2026-01-05", "2026-01-09"),
        extra("after", "2026-02-01", "2026-02-02"),
        extra("other shop", "2026-01-05", "2026-01-09", tenant="u"),
        extra("straddles", "2025-12-30", "2026-01-01"),
        {"by": "hand"},
        extra("no count", "2026-01-31", "2026-02-09", rows=None),
    ]
    found = loads_of(extras, "t", "2026-01-01", "2026-02-01")
    assert [load.etl_id for load in found] == ["no count", "straddles", "within"]
    assert found[0].rows is None and found[1].rows == 10


def test_the_chain_goes_from_raw_loads_to_the_endpoint() -> None:
    loads = [
        Load(etl_id=f"etl-{n}", first_day=f"2026-01-0{n}", last_day=f"2026-01-0{n}", rows=5) for n in (3, 2)
    ]
    chain = lineage_of(verdict(), TRAINED, MANIFEST, loads, "group", "ml.g5.xlarge", LIVE)
    assert [stage.kind for stage in chain] == [
        "Raw loads",
        "Snapshot",
        "Training job",
        "Model package group",
        "Endpoint",
    ]
    assert chain[0].details == ("2026-01-02 to 2026-01-03", "10 events", "newest etl-3")
    assert chain[1].details == ("2026-01-01 to before 2026-02-01", "1,000 sessions")
    assert chain[2].details == ("ml.g5.xlarge", "6 min 52 s billable")
    assert chain[4].details[-1] == "live when judged: pms-ba9876543210"


@pytest.mark.parametrize(
    ("approved", "registered", "endpoint"),
    [(True, "Approved", "where the run deploys"), (False, "Rejected", "stays as it is")],
)
def test_a_rejected_model_ends_in_the_registry(approved: bool, registered: str, endpoint: str) -> None:
    chain = lineage_of(verdict(approved), TRAINED, None, (), "group", "i", LIVE)
    assert registered in chain[3].details[0] and endpoint in chain[4].details[0]
    assert chain[0].name == "not announced" and chain[1].details == ()


def test_the_search_that_a_model_won_is_named() -> None:
    tuning = Tuning(job_name="pms-search", trials=9, val_mrr=0.2, hyperparameters={})
    trained = TRAINED.model_copy(update={"tuning": tuning})
    chain = lineage_of(verdict(), trained, MANIFEST, (), "group", "i", LIVE)
    assert "best of 9 trials of pms-search" in chain[2].details


ROLLBACKS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str | None]] = {
    "rejected": ({"approved": False}, {}, "nothing to undo", None),
    "approved": ({}, {}, "configuration that was live", "--endpoint-config-name pms-before"),
    "overridden": ({"override_reason": "x"}, {}, "configuration that was live", "--endpoint-config-name"),
    "first deploy": ({"champion": None}, {"config": None}, "Nothing was live before", "delete-endpoint"),
    "nobody knows": ({"champion": None}, {"config": None, "known": False}, "could not be read", "list-"),
    "live but unnamed": ({}, {"config": None}, "could not be read", "list-endpoint-configs"),
    "the same deployment": ({}, {"model_name": "pms-live", "wanted": "pms-before"}, "live already", None),
    "the same job in another image": (
        {"champion": CHAMPION.model_copy(update={"job_name": "pms-0123456789ab"})},
        {"model_name": "pms-other", "wanted": "pms-next"},
        "configuration that was live",
        "--endpoint-config-name pms-before",
    ),
    "the same model on another instance": (
        {},
        {"model_name": "pms-live", "wanted": "pms-next"},
        "configuration that was live",
        "--endpoint-config-name pms-before",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROLLBACKS)
def test_the_way_back_is_told_for_each_case(name: str) -> None:
    changes, state, said, command = ROLLBACKS[name]
    rollback = rollback_of(verdict(**changes), LIVE.model_copy(update=state))
    assert said in rollback.text
    assert any(command in line for line in rollback.commands) if command else rollback.commands == ()
    assert all("--region us-east-1" in line for line in rollback.commands if "NAME" not in line)


def test_a_name_cannot_end_the_command() -> None:
    rollback = rollback_of(verdict(), LIVE.model_copy(update={"config": "x; rm -rf ~", "endpoint": "$(id)"}))
    words = shlex.split(rollback.commands[0])
    assert words[words.index("--endpoint-config-name") + 1] == "x; rm -rf ~"
    assert words[words.index("--endpoint-name") + 1] == "$(id)"

"""The card's section on the data: what a model learnt from, how that has moved, and what dbt's tests say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")
# From good to bad: of a test that several tasks ran, the worst result counts.
PASSED, WARNED, FAILED = range(3)
_OUTCOMES = {"pass": PASSED, "warn": WARNED, "fail": FAILED, "error": FAILED}
_TESTS = ("test.", "unit_test.")


@dataclass(frozen=True)
class DbtTests:
    """What became of dbt's tests: how many passed, which warned, how many failed."""

    passed: int
    warned: tuple[str, ...]
    failed: int


@dataclass(frozen=True)
class Data:
    """What the section shows; whatever could not be had is empty or None.

    Attributes:
        facts: Name and text.
        splits: Name, sessions and interactions.
        unknown_share: Share of the test interactions with a product that no session of the train split holds.
        previous: The snapshot that the data are held against.
        drift: Measure, kind of value, value and band.
        tests: None where the run left no results, as one that uses a snapshot again.
    """

    facts: tuple[tuple[str, object], ...] = ()
    splits: tuple[tuple[str, object, object], ...] = ()
    unknown_share: object = None
    previous: object = None
    drift: tuple[tuple[str, str, object, object], ...] = ()
    tests: DbtTests | None = None


def data_of(
    manifest: Mapping[str, object] | None,
    drift: Mapping[str, object] | None,
    results: Iterable[Mapping[str, object]] | None,
) -> Data:
    """Collects the section from what lies on S3.

    Args:
        manifest: The snapshot's `manifest.json`.
        drift: How it compares with the previous snapshot.
        results: Content of each `run_results.json` of this run.
    """
    made, moved = _mapping(manifest), _mapping(drift)
    interval, split, profile = (_mapping(made.get(name)) for name in ("interval", "split", "profile"))
    counts, described = _mapping(made.get("counts")), _mapping(profile.get("splits"))
    facts = (
        ("First day", interval.get("start")),
        ("Day after the last", interval.get("end")),
        ("Validation from", split.get("validation_start")),
        ("Test from", split.get("test_start")),
    )
    return Data(
        facts=tuple(fact for fact in facts if fact[1] is not None),
        splits=tuple(
            (name, counts.get(name), _mapping(described.get(name)).get("interactions"))
            for name in SPLITS
            if name in counts
        ),
        unknown_share=profile.get("test_unknown_share"),
        previous=moved.get("previous_snapshot_id", "–"),
        drift=tuple(
            (name.replace("_", " "), "ratio" if name == "sessions_per_day" else "PSI", *_value(measure))
            for name, measure in sorted(_mapping(moved.get("measures")).items())
        ),
        tests=count_tests(results) if results else None,
    )


def count_tests(results: Iterable[Mapping[str, object]]) -> DbtTests:
    """Counts the tests of several `run_results.json`; models, and tests that were skipped, are left out."""
    worst: dict[str, int] = {}
    for entry in (entry for content in results for entry in _entries(content)):
        name, outcome = str(entry.get("unique_id")), _OUTCOMES.get(str(entry.get("status")))
        if name.startswith(_TESTS) and outcome is not None:
            worst[name] = max(outcome, worst.get(name, outcome))
    outcomes = list(worst.values())
    warned = sorted(_short_name(name) for name, outcome in worst.items() if outcome == WARNED)
    return DbtTests(outcomes.count(PASSED), tuple(warned), outcomes.count(FAILED))


def _entries(content: Mapping[str, object]) -> list[Mapping[str, object]]:
    entries = _mapping(content).get("results")
    return [_mapping(entry) for entry in entries] if isinstance(entries, list) else []


def _short_name(unique_id: str) -> str:
    """The name within `test.<project>.<name>.<hash>`."""
    return (unique_id.split(".") + [unique_id] * 2)[2]


def _value(measure: object) -> tuple[object, object]:
    return _mapping(measure).get("value"), _mapping(measure).get("level", "–")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}

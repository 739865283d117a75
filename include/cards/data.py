"""The card's section on the data: what a model learnt from, how that has moved, and what dbt's tests say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from include.cards.text import DASH, finite, mapping, shorten
from include.contracts import Contract

SPLITS = ("train", "validation", "test")
# From good to bad: of a test that several tasks ran, the worst result counts.
PASSED, WARNED, FAILED = range(3)
MOST_NAMES = 20
MOST_DAYS = 3650
_OUTCOMES = {"pass": PASSED, "warn": WARNED, "fail": FAILED, "error": FAILED}
_TESTS = ("test.", "unit_test.")


class DbtTests(Contract):
    """What became of dbt's tests: how many passed, warned and failed; the first of the last two by name."""

    passed: int
    warned: int = 0
    failed: int = 0
    warned_names: tuple[str, ...] = ()
    failed_names: tuple[str, ...] = ()


class SplitSize(Contract):
    """Size of one split; None where the manifest does not say."""

    name: str
    sessions: int | None
    interactions: int | None = None


class Moved(Contract):
    """How one measure of the data has moved: `kind` of value, value and band."""

    name: str
    kind: str
    value: float | None
    band: str


class Data(Contract):
    """What the section shows; whatever could not be had is empty or None.

    Attributes:
        facts: Name and text.
        unknown_share: Share of the test interactions with a product that no session of the train split holds.
        days: Sessions by day, in order.
        validation_start: ISO moment at which validation begins.
        test_start: The same of the test.
        previous: The snapshot that the data are held against.
        tests: None where the run left no results, as one that uses a snapshot again.
    """

    facts: tuple[tuple[str, str], ...] = ()
    splits: tuple[SplitSize, ...] = ()
    unknown_share: float | None = None
    days: tuple[tuple[str, int], ...] = ()
    validation_start: str | None = None
    test_start: str | None = None
    previous: str | None = None
    drift: tuple[Moved, ...] = ()
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
    made, moved = mapping(manifest), mapping(drift)
    split, profile = mapping(made.get("split")), mapping(made.get("profile"))
    counts, described = mapping(made.get("counts")), mapping(profile.get("splits"))
    previous = moved.get("previous_snapshot_id")
    return Data(
        facts=_facts(made),
        splits=tuple(
            SplitSize(
                name=name,
                sessions=_count(counts.get(name)),
                interactions=_count(mapping(described.get(name)).get("interactions")),
            )
            for name in SPLITS
            if name in counts
        ),
        unknown_share=finite(profile.get("test_unknown_share")),
        days=_days(profile.get("sessions_per_day")),
        validation_start=_text(split.get("validation_start")),
        test_start=_text(split.get("test_start")),
        previous=None if previous is None else shorten(previous),
        drift=tuple(
            Moved(
                name=shorten(name.replace("_", " ")),
                kind="ratio" if name == "sessions_per_day" else "PSI",
                value=finite(mapping(measure).get("value")),
                band=shorten(mapping(measure).get("level", DASH), 20),
            )
            for name, measure in sorted(mapping(moved.get("measures")).items())[:MOST_NAMES]
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
    named = {
        level: sorted(_short_name(name) for name, outcome in worst.items() if outcome == level)
        for level in (PASSED, WARNED, FAILED)
    }
    return DbtTests(
        passed=len(named[PASSED]),
        warned=len(named[WARNED]),
        failed=len(named[FAILED]),
        warned_names=tuple(named[WARNED][:MOST_NAMES]),
        failed_names=tuple(named[FAILED][:MOST_NAMES]),
    )


def _facts(made: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    interval, split = mapping(made.get("interval")), mapping(made.get("split"))
    catalogue = mapping(mapping(made.get("profile")).get("catalogue"))
    products, priced = _count(catalogue.get("products")), finite(catalogue.get("with_price"))
    categorised = finite(catalogue.get("with_category"))
    facts = (
        ("Shop", made.get("tenant")),
        ("First day", interval.get("start")),
        ("Day after the last", interval.get("end")),
        ("Validation from", split.get("validation_start")),
        ("Test from", split.get("test_start")),
        ("Products", None if products is None else f"{products:,}"),
        ("Products with a category", None if categorised is None else f"{categorised:.0%}"),
        ("Products with a price", None if priced is None else f"{priced:.0%}"),
    )
    return tuple((name, shorten(value)) for name, value in facts if value is not None)


def _days(counts: object) -> tuple[tuple[str, int], ...]:
    found = [(shorten(day, 10), _count(count)) for day, count in sorted(mapping(counts).items())]
    return tuple((day, count) for day, count in found[-MOST_DAYS:] if count is not None and count >= 0)


def _entries(content: Mapping[str, object]) -> list[Mapping[str, object]]:
    entries = mapping(content).get("results")
    return [mapping(entry) for entry in entries] if isinstance(entries, list) else []


def _short_name(unique_id: str) -> str:
    """The name within `test.<project>.<name>.<hash>`."""
    return shorten((unique_id.split(".") + [unique_id] * 2)[2])


def _count(value: object) -> int | None:
    found = finite(value)
    return None if found is None else int(found)


def _text(value: object) -> str | None:
    return None if value is None else shorten(value)

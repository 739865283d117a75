from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from include.contracts import SettingsError, TrainedModel, Verdict
from include.gate.verdict import Rules, apply_rules, as_table, decide, load_rules, parse_report

TRAINED = TrainedModel(
    job_name="pms-0123456789ab",
    job_arn="arn:aws:sagemaker:us-east-1:123456789012:training-job/pms-0123456789ab",
    snapshot_id="snap",
    model_uri="s3://b/m/model.tar.gz",
    evaluation_uri="s3://b/m/output.tar.gz",
    billable_seconds=1,
)
SATURATED = {"check": "hit", "baseline": "pop"}
FLOOR = {"name": "floor", "check": "hit", "at_least": 0.1, "why": "Because."}


def rules(*changes: dict[str, Any]) -> Rules:
    return Rules.model_validate({"version": 3, "rules": [FLOOR | change for change in changes or ({},)]})


def report(**check: Any) -> str:
    measured = {"name": "hit", "value": 0.3, "sample_size": 500, "interval": [0.25, 0.35]} | check
    return json.dumps({"schema_version": 1, "checks": [measured]})


def judge(text: str | None, chosen: Rules | None = None, override: str | None = None) -> Verdict:
    return decide(text, chosen or rules(), TRAINED, "s3://b/report.json", override)


# What the check reports, what the rule demands, and the outcome.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "above": ({}, {}, "passed"),
    "exactly_at_the_bound": ({"value": 0.1}, {}, "passed"),
    "below": ({"value": 0.0999}, {}, "failed"),
    "at_most_below": ({}, {"at_least": None, "at_most": 0.5}, "passed"),
    "at_most_above": ({"value": 0.6}, {"at_least": None, "at_most": 0.5}, "failed"),
    "at_most_zero": ({"value": 0.0}, {"at_least": None, "at_most": 0}, "passed"),
    "value_missing": ({"value": None}, {}, "failed"),
    "value_nan": ({"value": math.nan}, {}, "failed"),
    "value_infinite": ({"value": math.inf}, {}, "failed"),
    "nan_at_most": ({"value": math.nan}, {"at_least": None, "at_most": 0.5}, "failed"),
    "too_few": ({"sample_size": 99}, {}, "failed"),
    "just_enough": ({"sample_size": 100}, {}, "passed"),
    "crashed": ({"error": "KeyError: 'x'"}, {}, "failed"),
    "not_reported": ({"name": "other"}, {}, "failed"),
    "interval_low_above": ({}, {"measure": "interval_low", "at_least": 0.25}, "passed"),
    "interval_low_below": ({}, {"measure": "interval_low", "at_least": 0.26}, "failed"),
    "interval_high": ({}, {"measure": "interval_high", "at_least": 0.34}, "passed"),
    "interval_missing": ({"interval": None}, {"measure": "interval_low"}, "failed"),
    "interval_end_missing": ({"interval": [None, 0.4]}, {"measure": "interval_low"}, "failed"),
    "interval_end_nan": ({"interval": [math.nan, 0.4]}, {"measure": "interval_low"}, "failed"),
    "baseline_beaten": (
        {"baselines": {"pop": 0.2}},
        {"at_least": 1.1, "times": {"baseline": "pop"}},
        "passed",
    ),
    "baseline_not_beaten": (
        {"baselines": {"pop": 0.28}},
        {"at_least": 1.1, "times": {"baseline": "pop"}},
        "failed",
    ),
    "baseline_missing": ({}, {"at_least": 1.1, "times": {"baseline": "pop"}}, "failed"),
    "baseline_nan": (
        {"baselines": {"pop": math.nan}},
        {"at_least": 1.1, "times": {"baseline": "pop"}},
        "failed",
    ),
    "baseline_finds_everything_in_a_tiny_shop": (
        {"value": 0.99, "baselines": {"pop": 0.97}},
        {"times": {"baseline": "pop"}, "at_least": 1.1, "unless": {**SATURATED, "above": 0.85}},
        "skipped",
    ),
    "baseline_finds_much_but_not_everything": (
        {"value": 0.7, "baselines": {"pop": 0.8}},
        {"times": {"baseline": "pop"}, "at_least": 1.1, "unless": {**SATURATED, "above": 0.85}},
        "failed",
    ),
    "unknown_baseline_excuses_nothing": ({"value": 0.01}, {"unless": {**SATURATED, "above": 0.85}}, "failed"),
    "other_check_missing": ({}, {"times": {"check": "nope"}}, "failed"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_applied(name: str) -> None:
    measured, change, expected = CASES[name]
    verdict = judge(report(**measured), rules(change))
    (check,) = verdict.checks
    assert check.status == expected
    assert verdict.approved is (expected != "failed")
    assert check.reason
    json.dumps(verdict.to_xcom(), allow_nan=False)


SLICES = {
    "big": {"value": 0.3, "sample_size": 300},
    "poor": {"value": 0.01, "sample_size": 150},
    "few": {"value": 0.0, "sample_size": 20},
    "cold": {"value": 0.0, "sample_size": 400},
    "nan": {"value": None, "sample_size": 400},
}


def test_each_slice_is_judged_by_itself() -> None:
    rule = {"each_slice": True, "times": {"check": "hit"}, "exempt": {"cold": "Cannot be learned."}}
    verdict = judge(report(slices=SLICES), rules(rule))
    assert {check.name: check.status for check in verdict.checks} == {
        "floor[big]": "passed",
        "floor[poor]": "failed",
        "floor[few]": "skipped",
        "floor[cold]": "skipped",
        "floor[nan]": "failed",
    }
    reasons = {check.name: check.reason for check in verdict.checks}
    assert reasons["floor[cold]"] == "Cannot be learned."
    assert "too few" in reasons["floor[few]"]


def test_a_rule_on_slices_fails_where_there_are_none() -> None:
    assert not judge(report(), rules({"each_slice": True})).approved


def test_skipped_slices_alone_do_not_reject() -> None:
    assert judge(report(slices={"few": SLICES["few"]}), rules({"each_slice": True})).approved


GOOD = report()
UNREADABLE = {
    "absent": None,
    "empty": "",
    "truncated": GOOD[: len(GOOD) // 2],
    "not_json": "<html>",
    "no_checks": '{"schema_version": 1}',
    "another_version": GOOD.replace('"schema_version": 1', '"schema_version": 2'),
    "a_list": "[]",
    "deeply_nested": "[" * 100_000,
    "value_is_text": report(value="high"),
    "negative_sample": report(sample_size=-1),
    "same_check_twice": json.dumps({"schema_version": 1, "checks": [{"name": "hit"}, {"name": "hit"}]}),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_report_closes_every_rule_with_a_reason(name: str) -> None:
    verdict = judge(UNREADABLE[name], load_rules())
    assert not verdict.approved
    assert len(verdict.failures) == len(verdict.checks) == len(load_rules().rules)
    assert all("report" in check.reason for check in verdict.checks)
    assert verdict.metrics == {}


@pytest.mark.parametrize("reason", [None, "", "  \n\t "])
def test_an_override_without_a_reason_is_none(reason: str | None) -> None:
    verdict = judge(report(value=0.0), override=reason)
    assert not verdict.approved
    assert verdict.override_reason is None


def test_an_override_with_a_reason_approves_and_is_recorded() -> None:
    verdict = judge(report(value=0.0), override="  Agreed with the shop for the sale. ")
    assert verdict.approved
    assert verdict.override_reason == "Agreed with the shop for the sale."
    assert verdict.failures, "the failed rules stay on record"


def test_an_override_that_was_not_needed_is_not_recorded() -> None:
    verdict = judge(report(), override="just in case")
    assert verdict.approved
    assert verdict.override_reason is None


def test_the_shipped_rules_judge_only_what_the_suite_measures() -> None:
    room = Path(__file__).resolve().parents[2] / "include" / "gate" / "behaviour"
    suite = "".join(path.read_text() for path in room.glob("*.py"))
    named = {rule.check for rule in load_rules().rules}
    named |= {rule.times.check for rule in load_rules().rules if rule.times and rule.times.check}
    assert {name for name in named if f'@check("{name}")' not in suite} == set()


def test_the_shipped_rules_reject_an_empty_report() -> None:
    verdict = judge('{"schema_version": 1, "checks": []}', load_rules())
    assert len(verdict.failures) == len(load_rules().rules)


@pytest.mark.parametrize(
    "change",
    [
        {"at_least": None},
        {"at_most": 0.2},
        {"at_least": math.nan},
        {"measure": "median"},
        {"times": {}},
        {"times": {"baseline": "a", "check": "b"}},
        {"exempt": {"cold": "x"}},
        {"at_leats": 0.2},
        {"why": ""},
    ],
    ids=str,
)
def test_a_mistake_in_the_rules_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"version": 1, "rules": [FLOOR | change]}).replace("NaN", ".nan"))
    with pytest.raises(SettingsError, match=r"rules\.yaml"):
        load_rules(file)


@pytest.mark.parametrize(
    "text", ["", "version: 1", "version: 1\nrules: []", "a: [", "version: 0\nrules: [x]"]
)
def test_a_broken_rules_file_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError):
        load_rules(file)


def test_two_rules_of_one_name_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"version": 1, "rules": [FLOOR, FLOOR]}))
    with pytest.raises(SettingsError, match="same name"):
        load_rules(file)


def test_the_table_names_status_value_bound_and_reasons() -> None:
    text = as_table(judge(report(value=0.05)))
    assert "FAILED" in text and "0.0500" in text and "0.1000" in text and "n=500" in text
    assert "Because." in text


def test_checks_carry_value_bound_sample_and_interval() -> None:
    (check,) = apply_rules(rules(), parse_report(report()))
    assert (check.value, check.bound, check.sample_size, check.interval) == (0.3, 0.1, 500, (0.25, 0.35))

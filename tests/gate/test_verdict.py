from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from include.contracts import Champion, SettingsError, Verdict
from include.gate.report import parse_report
from include.gate.rival import NOTHING_LIVE, Rival
from include.gate.rules import Rules, load_rules
from include.gate.verdict import apply_rules, as_table, decide
from tests.gate.measuring import TRAINED

SATURATED = {"check": "hit", "baseline": "pop"}
COMPARABLE = {"check": "knows", "at_least": 0.5}
LIVE = Rival(champion=Champion(model_name="pms-live", model_uri="s3://b/live/model.tar.gz"))
FLOOR = {"name": "floor", "check": "hit", "at_least": 0.1, "why": "Because."}


def rules(*changes: dict[str, Any]) -> Rules:
    chosen = [FLOOR | change for change in changes or ({},)]
    return Rules.model_validate({"version": 3, "comparable": COMPARABLE, "rules": chosen})


def report(*others: dict[str, Any], **check: Any) -> str:
    measured = {"name": "hit", "value": 0.3, "sample_size": 500, "interval": [0.25, 0.35]} | check
    return json.dumps({"schema_version": 1, "checks": [measured, *others]})


def judge(
    text: str | None, chosen: Rules | None = None, override: str | None = None, rival: Rival = NOTHING_LIVE
) -> Verdict:
    return decide(text, chosen or rules(), TRAINED, "s3://b/report.json", override, rival)


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
    "too_few_where_that_is_excused": ({"sample_size": 99}, {"too_few": "skipped"}, "skipped"),
    "no_sample_needed": ({"sample_size": 0}, {"min_sample": 0}, "passed"),
    "warning_above": ({}, {"severity": "warn"}, "passed"),
    "warning_below": ({"value": 0.01}, {"severity": "warn"}, "warned"),
    "warning_nan": ({"value": math.nan}, {"severity": "warn"}, "warned"),
    "warning_crashed": ({"error": "KeyError: 'x'"}, {"severity": "warn"}, "warned"),
    "warning_not_reported": ({"name": "other"}, {"severity": "warn"}, "warned"),
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


def test_a_rule_on_slices_may_excuse_that_there_are_none() -> None:
    verdict = judge(report(), rules({"each_slice": True, "too_few": "skipped"}))
    assert [check.status for check in verdict.checks] == ["skipped"]


@pytest.mark.parametrize(("sessions", "status"), [(None, "failed"), (30, "failed"), (29, "skipped")])
def test_a_slice_of_few_sessions_is_luck(sessions: int | None, status: str) -> None:
    slices = {"poor": SLICES["poor"] | {"sample_size": 350, "sessions": sessions}}
    (check,) = judge(report(slices=slices), rules({"each_slice": True})).checks
    assert check.status == status
    assert ("of 29 sessions are too few" in check.reason) is (status == "skipped")


def shipped(name: str, **check: Any) -> Any:
    """Applies one rule as it is shipped."""
    (rule,) = [rule for rule in load_rules().rules if rule.name == name]
    text = report(**({"name": rule.check} | check))
    (applied,) = judge(
        text, Rules.model_validate({"version": 1, "comparable": COMPARABLE, "rules": [rule]})
    ).checks
    return applied


@pytest.mark.parametrize("name", ["enough_queries", "enough_sessions"])
def test_too_few_are_told_with_the_bound_and_why(name: str) -> None:
    check = shipped(name, value=20.0, sample_size=20)
    assert check.status == "failed" and "is 20, needs >=" in check.reason and "longer window" in check.reason


@pytest.mark.parametrize(("milliseconds", "slow", "dead"), [
    (150.0, "passed", "passed"), (900.0, "warned", "passed"), (1100.0, "warned", "failed"),
])  # fmt: skip
def test_a_busy_machine_does_not_reject_a_model(milliseconds: float, slow: str, dead: str) -> None:
    assert shipped("answers_in_time", value=milliseconds).status == slow
    assert shipped("answers_at_all", value=milliseconds).status == dead


def test_percentiles_are_not_called_confidence() -> None:
    check = shipped(
        "answers_in_time_nearly_always", value=50.0, interval=[20, 300], interval_kind="percentiles"
    )
    assert "(90th percentile) is 300" in check.reason and "95 %" not in check.reason
    assert check.interval_kind == "percentiles"


def test_a_hostile_slice_name_is_one_short_line() -> None:
    nasty = "\x1b[31mred\nFAILED all" + "x" * 5000
    (check,) = judge(report(slices={nasty: SLICES["big"]}), rules({"each_slice": True})).checks
    assert len(check.name) < 80 and check.name.isprintable()


def test_skipped_slices_alone_do_not_reject() -> None:
    assert judge(report(slices={"few": SLICES["few"]}), rules({"each_slice": True})).approved


# Beside the live model: what the suite reports, what the rule demands, the outcome, words of its reason.
MARGIN = {"needs": "champion", "at_least": -0.1, "times": {"champion": "hit"}}
SURE = MARGIN | {"measure": "interval_low"}
SHARP = SURE | {"only_if_sharp": True}
KNOWS = {"name": "knows", "value": 1.0, "sample_size": 500}
LOSS: dict[str, Any] = {"name": "loss", "value": -0.01, "interval": [-0.02, 0.0], "sample_size": 500}
BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a_little_worse": ({}, MARGIN, "passed", "-0.1 x the live model's hit"),
    "equal": ({"value": 0.0, "interval": [0.0, 0.0]}, SHARP, "passed", ""),
    "much_worse": ({"value": -0.06}, MARGIN, "failed", "Because."),
    "perhaps_much_worse": ({"interval": [-0.06, 0.02]}, SURE, "failed", "lower 95 % end"),
    "surely_not_much_worse": ({}, SURE, "passed", ""),
    "sharp_and_surely_not_much_worse": ({}, SHARP, "passed", ""),
    "sharp_and_worse": ({"value": -0.06, "interval": [-0.065, -0.055]}, SHARP, "failed", "Because."),
    "too_blunt_to_say": ({"interval": [-0.06, 0.02]}, SHARP, "skipped", "cannot tell"),
    "blunt_and_surely_much_worse": ({"value": -0.2, "interval": [-0.3, -0.1]}, SHARP, "failed", "Because."),
    "no_interval_is_not_blunt": ({"interval": None}, SHARP, "failed", "missing"),
    "not_a_number": ({"value": math.nan}, MARGIN, "failed", "missing"),
    "not_reported": ({"name": "other"}, MARGIN, "failed", "did not report"),
    "the_live_model_crashed": ({"error": "OSError: no SavedModel"}, MARGIN, "failed", "crashed"),
    "a_warning": ({"value": -0.06}, MARGIN | {"severity": "warn"}, "warned", "Because."),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_rule_beside_the_live_model(name: str) -> None:
    change, rule, expected, words = BESIDE[name]
    text = report(LOSS | change, KNOWS, champion=0.5)
    (check,) = judge(text, rules(rule | {"check": "loss"}), rival=LIVE).checks
    assert check.status == expected
    assert words in check.reason


@pytest.mark.parametrize("champion", [None, math.nan])
def test_a_live_model_without_a_value_fails_what_is_measured_by_it(champion: float | None) -> None:
    text = report(LOSS, KNOWS, champion=champion)
    (check,) = judge(text, rules(MARGIN | {"check": "loss"}), rival=LIVE).checks
    assert check.status == "failed" and "the live model's hit is missing" in check.reason


BROKEN = LIVE.model_copy(update={"fault": "It is broken."})
# Which rival, what `champion_knows` says, and what becomes of a rule that needs it.
RIVALS: dict[str, tuple[Rival, dict[str, Any], str, str]] = {
    "first_deploy": (NOTHING_LIVE, KNOWS, "skipped", "first deploy"),
    "artefact_broken": (BROKEN, KNOWS, "failed", "It is broken."),
    "another_catalogue": (LIVE, KNOWS | {"value": 0.49}, "skipped", "49% of these queries"),
    "half_the_catalogue": (LIVE, KNOWS | {"value": 0.5}, "failed", "Because."),
    "unknown_what_it_knows": (LIVE, KNOWS | {"value": None}, "failed", "Because."),
    "that_check_crashed": (LIVE, KNOWS | {"value": 0.1, "error": "boom"}, "failed", "Because."),
    "that_check_is_missing": (LIVE, {"name": "x"}, "failed", "Because."),
}


@pytest.mark.parametrize("name", RIVALS)
def test_rules_that_need_a_live_model_without_a_fit_one(name: str) -> None:
    rival, knows, expected, words = RIVALS[name]
    text = report(LOSS | {"value": -0.3}, knows, champion=0.5)
    needing, other = judge(text, rules(MARGIN | {"check": "loss"}, {"name": "other"}), rival=rival).checks
    assert needing.status == expected and words in needing.reason
    assert other.status == "passed"


def test_no_live_model_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="must be a reason"):
        Rival()


def loss(difference: float | None, high: float | None, champion: float | None = 0.5, n: int = 500) -> Any:
    ends = [None if high is None else high - 0.1, high]
    part = {"value": 0.4, "interval": [0.3, 0.5], "sample_size": n, "champion": champion}
    return part | {"difference": difference, "difference_interval": ends}


def test_each_slice_is_held_against_the_live_model_s_own() -> None:
    slices = {
        "same": loss(0.0, 0.05),
        "perhaps_worse": loss(-0.15, -0.09),
        "surely_worse": loss(-0.2, -0.15),
        "worse_of_little": loss(-0.05, -0.02, champion=0.1),
        "little_of_little": loss(-0.015, -0.005, champion=0.1),
        "few": loss(-0.4, -0.3, n=99),
        "live_missing": loss(0.0, 0.05, champion=None),
        "difference_missing": loss(None, None),
    }
    rule = {"each_slice": True, "needs": "champion", "measure": "difference_high"}
    rule |= {"at_least": -0.2, "times": {"champion": "hit"}}
    checks = judge(report(KNOWS, slices=slices), rules(rule), rival=LIVE).checks
    assert {check.name.removeprefix("floor"): check.status for check in checks} == {
        "[same]": "passed",
        "[perhaps_worse]": "passed",
        "[surely_worse]": "failed",
        "[worse_of_little]": "passed",
        "[little_of_little]": "passed",
        "[few]": "skipped",
        "[live_missing]": "failed",
        "[difference_missing]": "failed",
    }
    worst = next(check for check in checks if "surely" in check.name)
    assert (worst.value, worst.bound) == (-0.15, -0.1)
    assert worst.interval == pytest.approx((-0.25, -0.15))
    assert "less the live model's (upper 95 % end)" in worst.reason


def test_the_verdict_names_the_live_model_and_its_metrics() -> None:
    text = report({"name": "hit_rate@20", "value": 0.3, "champion": 0.2, "baselines": {"popularity": 0.1}})
    verdict = judge(text, rival=LIVE)
    assert verdict.champion == LIVE.champion
    assert verdict.baselines == {"champion": {"hit_rate@20": 0.2}, "popularity": {"hit_rate@20": 0.1}}


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
    times = [rule.times for rule in load_rules().rules if rule.times]
    named |= {name for other in times for name in (other.check, other.champion) if name}
    named.add(load_rules().comparable.check)
    assert {name for name in named if f'@check("{name}")' not in suite} == set()


def test_an_empty_report_passes_no_shipped_rule() -> None:
    verdict = judge('{"schema_version": 1, "checks": []}', load_rules())
    assert not verdict.approved
    assert {check.status for check in verdict.checks} == {"failed", "warned", "skipped"}
    assert all("first deploy" in check.reason for check in verdict.checks if check.status == "skipped")
    failed = [check for check in verdict.checks if check.status == "failed"]
    assert len(failed) == sum(not rule.needs and rule.severity == "fail" for rule in load_rules().rules)


@pytest.mark.parametrize(
    "change",
    [
        {"at_least": None},
        {"at_most": 0.2},
        {"at_least": math.nan},
        {"measure": "median"},
        {"times": {}},
        {"times": {"baseline": "a", "check": "b"}},
        {"times": {"baseline": "a", "champion": "b"}, "needs": "champion"},
        {"times": {"champion": "hit"}},
        {"needs": "luck"},
        {"severity": "shrug"},
        {"measure": "difference", "needs": "champion"},
        {"measure": "difference_low", "each_slice": True},
        {"measure": "interval_low", "only_if_sharp": True},
        {"at_least": -0.1, "only_if_sharp": True},
        {"too_few": "passed"},
        {"exempt": {"cold": "x"}},
        {"min_sessions": 10},
        {"at_leats": 0.2},
        {"why": ""},
    ],
    ids=str,
)
def test_a_mistake_in_the_rules_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        json.dumps({"version": 1, "comparable": COMPARABLE, "rules": [FLOOR | change]}).replace("NaN", ".nan")
    )
    with pytest.raises(SettingsError, match=r"rules\.yaml"):
        load_rules(file)


@pytest.mark.parametrize(
    "text", ["", "version: 1", "version: 1\nrules: []", "a: [", "version: 0\nrules: [x]", "a: &b\n  <<: *b"]
)
def test_a_broken_rules_file_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError):
        load_rules(file)


def test_two_rules_of_one_name_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"version": 1, "comparable": COMPARABLE, "rules": [FLOOR, FLOOR]}))
    with pytest.raises(SettingsError, match="same name"):
        load_rules(file)


def test_the_table_tells_of_warnings() -> None:
    text = as_table(judge(report(value=0.05), rules({"severity": "warn"})))
    assert "WARNED" in text and "Warned because:" in text and "Failed because:" not in text


def test_the_table_names_status_value_bound_and_reasons() -> None:
    text = as_table(judge(report(value=0.05)))
    assert "FAILED" in text and "0.0500" in text and "0.1000" in text and "n=500" in text
    assert "Because." in text


def test_checks_carry_value_bound_sample_and_interval() -> None:
    (check,) = apply_rules(rules(), parse_report(report()))
    assert (check.value, check.bound, check.sample_size, check.interval) == (0.3, 0.1, 500, (0.25, 0.35))

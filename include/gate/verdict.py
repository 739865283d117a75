"""Holds the suite's report against the rules. Pure: no Airflow, no data frames, no network."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from include.contracts import Check, Contract, SettingsError, TrainedModel, Verdict

RULES_FILE = Path(__file__).with_name("rules.yaml")
SUPPORTED_REPORT = 1
# Shown beside the verdict; the model's own values of these are its headline.
HEADLINE = ("hit_rate@10", "mrr@10", "hit_rate@20", "mrr@20", "coverage@20", "popularity_bias@20")


class Reference(Contract):
    """What a rule's bound is multiplied by: a baseline of the same check, or another check's value."""

    baseline: str | None = None
    check: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Reference:
        if (self.baseline is None) == (self.check is None):
            raise ValueError("times needs either a baseline or a check")
        return self


class Saturation(Contract):
    """A baseline that finds nearly everything, so that a lead over it cannot be measured."""

    check: str
    baseline: str
    above: float = Field(gt=0, lt=1)


class Rule(Contract):
    """One line of `rules.yaml`, where the fields are explained."""

    name: str = Field(min_length=1)
    check: str = Field(min_length=1)
    why: str = Field(min_length=1)
    measure: Literal["value", "interval_low", "interval_high"] = "value"
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)
    times: Reference | None = None
    each_slice: bool = False
    exempt: dict[str, str] = Field(default_factory=dict)
    unless: Saturation | None = None
    min_sample: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _exactly_one_bound(self) -> Rule:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"rule {self.name} needs either at_least or at_most")
        if self.exempt and not self.each_slice:
            raise ValueError(f"rule {self.name} exempts slices but has no each_slice")
        return self

    @property
    def comparison(self) -> Literal[">=", "<="]:
        """How the value is compared with the bound."""
        return ">=" if self.at_most is None else "<="

    @property
    def limit(self) -> float:
        """The bound before it is multiplied."""
        limit = self.at_least if self.at_most is None else self.at_most
        assert limit is not None  # the validator saw to it
        return limit


class Rules(Contract):
    """All of `rules.yaml`."""

    version: int = Field(ge=1)
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique_names(self) -> Rules:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have the same name")
        return self


class ReportModel(BaseModel):
    """Base of the report's parts: frozen; unknown fields are left for later suites to add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Measurement(ReportModel):
    """A value with what it rests on; of a whole check or of one of its slices."""

    value: float | None = None
    sample_size: int = Field(0, ge=0)
    interval: tuple[float | None, float | None] | None = None

    def read(self, measure: str) -> float | None:
        """Returns the value or an end of its interval; None where it is missing or not finite."""
        if measure == "value":
            return _finite(self.value)
        low, high = self.interval or (None, None)
        return _finite(low if measure == "interval_low" else high)


class CheckReport(Measurement):
    """One check of the suite's report."""

    name: str
    description: str = ""
    baselines: dict[str, float | None] = Field(default_factory=dict)
    slices: dict[str, Measurement] = Field(default_factory=dict)
    error: str | None = None


class Example(ReportModel):
    """One test query with the model's answer."""

    session: tuple[str, ...]
    target: str
    predictions: tuple[str, ...]
    rank: int


class Report(ReportModel):
    """What the suite measured."""

    schema_version: int
    checks: tuple[CheckReport, ...]
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, name: str) -> CheckReport | None:
        """Returns the check of that name, None where the suite did not report it."""
        return next((check for check in self.checks if check.name == name), None)


class ReportError(Exception):
    """The suite's report cannot be read; the verdict is then closed."""


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def load_rules(path: Path = RULES_FILE) -> Rules:
    """Reads the rules.

    Raises:
        SettingsError: The file is not valid YAML or not valid rules.
    """
    try:
        return Rules.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"{path.name} is not a valid set of rules: {error}") from error


def parse_report(text: str) -> Report:
    """Reads the suite's report.

    Raises:
        ReportError: It is truncated, not JSON, of another version, or lacks what it must have.
    """
    try:
        report = Report.model_validate(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"The suite's report cannot be read: {str(error)[:300]}") from error
    if report.schema_version != SUPPORTED_REPORT:
        raise ReportError(f"The suite's report has version {report.schema_version}, not {SUPPORTED_REPORT}.")
    names = [check.name for check in report.checks]
    if len(set(names)) != len(names):
        raise ReportError("The suite's report has the same check twice.")
    return report


def apply_rules(rules: Rules, report: Report) -> tuple[Check, ...]:
    """Holds every rule against the report.

    Returns:
        One check per rule, or per slice for rules on slices; what cannot be judged has failed.
    """
    return tuple(check for rule in rules.rules for check in _apply(rule, report))


def closed(rules: Rules, reason: str) -> tuple[Check, ...]:
    """Returns every rule as failed for one reason, for when there is nothing to judge by."""
    return tuple(_check(rule, rule.name, "failed", reason) for rule in rules.rules)


def _apply(rule: Rule, report: Report) -> list[Check]:
    measured = report.find(rule.check)
    if measured is None:
        return [_check(rule, rule.name, "failed", f"The suite did not report {rule.check}.")]
    if measured.error is not None:
        return [_check(rule, rule.name, "failed", f"{rule.check} crashed: {measured.error}")]
    if rule.unless is not None and (saturated := _saturated(rule.unless, report)):
        return [_check(rule, rule.name, "skipped", saturated, measured)]
    factor = _factor(rule, measured, report)
    if not rule.each_slice:
        return [_judge(rule, rule.name, measured, factor)]
    if not measured.slices:
        return [_check(rule, rule.name, "failed", f"{rule.check} has no slices.")]
    return [_judge_slice(rule, name, part, factor) for name, part in measured.slices.items()]


def _saturated(unless: Saturation, report: Report) -> str | None:
    """Returns why a rule cannot be applied, or None; an unknown baseline saturates nothing."""
    measured = report.find(unless.check)
    value = None if measured is None else _finite(measured.baselines.get(unless.baseline))
    if value is None or value <= unless.above:
        return None
    return (
        f"{unless.baseline} alone reaches a {unless.check} of {value:.3g}: the catalogue is so small that "
        "no lead over it can show. The ranking rules decide."
    )


def _factor(rule: Rule, measured: CheckReport, report: Report) -> float | None:
    if rule.times is None:
        return 1.0
    if rule.times.baseline is not None:
        return _finite(measured.baselines.get(rule.times.baseline))
    other = report.find(rule.times.check or "")
    return None if other is None else other.read("value")


def _judge_slice(rule: Rule, name: str, part: Measurement, factor: float | None) -> Check:
    label = f"{rule.name}[{name}]"
    if name in rule.exempt:
        return _check(rule, label, "skipped", rule.exempt[name], part)
    if part.sample_size < rule.min_sample:
        reason = f"{part.sample_size} queries are too few to judge by (needs {rule.min_sample})."
        return _check(rule, label, "skipped", reason, part)
    return _judge(rule, label, part, factor)


def _judge(rule: Rule, label: str, measured: Measurement, factor: float | None) -> Check:
    if measured.sample_size < rule.min_sample:
        reason = f"{measured.sample_size} queries are too few to judge by (needs {rule.min_sample})."
        return _check(rule, label, "failed", reason, measured)
    value = measured.read(rule.measure)
    if value is None:
        return _check(rule, label, "failed", f"{rule.check} is missing or not a finite number.", measured)
    if factor is None:
        return _check(rule, label, "failed", f"{_times(rule)} is missing or not a finite number.", measured)
    bound = rule.limit * factor
    passed = value >= bound if rule.comparison == ">=" else value <= bound
    sentence = f"{_what(rule)} is {value:.4g}, needs {rule.comparison} {bound:.4g}{_origin(rule)}."
    status: Literal["passed", "failed"] = "passed" if passed else "failed"
    return _check(rule, label, status, sentence if passed else f"{sentence} {rule.why}", measured, bound)


def _what(rule: Rule) -> str:
    if rule.measure == "value":
        return rule.check
    return f"{rule.check} ({'lower' if rule.measure == 'interval_low' else 'upper'} 95 % end)"


def _times(rule: Rule) -> str:
    assert rule.times is not None  # only asked for a multiplied bound
    if rule.times.baseline is not None:
        return f"{rule.times.baseline}'s {rule.check}"
    return str(rule.times.check)


def _origin(rule: Rule) -> str:
    return "" if rule.times is None else f" ({rule.limit:g} x {_times(rule)})"


def _check(
    rule: Rule,
    label: str,
    status: Literal["passed", "failed", "skipped"],
    reason: str,
    measured: Measurement | None = None,
    bound: float | None = None,
) -> Check:
    measured = measured or Measurement()
    low, high = (_finite(end) for end in measured.interval or (None, None))
    if bound is None and rule.times is None:
        bound = rule.limit
    return Check(
        name=label,
        status=status,
        value=measured.read(rule.measure),
        comparison=rule.comparison,
        bound=bound,
        sample_size=measured.sample_size,
        interval=None if low is None or high is None else (low, high),
        reason=reason,
    )


def _headline(report: Report) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    metrics: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    for name in HEADLINE:
        measured = report.find(name)
        if measured is None:
            continue
        value = measured.read("value")
        if value is not None:
            metrics[name] = value
        for method, other in measured.baselines.items():
            if other is not None and math.isfinite(other):
                baselines.setdefault(method, {})[name] = other
    return metrics, baselines


def decide(
    report_text: str | None,
    rules: Rules,
    trained: TrainedModel,
    report_uri: str,
    override_reason: str | None = None,
) -> Verdict:
    """Decides whether a model may be deployed.

    Args:
        report_text: The suite's report; None where it left none.
        rules: From `load_rules`.
        trained: The model that was measured.
        report_uri: Where the report is kept.
        override_reason: Why a rejected model is to be deployed all the same; blank means no override.

    Returns:
        The verdict. It is closed, with the reason on every rule, where the report cannot be read. The
        override's reason is recorded only where it decided.
    """
    metrics: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    try:
        report = parse_report(report_text or "")
    except ReportError as error:
        checks = closed(rules, str(error))
    else:
        checks = apply_rules(rules, report)
        metrics, baselines = _headline(report)
    failed = any(check.status == "failed" for check in checks)
    reason = (override_reason or "").strip() if failed else ""
    return Verdict(
        approved=not failed or bool(reason),
        job_name=trained.job_name,
        snapshot_id=trained.snapshot_id,
        rules_version=rules.version,
        checks=checks,
        metrics=metrics,
        baselines=baselines,
        override_reason=reason or None,
        report_uri=report_uri,
    )


def as_table(verdict: Verdict) -> str:
    """Returns the checks as lines for a log: status, name, value, bound, queries; reasons below."""
    width = max(len(check.name) for check in verdict.checks)
    rows = [
        f"{check.status.upper():<8}{check.name:<{width}}  {_number(check.value):>10} {check.comparison} "
        f"{_number(check.bound):<10} n={check.sample_size}"
        for check in verdict.checks
    ]
    reasons = [f"  {check.name}: {check.reason}" for check in verdict.failures]
    return "\n".join([*rows, *(["Failed because:", *reasons] if reasons else [])])


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4f}"

"""Holds the suite's report against the rules. Pure: no Airflow, no data frames, no network."""

from __future__ import annotations

from typing import NamedTuple

from include.contracts import Check, CheckStatus, TrainedModel, Verdict
from include.gate.report import CheckReport, Measurement, Report, ReportError, finite, parse_report
from include.gate.rival import NOTHING_LIVE, Rival
from include.gate.rules import Rule, Rules, Saturation

# Shown beside the verdict; the model's own values of these are its headline.
HEADLINE = ("hit_rate@10", "mrr@10", "hit_rate@20", "mrr@20", "ndcg@20", "coverage@20", "popularity_bias@20")
LONGEST_SLICE = 60


class _Excuse(NamedTuple):
    """Why no rule that needs the champion can be applied, and what becomes of those rules."""

    status: CheckStatus
    reason: str


def apply_rules(rules: Rules, report: Report, rival: Rival = NOTHING_LIVE) -> tuple[Check, ...]:
    """Holds every rule against the report.

    Args:
        rules: From `load_rules`.
        report: What the suite measured.
        rival: The live model.

    Returns:
        One check per rule, or per slice for rules on slices; what cannot be judged has failed, or has
        warned where that is the rule's severity.
    """
    excuse = _excuse(rules, report, rival)
    return tuple(_softened(rule, check) for rule in rules.rules for check in _apply(rule, report, excuse))


def closed(rules: Rules, reason: str) -> tuple[Check, ...]:
    """Returns every rule as failed for one reason, for when there is nothing to judge by."""
    return tuple(_check(rule, rule.name, "failed", reason) for rule in rules.rules)


def _softened(rule: Rule, check: Check) -> Check:
    if rule.severity == "warn" and check.status == "failed":
        return check.model_copy(update={"status": "warned"})
    return check


def _excuse(rules: Rules, report: Report, rival: Rival) -> _Excuse | None:
    if rival.fault:
        return _Excuse("failed", rival.fault)
    if rival.absent:
        return _Excuse("skipped", rival.absent)
    known = report.find(rules.comparable.check)
    share = None if known is None or known.error else known.read("value")
    # What is not known excuses nothing.
    if share is None or share >= rules.comparable.at_least:
        return None
    return _Excuse(
        "skipped",
        f"The live model knows the viewed product of only {share:.0%} of these queries (needs "
        f"{rules.comparable.at_least:.0%}): it was trained on another catalogue and is no measure.",
    )


def _apply(rule: Rule, report: Report, excuse: _Excuse | None) -> list[Check]:
    if rule.needs and excuse is not None:
        return [_check(rule, rule.name, excuse.status, excuse.reason)]
    measured = report.find(rule.check)
    if measured is None:
        return [_check(rule, rule.name, "failed", f"The suite did not report {rule.check}.")]
    if measured.error is not None:
        return [_check(rule, rule.name, "failed", f"{rule.check} crashed: {measured.error}")]
    if rule.unless is not None and (saturated := _saturated(rule.unless, report)):
        return [_check(rule, rule.name, "skipped", saturated, measured)]
    if not rule.each_slice:
        return [_judge(rule, rule.name, measured, _factor(rule, measured, measured, report))]
    if not measured.slices:
        return [_check(rule, rule.name, rule.too_few, f"{rule.check} has no slices.")]
    return [
        _judge_slice(rule, name, part, _factor(rule, measured, part, report))
        for name, part in measured.slices.items()
    ]


def _saturated(unless: Saturation, report: Report) -> str | None:
    """Returns why a rule cannot be applied, or None; an unknown baseline saturates nothing."""
    measured = report.find(unless.check)
    value = None if measured is None else finite(measured.baselines.get(unless.baseline))
    if value is None or value <= unless.above:
        return None
    return (
        f"{unless.baseline} alone reaches a {unless.check} of {value:.3g}: the catalogue is so small that "
        "no lead over it can show. The ranking rules decide."
    )


def _factor(rule: Rule, measured: CheckReport, part: Measurement, report: Report) -> float | None:
    if rule.times is None:
        return 1.0
    if rule.times.baseline is not None:
        return finite(measured.baselines.get(rule.times.baseline))
    if rule.times.champion == rule.check:
        return finite(part.champion)
    other = report.find(rule.times.check or rule.times.champion or "")
    if other is None:
        return None
    return other.read("value") if rule.times.check else finite(other.champion)


def _judge_slice(rule: Rule, name: str, part: Measurement, factor: float | None) -> Check:
    label = f"{rule.name}[{_one_line(name)}]"
    if name in rule.exempt:
        return _check(rule, label, "skipped", rule.exempt[name], part)
    if part.sample_size < rule.min_sample:
        return _check(rule, label, "skipped", _too_few(rule, part), part)
    if part.sessions is not None and part.sessions < rule.min_sessions:
        few = f"{part.sample_size} queries of {part.sessions} sessions are too few to judge by"
        return _check(rule, label, "skipped", f"{few} (needs {rule.min_sessions} sessions).", part)
    return _judge(rule, label, part, factor)


def _judge(rule: Rule, label: str, measured: Measurement, factor: float | None) -> Check:
    if measured.sample_size < rule.min_sample:
        return _check(rule, label, rule.too_few, _too_few(rule, measured), measured)
    value = measured.read(rule.measure)
    if value is None:
        return _check(rule, label, "failed", f"{rule.check} is missing or not a finite number.", measured)
    if factor is None:
        return _check(rule, label, "failed", f"{_times(rule)} is missing or not a finite number.", measured)
    bound = rule.limit * factor
    if rule.only_if_sharp and (blunt := _blunt(measured, bound)):
        return _check(rule, label, "skipped", blunt, measured, bound)
    passed = value >= bound if rule.comparison == ">=" else value <= bound
    sentence = f"{_what(rule, measured)} is {value:.4g}, needs {rule.comparison} {bound:.4g}{_origin(rule)}."
    reason = sentence if passed else f"{sentence} {rule.why}"
    return _check(rule, label, "passed" if passed else "failed", reason, measured, bound)


def _blunt(measured: Measurement, bound: float) -> str | None:
    """Returns why even an equal model might well fail, or None; what is missing excuses nothing."""
    value, (low, high) = measured.read("value"), measured.around("interval_low")
    if value is None or low is None or high is None or value - low <= -bound / 2:
        return None
    # However coarse: a loss that is surely beyond the margin is one.
    if high < bound:
        return None
    return (
        f"The test set cannot tell a difference of {value - low:.3g} from chance, too coarse for a margin of "
        f"{-bound:.3g}. The rule on the value decides; a longer window would be sharper."
    )


def _one_line(name: str) -> str:
    """Cuts the name of a slice, which may be a category of the shop's own wording, to one short line."""
    text = "".join(sign if sign.isprintable() else " " for sign in name)
    return text if len(text) <= LONGEST_SLICE else f"{text[: LONGEST_SLICE - 1]}…"


def _too_few(rule: Rule, measured: Measurement) -> str:
    return f"{measured.sample_size} queries are too few to judge by (needs {rule.min_sample})."


def _what(rule: Rule, measured: Measurement) -> str:
    kind, _, end = rule.measure.partition("_")
    words = f"{rule.check} less the live model's" if kind == "difference" else rule.check
    if end and measured.interval_kind == "percentiles":
        return f"{words} ({'10th' if end == 'low' else '90th'} percentile)"
    return words if not end else f"{words} ({'lower' if end == 'low' else 'upper'} 95 % end)"


def _times(rule: Rule) -> str:
    assert rule.times is not None  # only asked for a multiplied bound
    if rule.times.baseline is not None:
        return f"{rule.times.baseline}'s {rule.check}"
    return rule.times.check or f"the live model's {rule.times.champion}"


def _origin(rule: Rule) -> str:
    return "" if rule.times is None else f" ({rule.limit:g} x {_times(rule)})"


def _check(
    rule: Rule,
    label: str,
    status: CheckStatus,
    reason: str,
    measured: Measurement | None = None,
    bound: float | None = None,
) -> Check:
    measured = measured or Measurement()
    low, high = measured.around(rule.measure)
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
        interval_kind=measured.interval_kind,
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
        for method, other in {**measured.baselines, "champion": measured.champion}.items():
            if (number := finite(other)) is not None:
                baselines.setdefault(method, {})[name] = number
    return metrics, baselines


def decide(
    report_text: str | None,
    rules: Rules,
    trained: TrainedModel,
    report_uri: str,
    override_reason: str | None = None,
    rival: Rival = NOTHING_LIVE,
    fault: str | None = None,
) -> Verdict:
    """Decides whether a model may be deployed.

    Args:
        report_text: The suite's report; None where it left none.
        rules: From `load_rules`.
        trained: The model that was measured.
        report_uri: Where the report is kept.
        override_reason: Why a rejected model is to be deployed all the same; blank means no override.
        rival: The live model that it is held against.
        fault: Why nothing was measured at all; the report is not looked at then.

    Returns:
        The verdict. It is closed, with the reason on every rule, where there is a fault or the report cannot
        be read. The
        override's reason is recorded only where it decided.
    """
    metrics: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    try:
        if fault:
            raise ReportError(fault)
        report = parse_report(report_text or "")
    except ReportError as error:
        checks = closed(rules, str(error))
    else:
        checks = apply_rules(rules, report, rival)
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
        champion=rival.champion,
        override_reason=reason or None,
        report_uri=report_uri,
    )


def as_table(verdict: Verdict) -> str:
    """Returns the checks as lines for a log: status, name, value, bound, queries; reasons below."""
    width = max(len(check.name) for check in verdict.checks)
    lines = [
        f"{check.status.upper():<8}{check.name:<{width}}  {_number(check.value):>10} {check.comparison} "
        f"{_number(check.bound):<10} n={check.sample_size}"
        for check in verdict.checks
    ]
    for status in ("failed", "warned"):
        chosen = [f"  {check.name}: {check.reason}" for check in verdict.checks if check.status == status]
        lines += [f"{status.capitalize()} because:", *chosen] if chosen else []
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4f}"

"""CloudWatch's alarms, which moto keeps but never evaluates: evaluated here while they watch an update."""

from __future__ import annotations

import json
import operator
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from include.local.emulator.machine import storage
from include.local.emulator.serving.metrics import METRICS, NAMESPACE, Sample, Source, dimensions
from include.local.emulator.wire.errors import validation_error

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "Sum": sum,
    "Average": lambda values: sum(values) / len(values),
    "Minimum": min,
    "Maximum": max,
    "SampleCount": len,
}
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")
# Tells a state of ours, which the next look may change, from one that somebody has set by hand.
_MARK = {"evaluatedBy": "emulator"}
Answered = Iterable[tuple[Source, Iterable[Sample]]]


def refuse_unknown(url: str, region: str, names: Sequence[str]) -> None:
    """Refuses an update that names alarms which do not exist.

    Raises:
        AwsError: `ValidationException`, with their names.
    """
    missing = sorted(set(names) - {alarm["AlarmName"] for alarm in _described(url, region, names)})
    if missing:
        raise validation_error(
            f"The following CloudWatch alarms do not exist in {region}: {', '.join(missing)}. "
            "Create them, or leave them out of AutoRollbackConfiguration."
        )


def in_alarm(url: str, region: str, names: Sequence[str], answered: Answered) -> list[str]:
    """Evaluates alarms, writes their states to CloudWatch and returns those that are in ALARM.

    Args:
        url: Address of the emulator.
        region: Region of the alarms.
        names: Their names.
        answered: What was answered during the update, and where.
    """
    if not names:
        return []
    answered = [(source, list(samples)) for source, samples in answered]
    return [
        alarm["AlarmName"]
        for alarm in _described(url, region, names)
        if _state(url, region, alarm, answered) == "ALARM"
    ]


def end_later(url: str, region: str, names: Sequence[str], closing: threading.Event) -> None:
    """Ends what an update set off, once it is older than what the alarms look at, as CloudWatch would.

    Args:
        url: Address of the emulator.
        region: Region of the alarms.
        names: Their names.
        closing: Set where the emulator ends.
    """
    ours = [each for each in _described(url, region, names) if each["StateValue"] == "ALARM" and _ours(each)]
    if not ours:
        return

    def end() -> None:
        if closing.wait(max(alarm["Period"] * alarm["EvaluationPeriods"] for alarm in ours)):
            return
        for alarm in _described(url, region, [each["AlarmName"] for each in ours]):
            if alarm["StateValue"] != "ALARM" or not _ours(alarm):
                continue  # by now a person's, whose it is to end
            quiet = "OK" if alarm.get("TreatMissingData") == "notBreaching" else "INSUFFICIENT_DATA"
            _write(url, region, alarm, quiet, "Nothing has been seen since.")

    threading.Thread(target=end, daemon=True, name="alarms").start()


def _described(url: str, region: str, names: Sequence[str]) -> list[dict[str, Any]]:
    if not names:
        return []
    told = storage.client("cloudwatch", url, region).describe_alarms(AlarmNames=list(names))
    return [*told.get("MetricAlarms", []), *told.get("CompositeAlarms", [])]


def _state(url: str, region: str, alarm: Mapping[str, Any], answered: Answered) -> str:
    told = str(alarm["StateValue"])
    if told == "ALARM" and not _ours(alarm):
        return told
    wanted = {each["Name"]: each["Value"] for each in alarm.get("Dimensions", [])}
    samples = [sample for source, found in answered if wanted in dimensions(source) for sample in found]
    found = evaluate(alarm, samples, time.time())
    if found is None or found == told:
        return told
    reason = f"Threshold {alarm['ComparisonOperator']} {alarm['Threshold']:g}, "
    _write(url, region, alarm, found, f"{reason}{len(samples)} requests seen during the update.")
    return found


def _ours(alarm: Mapping[str, Any]) -> bool:
    try:
        told: object = json.loads(alarm.get("StateReasonData") or "{}")
    except ValueError:  # a person may write there what she likes
        return False
    return isinstance(told, dict) and told.get("evaluatedBy") == _MARK["evaluatedBy"]


def _write(url: str, region: str, alarm: Mapping[str, Any], state: str, reason: str) -> None:
    storage.client("cloudwatch", url, region).set_alarm_state(
        AlarmName=alarm["AlarmName"],
        StateValue=state,
        StateReason=reason,
        StateReasonData=json.dumps(_MARK),
    )


def evaluate(alarm: Mapping[str, Any], samples: Sequence[Sample], now: float) -> str | None:
    """Returns an alarm's state: OK, ALARM or INSUFFICIENT_DATA.

    Periods end now, not at the full minute: an update is watched for less than a period of many alarms.

    Args:
        alarm: As DescribeAlarms has it.
        samples: The requests that its dimensions select.
        now: Epoch seconds.

    Returns:
        None where it is not an alarm on one of the endpoints' metrics that can be evaluated here (metric
        math, anomaly bands, composite alarms): its state is then what CloudWatch has.
    """
    metric = METRICS.get(str(alarm.get("MetricName")))
    compare = _COMPARISONS.get(str(alarm.get("ComparisonOperator")))
    statistic = _statistic(alarm)
    if alarm.get("Namespace") != NAMESPACE or metric is None or compare is None or statistic is None:
        return None
    periods, length = int(alarm["EvaluationPeriods"]), float(alarm["Period"])
    windows: list[list[float]] = [[] for _ in range(periods)]
    for sample in samples:
        number = int(max(0.0, now - sample.at) // length)
        if number < periods:
            windows[number].append(metric(sample))
    breaching = [compare(statistic(values), float(alarm["Threshold"])) for values in windows if values]
    return _verdict(alarm, breaching, periods)


def _verdict(alarm: Mapping[str, Any], breaching: Sequence[bool], periods: int) -> str:
    needed = int(alarm.get("DatapointsToAlarm") or periods)
    missing = periods - len(breaching)
    treat = str(alarm.get("TreatMissingData") or "missing")
    bad = sum(breaching) + (missing if treat == "breaching" else 0)
    if bad >= needed:
        return "ALARM"
    if treat in ("breaching", "notBreaching") or not all(breaching):
        return "OK"
    # Nothing but breaching data, too few of them, and the rest is not there.
    if treat == "ignore":
        return str(alarm["StateValue"])
    return "ALARM" if breaching else "INSUFFICIENT_DATA"


def _statistic(alarm: Mapping[str, Any]) -> Callable[[Sequence[float]], float] | None:
    if "ExtendedStatistic" not in alarm:
        return _STATISTICS.get(str(alarm.get("Statistic")))
    match = _PERCENTILE.fullmatch(str(alarm["ExtendedStatistic"]))
    return None if match is None else lambda values: _percentile(values, float(match[1]))


def _percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

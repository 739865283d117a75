"""Faults on demand: rules that make operations, jobs and endpoints go wrong as they do on AWS.

The control route `/_emulator/faults` takes them as JSON: POST adds a list of rules, GET lists those that are
left, DELETE clears them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from include.local.emulator.wire.calls import is_operation
from include.local.emulator.wire.errors import validation_error

ROUTE = "/_emulator/faults"
DROP = "drop"
JOB_EVENTS = ("spot_interruption", "fail", "no_capacity")
ENDPOINT_EVENTS = ("rollback", "rollback_failed", "system_updating", "fail")
_ANY = "*"


@dataclass(frozen=True)
class Rule:
    """One fault.

    Attributes:
        operation: What answers wrongly, such as `CreateTrainingJob` or `s3:PutObject`.
        code: Error code of the answer; `drop` closes the connection without one, None only delays.
        status: HTTP status of the answer.
        delay_seconds: Wait before the answer.
        job: Name of the training job to which an event happens, `*` for any.
        endpoint: Name of the endpoint to which an event happens, `*` for any.
        event: What happens to it.
        after_seconds: How long the job's script runs before.
        seconds: How long the event lasts, where it lasts.
        reason: What the failure says.
        times: How often it still happens; None until it is cleared.
    """

    operation: str | None = None
    code: str | None = None
    status: int = 400
    delay_seconds: float = 0.0
    job: str | None = None
    endpoint: str | None = None
    event: str | None = None
    after_seconds: float = 0.0
    seconds: float = 1.0
    reason: str | None = None
    times: int | None = 1


_TEXT, _NUMBER = (str, type(None)), (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "operation": (str,),
    "code": _TEXT,
    "status": (int,),
    "delay_seconds": _NUMBER,
    "job": (str,),
    "endpoint": (str,),
    "event": (str,),
    "after_seconds": _NUMBER,
    "seconds": _NUMBER,
    "reason": _TEXT,
    "times": (int, type(None)),
}
_MEMBERS = {
    "operation": ("code", "status", "times", "delay_seconds", "reason"),
    "job": ("event", "after_seconds", "seconds", "times", "reason"),
    "endpoint": ("event", "after_seconds", "seconds", "times", "reason"),
}


class Faults:
    """The rules of one emulator. Safe for threads."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._rules)

    def add(self, rules: object) -> None:
        """Adds rules, as decoded JSON: all of them or, where one is wrong, none.

        Raises:
            AwsError: `ValidationException`, with what is wrong.
        """
        if not isinstance(rules, list):
            raise validation_error("Fault rules are a list of objects.")
        found = [_rule(number, rule) for number, rule in enumerate(rules, 1)]
        with self._lock:
            self._rules += found

    def clear(self) -> None:
        """Forgets every rule."""
        with self._lock:
            self._rules = []

    def listed(self) -> list[dict[str, Any]]:
        """Returns the rules that are left, in JSON types."""
        with self._lock:
            rules = list(self._rules)
        return [
            {name: value for name, value in asdict(rule).items() if name in _members(_subject(rule))}
            for rule in rules
        ]

    def operation(self, name: str | None) -> Rule | None:
        """Returns the fault that a call of the operation meets now; it is used up once."""
        return self._take(lambda rule: rule.operation is not None and rule.operation == name)

    def job_event(
        self, name: str, elapsed: float = float("inf"), events: Iterable[str] = JOB_EVENTS
    ) -> Rule | None:
        """Returns what happens to a training job now; it is used up once.

        Args:
            name: Job name.
            elapsed: Seconds that its script has run.
            events: Those that can happen now.
        """
        wanted = set(events)
        return self._take(
            lambda rule: rule.job in (_ANY, name) and rule.event in wanted and rule.after_seconds <= elapsed
        )

    def endpoint_event(self, name: str, events: Iterable[str] = ENDPOINT_EVENTS) -> Rule | None:
        """Returns what happens to an endpoint now; it is used up once.

        Args:
            name: Endpoint name.
            events: Those that can happen now.
        """
        wanted = set(events)
        return self._take(lambda rule: rule.endpoint in (_ANY, name) and rule.event in wanted)

    def _take(self, wanted: Callable[[Rule], bool]) -> Rule | None:
        with self._lock:
            for index, rule in enumerate(self._rules):
                if wanted(rule):
                    left = None if rule.times is None else rule.times - 1
                    if left == 0:
                        del self._rules[index]
                    else:
                        self._rules[index] = replace(rule, times=left)
                    return rule
        return None


def _rule(number: int, raw: object) -> Rule:
    """Returns a rule that has been checked."""
    if why := next(_wrong_members(raw), None):
        raise validation_error(f"Fault rule {number}: {why}")
    assert isinstance(raw, dict)
    rule = Rule(**raw)
    if why := next(_wrong_values(rule), None):
        raise validation_error(f"Fault rule {number}: {why}")
    return rule


def _wrong_members(raw: object) -> Iterator[str]:
    if not isinstance(raw, dict):
        yield "it is not an object."
        return
    subjects = [subject for subject in _MEMBERS if subject in raw]
    if len(subjects) != 1:
        yield f"it has to have exactly one of {', '.join(_MEMBERS)}."
        return
    allowed = _members(subjects[0])
    if unknown := sorted(set(raw) - set(allowed)):
        yield f"unknown {', '.join(unknown)}; a rule with {subjects[0]} has {', '.join(allowed)}."
        return
    for name, value in raw.items():
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            yield f"{name} {value!r} has the wrong type."
        elif isinstance(value, int | float) and value < (1 if name == "times" else 0):
            yield f"{name} {value} is too small."


def _wrong_values(rule: Rule) -> Iterator[str]:
    if rule.operation is None:
        events = ENDPOINT_EVENTS if rule.job is None else JOB_EVENTS
        if rule.event not in events:
            yield f"event has to be one of {', '.join(events)}."
        return
    if not is_operation(rule.operation):
        yield (
            f"no operation {rule.operation}. It is SageMaker's as it is (CreateTrainingJob), InvokeEndpoint, "
            "or service:Operation (s3:PutObject) of a service whose requests name their operation."
        )
    if rule.code is None and not rule.delay_seconds:
        yield "without code or delay_seconds it does nothing."
    if not 400 <= rule.status < 600:
        yield f"status {rule.status} is not one of an error."


def _members(subject: str) -> tuple[str, ...]:
    return (subject, *_MEMBERS[subject])


def _subject(rule: Rule) -> str:
    return next(subject for subject in _MEMBERS if getattr(rule, subject) is not None)

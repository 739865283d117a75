"""The suite's report as the gate reads it. Pure: no Airflow, no data frames, no network."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from include.contracts import IntervalKind

SUPPORTED_REPORT = 1

Interval = tuple[float | None, float | None]


class ReportError(Exception):
    """The suite's report cannot be read; the verdict is then closed."""


class ReportModel(BaseModel):
    """Base of the report's parts: frozen; unknown fields are left for later suites to add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Measurement(ReportModel):
    """A value with what it rests on; of a whole check or of one of its slices.

    Attributes:
        sessions: Number of sessions that the queries come from; slices alone have it.
        champion: The live model's value on the same queries.
        difference: The model's value less the live model's, in pairs; slices alone have it.
    """

    value: float | None = None
    sample_size: int = Field(0, ge=0)
    interval: Interval | None = None
    interval_kind: IntervalKind = "confidence"
    sessions: int | None = Field(None, ge=0)
    champion: float | None = None
    difference: float | None = None
    difference_interval: Interval | None = None

    def read(self, measure: str) -> float | None:
        """Returns what a rule's `measure` names; None where it is missing or not finite."""
        if measure in ("value", "difference"):
            return finite(self.value if measure == "value" else self.difference)
        low, high = self.around(measure)
        return low if measure.endswith("_low") else high

    def around(self, measure: str) -> Interval:
        """Returns the interval that goes with a `measure`; None for an end that is not a finite number."""
        low, high = (self.difference_interval if measure.startswith("difference") else self.interval) or (
            None,
            None,
        )
        return finite(low), finite(high)


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

    @field_validator("checks", mode="before")
    @classmethod
    def _one_by_one(cls, checks: Any) -> Any:
        """Makes a check that is not what it should be a crashed one: it must not hide the others."""
        return [_readable(check) for check in checks] if isinstance(checks, list) else checks

    def find(self, name: str) -> CheckReport | None:
        """Returns the check of that name, None where the suite did not report it."""
        return next((check for check in self.checks if check.name == name), None)


def _readable(check: Any) -> Any:
    try:
        return CheckReport.model_validate(check)
    except ValidationError as error:
        if not isinstance(check, dict) or not isinstance(name := check.get("name"), str):
            return check
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        return CheckReport(name=name, error=f"what it reported cannot be read: {faults[:300]}")


def finite(value: float | None) -> float | None:
    """Returns the value, or None for one that is missing, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


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

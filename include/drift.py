"""How far the data of a snapshot have moved since the one before it: a pure function of two profiles.

Shares are compared by the population stability index, PSI = Σ (p - q) · ln(p / q). Its usual bands come from
credit scoring (N. Siddiqi, *Credit Risk Scorecards*, Wiley 2006): below 0.1 stable, up to 0.25 a moderate
shift, above it a large one. Drift warns; it never stops a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from statistics import median
from typing import Any, Literal

from include.contracts import Contract

MODERATE, LARGE = 0.1, 0.25
# A share of zero has no logarithm: this stands for "practically never".
FLOOR = 1e-4
# Sessions per day, against the previous snapshot; a shop's week alone moves by less.
MODERATE_RATIO, LARGE_RATIO = 1.5, 2.0
# A day against the median day of its own window.
BURST = 5.0
OTHER = "(other)"

Level = Literal["stable", "moderate", "large"]
Shares = Mapping[str, float]


class Measure(Contract):
    """One comparison. `value` is a PSI, and for `sessions_per_day` the ratio of the daily means."""

    value: float
    level: Level


class Drift(Contract):
    """A snapshot held against the one before it.

    Attributes:
        measures: By name; one that a profile has no numbers for is left out, and so are all of them where
            the profiles are of different versions.
        unusual_days: Days of this snapshot that are empty, or hold several times the median day's sessions.
    """

    snapshot_id: str
    previous_snapshot_id: str
    measures: dict[str, Measure]
    unusual_days: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Returns canonical JSON: the same drift, the same bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2).encode() + b"\n"

    def warnings(self) -> list[str]:
        """Returns a sentence for each measure that is not stable."""
        return [
            f"{name} {'are' if name.endswith('s') else 'is'} {_in_words(name, measure)} "
            f"({measure.level} shift since {self.previous_snapshot_id})"
            for name, measure in sorted(self.measures.items())
            if measure.level != "stable"
        ]


def compare(
    snapshot_id: str, profile: Mapping[str, Any], previous_id: str, previous: Mapping[str, Any]
) -> Drift:
    """Compares two profiles, as they stand in the manifests.

    Args:
        snapshot_id: The snapshot.
        profile: Its profile.
        previous_id: The snapshot before it.
        previous: That one's profile.
    """
    same = profile.get("version") == previous.get("version")
    return Drift(
        snapshot_id=snapshot_id,
        previous_snapshot_id=previous_id,
        measures=_measures(profile, previous) if same else {},
        unusual_days=tuple(unusual_days(profile)),
    )


def _measures(profile: Mapping[str, Any], previous: Mapping[str, Any]) -> dict[str, Measure]:
    measures: dict[str, Measure] = {}
    for name in ("lengths", "actions", "sessions_per_hour"):
        now, before = _counts(profile.get(name)), _counts(previous.get(name))
        if now and before:
            measures[name] = _measure(psi(_shares(now), _shares(before)))
    for name in ("top_products", "top_categories"):
        if (now_top := profile.get(name)) and (before_top := previous.get(name)):
            measures[name] = _measure(psi(*align(now_top, before_top)))
    days, days_before = profile.get("sessions_per_day"), previous.get("sessions_per_day")
    if days and days_before:
        ratio = _daily_mean(days) / _daily_mean(days_before)
        moved = max(ratio, 1 / ratio)
        level: Level = "large" if moved > LARGE_RATIO else "moderate" if moved > MODERATE_RATIO else "stable"
        measures["sessions_per_day"] = Measure(value=round(ratio, 4), level=level)
    return measures


def write(client: Any, bucket: str, prefix: str, drift: Drift) -> str:
    """Writes a comparison beside the snapshots, never into them; returns its URI.

    Args:
        client: boto3 S3 client.
        bucket: The project's bucket.
        prefix: The project's prefix.
        drift: What `compare` returned.
    """
    name = f"drift/{drift.snapshot_id}/{drift.previous_snapshot_id}.json"
    key = "/".join(part for part in (prefix.strip("/"), name) if part)
    client.put_object(Bucket=bucket, Key=key, Body=drift.to_bytes(), ContentType="application/json")
    return f"s3://{bucket}/{key}"


def psi(now: Shares, before: Shares) -> float:
    """Returns the population stability index of two distributions over the same or other bins."""
    total = 0.0
    for name in sorted(now.keys() | before.keys()):
        p, q = max(now.get(name, 0.0), FLOOR), max(before.get(name, 0.0), FLOOR)
        total += (p - q) * math.log(p / q)
    return total


def align(now: Sequence[Sequence[Any]], before: Sequence[Sequence[Any]]) -> tuple[Shares, Shares]:
    """Turns two rankings of (name, count, share) into distributions over the same names.

    A name that only one ranking lists has, in the other, at most the share of its last entry: the value in
    that range which is nearest to the known one is taken, so that drift is never overstated.
    """
    lists = [{str(name): float(share) for name, _, share in ranking} for ranking in (now, before)]
    every = sorted(lists[0].keys() | lists[1].keys())
    ends = []
    for shares in lists:
        # A list whose shares add up to one has left nothing out.
        ends.append(min(shares.values()) if sum(shares.values()) < 1 - FLOOR else 0.0)
    sides = []
    for mine, other, end in ((lists[0], lists[1], ends[0]), (lists[1], lists[0], ends[1])):
        side = {name: mine[name] if name in mine else min(other[name], end) for name in every}
        sides.append(side | {OTHER: max(0.0, 1 - sum(side.values()))})
    return sides[0], sides[1]


def unusual_days(profile: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each day within the data that is empty or several times the median day."""
    counts = profile.get("sessions_per_day") or {}
    if not counts:
        return []
    first, last = date.fromisoformat(min(counts)), date.fromisoformat(max(counts))
    days = [(first + timedelta(n)).isoformat() for n in range((last - first).days + 1)]
    middle = median(counts.get(day, 0) for day in days)
    found = []
    for day in days:
        sessions = counts.get(day, 0)
        if not sessions:
            found.append(f"{day} has no session")
        elif sessions >= BURST * middle > 0:
            found.append(f"{day} has {sessions} sessions, {sessions / middle:.1f} times the median day")
    return found


def _counts(value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {str(name): float(count) for name, count in value.items()}
    return {f"{hour:02d}": float(count) for hour, count in enumerate(value or ())}


def _shares(counts: Mapping[str, float]) -> Shares:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}


def _daily_mean(counts: Mapping[str, int]) -> float:
    days = (date.fromisoformat(max(counts)) - date.fromisoformat(min(counts))).days + 1
    return sum(counts.values()) / days


def _measure(value: float) -> Measure:
    level: Level = "large" if value > LARGE else "moderate" if value >= MODERATE else "stable"
    return Measure(value=round(value, 4), level=level)


def _in_words(name: str, measure: Measure) -> str:
    return f"{measure.value:g} times" if name == "sessions_per_day" else f"at a PSI of {measure.value:g}"

"""How new a model is: what it learned from and when, as its endpoint configuration's tags say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import NamedTuple

from include.contracts import TrainedModel


class Recency(NamedTuple):
    """Ordered: newer data first of all, then the later training; what is not known is older than all that is.

    Attributes:
        data_until: ISO date, the day after the last that the model learned from; empty where not known.
        trained_at: ISO moment (UTC) of the training; empty where not known.
    """

    data_until: str = ""
    trained_at: str = ""

    def __str__(self) -> str:
        data = f"data until {self.data_until}" if self.data_until else "data of an unknown age"
        return f"{data}, trained {f'at {self.trained_at}' if self.trained_at else 'at an unknown time'}"


def recency_of(trained: TrainedModel) -> Recency:
    """Returns how new a trained model is."""
    return _recency(trained.data_until, trained.trained_at)


def recency_in(tags: Iterable[Mapping[str, str]]) -> Recency:
    """Returns how new the model of an endpoint configuration is, by the configuration's tags."""
    said = {tag["Key"]: tag["Value"] for tag in tags}
    return _recency(said.get("data_until"), said.get("trained_at"))


def _recency(data_until: str | None, trained_at: str | None) -> Recency:
    """Writes both alike, so that texts compare as times do; what is no time is not known."""
    try:
        day = date.fromisoformat(data_until or "").isoformat()
    except ValueError:
        day = ""
    try:
        moment = datetime.fromisoformat(trained_at or "")
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        trained = aware.astimezone(UTC).isoformat(timespec="microseconds")
    except ValueError:
        trained = ""
    return Recency(day, trained)

"""A variant at work: its names, its share of the requests, its server, and what it answered lately."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from include.local.emulator.serving.metrics import Sample, Source
from include.local.emulator.serving.model_server import ModelServer

_KEPT_SAMPLES = 20_000


@dataclass
class Variant:
    """A variant at work.

    Attributes:
        source: Its names.
        weight: Its share of the requests, against the other variants'; may change while it serves.
        server: What answers.
        samples: The latest requests it answered.
    """

    source: Source
    weight: float
    server: ModelServer
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_KEPT_SAMPLES))

    @property
    def name(self) -> str:
        """Name of the variant."""
        return self.source.variant

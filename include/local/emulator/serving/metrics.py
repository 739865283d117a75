"""What endpoints tell CloudWatch of their requests, as SageMaker does, off the way of the requests."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from include.local.emulator.machine import storage
from include.local.emulator.machine.workers import Ticker, drain

NAMESPACE = "AWS/SageMaker"
_FLUSH_SECONDS = 1.0
_END_SECONDS = 5.0
_BATCH = 500  # CloudWatch takes 1000 data at a time


class Sample(NamedTuple):
    """One answered request.

    Attributes:
        at: Epoch seconds.
        status: HTTP status of the model's answer; 504 where it did not answer in time, 503 where it is gone.
        model_micros: Time until the model had answered, in microseconds.
        overhead_micros: Time besides that.
    """

    at: float
    status: int
    model_micros: float
    overhead_micros: float


class Source(NamedTuple):
    """Where a request was answered."""

    region: str
    endpoint: str
    variant: str
    config: str


METRICS: dict[str, Callable[[Sample], float]] = {
    "Invocations": lambda sample: 1.0,
    "Invocation4XXErrors": lambda sample: float(400 <= sample.status < 500),
    "Invocation5XXErrors": lambda sample: float(sample.status >= 500),
    "InvocationModelErrors": lambda sample: float(not 200 <= sample.status < 300),
    "ModelLatency": lambda sample: sample.model_micros,
    "OverheadLatency": lambda sample: sample.overhead_micros,
}


class Metrics:
    """Gathers samples in memory and publishes them once a second.

    Args:
        url: Address of the emulator.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._samples: deque[tuple[Source, Sample]] = deque()
        self._ticker = Ticker("endpoint-metrics", _FLUSH_SECONDS, self.flush)

    def record(self, source: Source, sample: Sample) -> None:
        """Keeps a sample; takes no lock and no time."""
        self._samples.append((source, sample))

    def flush(self) -> None:
        """Publishes what has been gathered."""
        # By the second of the request, not of the flush: a late flush must not date it into another minute.
        gathered: dict[tuple[Source, int], list[Sample]] = defaultdict(list)
        for source, sample in drain(self._samples):
            gathered[source, int(sample.at)].append(sample)
        by_region: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for (source, _), samples in gathered.items():
            by_region[source.region] += _data(source, samples)
        for region, data in by_region.items():
            cloudwatch = storage.client("cloudwatch", self._url, region)
            for start in range(0, len(data), _BATCH):
                cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=data[start : start + _BATCH])

    def close(self) -> None:
        """Publishes the rest."""
        self._ticker.close(_END_SECONDS)


def dimensions(source: Source) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the two sets of dimensions of each metric: over every fleet, and of one config's alone."""
    both = {"EndpointName": source.endpoint, "VariantName": source.variant}
    return both, {**both, "EndpointConfigName": source.config}


def _data(source: Source, samples: list[Sample]) -> Iterable[dict[str, Any]]:
    # Not with the config's own dimension, too: moto would count both where only the first is asked for.
    published, _ = dimensions(source)
    at = datetime.fromtimestamp(max(sample.at for sample in samples), UTC)
    for name, value_of in METRICS.items():
        values = [value_of(sample) for sample in samples]
        # One datum a second, however many requests: moto keeps each for as long as it lives.
        statistics = {
            "SampleCount": float(len(values)),
            "Sum": sum(values),
            "Minimum": min(values),
            "Maximum": max(values),
        }
        yield {
            "MetricName": name,
            "Dimensions": [{"Name": key, "Value": value} for key, value in published.items()],
            "Timestamp": at,
            "Unit": "Microseconds" if name.endswith("Latency") else "None",
            "StatisticValues": statistics,
        }

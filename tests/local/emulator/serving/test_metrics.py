from __future__ import annotations

from typing import Any

import pytest

from include.local.emulator.serving import metrics
from include.local.emulator.serving.metrics import Metrics, Sample, Source


class CloudWatch:
    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []

    def put_metric_data(self, *, Namespace: str, MetricData: list[dict[str, Any]]) -> None:
        assert Namespace == "AWS/SageMaker"
        self.data += MetricData


def test_requests_are_dated_by_their_own_second_however_late_they_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cloudwatch = CloudWatch()
    monkeypatch.setattr(metrics.storage, "client", lambda *_: cloudwatch)
    told = Metrics("http://127.0.0.1:1")
    try:
        source = Source("us-east-1", "shop", "AllTraffic", "config")
        for at in (59.2, 59.8, 60.1):
            told.record(source, Sample(at, 200, 1000.0, 10.0))
        told.flush()
    finally:
        told.close()
    counted = {
        datum["Timestamp"].timestamp(): datum["StatisticValues"]["Sum"]
        for datum in cloudwatch.data
        if datum["MetricName"] == "Invocations"
    }
    assert counted == {59.8: 2.0, 60.1: 1.0}

"""Two runs deploy at once and the older is the later: it never overwrites the newer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from include.contracts import TrainedModel, Verdict
from include.operators.create_serving import wanted_config
from include.operators.endpoint_update import EndpointUpdate
from include.settings import get_settings
from tests.faults.endpoint import claims_of, deployable
from tests.local.cloud import Cloud, Shop
from tests.operators.deploying import ENDPOINT, deploy


def outcome(claims: dict[str, Any]) -> str:
    try:
        return deploy(claims).endpoint_config_name
    except AirflowSkipException as skipped:
        return f"skipped: {skipped}"


def config_of(claims: dict[str, Any]) -> str:
    model = TrainedModel.model_validate(claims["trained_model"])
    return str(wanted_config(model, get_settings(), "us-east-1")["EndpointConfigName"])


@pytest.mark.parametrize("newer_first", [True, False], ids=["newer first", "older first"])
def test_whoever_is_first_the_newer_model_is_live_in_the_end(
    cloud: Cloud,
    trained: TrainedModel,
    approval: Verdict,
    monkeypatch: pytest.MonkeyPatch,
    newer_first: bool,
) -> None:
    with deployable(cloud, monkeypatch):
        deploy(claims_of(cloud, trained, approval, "base", "2026-02-01"))
        older = claims_of(cloud, trained, approval, "older", "2026-02-02")
        newer = claims_of(cloud, trained, approval, "newer", "2026-02-03")
        first = config_of(newer if newer_first else older)
        decided, asked = threading.Barrier(2), threading.Event()
        real = EndpointUpdate.submit

        def submit(self: EndpointUpdate, config: str, live: str | None, alarms: Any) -> None:
            """Lets both runs decide on what was live before, and then one ask before the other."""
            if not asked.is_set():
                decided.wait(60)
                if config != first:
                    assert asked.wait(60)
            try:
                real(self, config, live, alarms)
            finally:
                asked.set()

        monkeypatch.setattr(EndpointUpdate, "submit", submit)
        with Shop(cloud, ENDPOINT) as shop, ThreadPoolExecutor(2) as runs:
            ended = list(runs.map(outcome, [older, newer]))
        told = cloud.sagemaker.describe_endpoint(EndpointName=ENDPOINT)
        assert told["EndpointConfigName"] == ended[1] == config_of(newer)
        assert ("Deploy over a newer one" in ended[0]) is newer_first
        assert cloud.invoke(ENDPOINT)["model"] == "newer"
        assert shop.faults == []

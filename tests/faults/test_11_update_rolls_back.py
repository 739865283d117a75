"""SageMaker takes an update back: red with its reason, and no customer notices."""

from __future__ import annotations

import threading

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import TrainedModel, Verdict
from tests.faults.endpoint import claims_of, deployable
from tests.local.cloud import Cloud, Shop, eventually
from tests.operators.deploying import ENDPOINT, deploy

ALARM = f"{ENDPOINT}-latency"


def sound_alarm(cloud: Cloud, state: str) -> None:
    cloud.client("cloudwatch").set_alarm_state(
        AlarmName=ALARM, StateValue=state, StateReason="answers take too long"
    )


def test_an_alarm_takes_the_update_back_without_one_failed_request(
    cloud: Cloud, trained: TrainedModel, approval: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift = {"traffic_shift": "canary", "traffic_step_percent": 50, "endpoint_instance_count": 2}
    with deployable(cloud, monkeypatch, bake_seconds=60, **shift):
        live = deploy(claims_of(cloud, trained, approval, "old", "2026-02-01")).endpoint_config_name
        new = claims_of(cloud, trained, approval, "new", "2026-02-02")
        with Shop(cloud, ENDPOINT) as shop:

            def watch() -> None:
                eventually(lambda: "new" in shop.said, 60)
                sound_alarm(cloud, "ALARM")

            watcher = threading.Thread(target=watch)
            watcher.start()
            with pytest.raises(AirflowFailException) as failure:
                deploy(new)
            watcher.join()
            answered = len(shop.said)
            eventually(lambda: len(shop.said) > answered + 10)
        assert set(shop.said[answered:]) == {"old"}
        assert ALARM in str(failure.value) and f"still live on {live}" in str(failure.value)
        # The next is not even begun while the alarm is on.
        with pytest.raises(AirflowException, match="answers take too long"):
            deploy(new)
        told = cloud.sagemaker.describe_endpoint(EndpointName=ENDPOINT)
        assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", live)
        sound_alarm(cloud, "OK")


def test_a_model_that_cannot_serve_never_gets_a_request(
    cloud: Cloud, trained: TrainedModel, approval: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deployable(cloud, monkeypatch):
        live = deploy(claims_of(cloud, trained, approval, "old", "2026-02-01")).endpoint_config_name
        with Shop(cloud, ENDPOINT) as shop, pytest.raises(AirflowFailException) as failure:
            deploy(claims_of(cloud, trained, approval, "crash", "2026-02-02"))
        assert set(shop.said) == {"old"}
        assert "rolled back by SageMaker" in str(failure.value)
        assert f"still live on {live}" in str(failure.value)

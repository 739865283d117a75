"""An endpoint that cannot be updated: each state says what to do, and nothing is tried blindly."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tests.operators.deploying import ENDPOINT, deploy, in_service
from tests.operators.fake_sagemaker import FakeSageMaker, TaskStore

pytestmark = pytest.mark.usefixtures("naps", "sagemaker", "alarms")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("Failed", "delete-endpoint --endpoint-name shop-recommender"),
        ("UpdateRollbackFailed", "mixture of two configurations"),
        ("OutOfService", "takes no requests"),
    ],
)
def test_endpoint_that_needs_a_person_says_how_to_mend_it(
    sagemaker: FakeSageMaker, claims: dict[str, Any], status: str, message: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", EndpointStatus=status, FailureReason="disk full")]
    with pytest.raises(AirflowFailException, match=message) as failure:
        deploy(claims)
    assert "disk full" in str(failure.value)
    assert sagemaker.calls == []


@pytest.mark.parametrize("status", ["SystemUpdating", "RollingBack"])
def test_endpoint_that_may_not_be_changed_now_is_waited_for(
    sagemaker: FakeSageMaker, claims: dict[str, Any], status: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", EndpointStatus=status), in_service("cfg-old")]
    assert deploy(claims).replaced == "cfg-old"


def test_maintenance_that_does_not_end_is_named_and_nothing_is_asked_meanwhile(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", EndpointStatus="SystemUpdating")]
    with pytest.raises(AirflowException, match="SageMaker's own maintenance") as failure:
        deploy(claims)
    assert not isinstance(failure.value, AirflowFailException)
    assert sagemaker.calls == []


@pytest.mark.parametrize("status", ["Failed", "UpdateRollbackFailed"])
def test_an_update_that_ends_there_is_not_retried(
    sagemaker: FakeSageMaker, claims: dict[str, Any], status: str
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = lambda config: [{"EndpointStatus": status, "FailureReason": "no way back"}]
    for _ in range(2):
        with pytest.raises(AirflowFailException, match=f"is {status}.*no way back"):
            deploy(claims, store)
    assert len(sagemaker.made("UpdateEndpoint")) == 1

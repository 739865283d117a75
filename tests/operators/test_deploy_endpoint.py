from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tests.operators.deploying import ENDPOINT, deploy, in_service, updating
from tests.operators.fake_sagemaker import FakeSageMaker, TaskStore

pytestmark = pytest.mark.usefixtures("naps", "sagemaker")


def test_absent_endpoint_is_created(sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str) -> None:
    deployed = deploy(claims)
    [request] = sagemaker.made("CreateEndpoint")
    assert (request["EndpointName"], request["EndpointConfigName"]) == (ENDPOINT, wanted)
    assert (deployed.endpoint_config_name, deployed.replaced) == (wanted, None)


def test_endpoint_on_another_config_is_updated(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    assert deploy(claims).replaced == "cfg-old"
    assert [name for name, _ in sagemaker.calls] == ["UpdateEndpoint"]


def test_endpoint_that_is_there_is_left_alone(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service(wanted)]
    assert deploy(claims).replaced is None
    assert sagemaker.calls == []


@pytest.mark.parametrize(
    "pending", ["wanted", None], ids=["named by SageMaker", "known from the task's store"]
)
def test_killed_between_update_and_confirm_makes_no_second_update(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str, pending: str | None
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = lambda config: [updating("cfg-old", pending and config)]
    with pytest.raises(AirflowException, match="3600 s"):
        deploy(claims, store)
    sagemaker.endpoints[ENDPOINT] = [updating("cfg-old", pending and wanted), in_service(wanted)]
    assert deploy(claims, store).replaced == "cfg-old"
    assert len(sagemaker.made("UpdateEndpoint")) == 1


def test_retry_after_the_update_has_ended_still_knows_what_it_replaced(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    deploy(claims, store)
    assert deploy(claims, store).replaced == "cfg-old"
    assert len(sagemaker.calls) == 1


def test_update_to_another_config_is_waited_for_first(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [updating("cfg-old", "cfg-other"), in_service("cfg-other")]
    assert deploy(claims).replaced == "cfg-other"


@pytest.mark.parametrize("status", ["SystemUpdating", "RollingBack"])
def test_endpoint_that_may_not_be_changed_now_is_waited_for(
    sagemaker: FakeSageMaker, claims: dict[str, Any], status: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", EndpointStatus=status), in_service("cfg-old")]
    assert deploy(claims).replaced == "cfg-old"


def rolled_back(config: str) -> list[dict[str, Any]]:
    reason = "The primary container for production variant AllTraffic did not pass the ping health check."
    return [{"EndpointStatus": "Updating"}, {"EndpointStatus": "InService", "FailureReason": reason}]


def test_silent_rollback_is_red_with_sagemakers_reason(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = rolled_back
    with pytest.raises(AirflowFailException) as failure:
        deploy(claims)
    assert "ping health check" in str(failure.value)
    assert "still live on cfg-old" in str(failure.value)


def test_rollback_while_no_worker_was_there_is_red_and_not_tried_again(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = lambda config: [updating("cfg-old", config)]
    with pytest.raises(AirflowException):
        deploy(claims, store)
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", FailureReason="alarm went off")]
    with pytest.raises(AirflowFailException, match="alarm went off"):
        deploy(claims, store)
    assert len(sagemaker.made("UpdateEndpoint")) == 1
    # A person who clears the task after that means it.
    sagemaker.after_update = FakeSageMaker().after_update
    assert deploy(claims, store).replaced == "cfg-old"


def test_rollback_for_want_of_machines_is_retried(sagemaker: FakeSageMaker, claims: dict[str, Any]) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    reason = "Unable to provision requested ML compute capacity: InsufficientInstanceCapacity"
    sagemaker.after_update = lambda config: [{"EndpointStatus": "InService", "FailureReason": reason}]
    with pytest.raises(AirflowException) as failure:
        deploy(claims)
    assert not isinstance(failure.value, AirflowFailException)


def test_answer_from_before_the_update_is_not_taken_for_a_rollback(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", FailureReason="an old story")]
    sagemaker.after_update = lambda config: [
        {"EndpointStatus": "InService"},
        {"EndpointStatus": "Updating"},
        {"EndpointStatus": "InService", "EndpointConfigName": config},
    ]
    assert deploy(claims).replaced == "cfg-old"


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

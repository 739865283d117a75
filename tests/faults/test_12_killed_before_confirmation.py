"""A worker that dies between UpdateEndpoint and its confirmation: the retry makes no second update."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tests.operators.deploying import ENDPOINT, deploy, in_service, updating
from tests.operators.fake_sagemaker import MORNING, FakeSageMaker, TaskStore

pytestmark = pytest.mark.usefixtures("naps", "sagemaker", "alarms")


@pytest.mark.parametrize(
    "pending", ["wanted", None], ids=["named by SageMaker", "known from the task's store"]
)
def test_killed_between_update_and_confirm_makes_no_second_update(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str, pending: str | None
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = lambda config: [updating("cfg-old", pending and config)]
    with pytest.raises(AirflowException, match="It has been for"):
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


def test_rollback_while_no_worker_was_there_is_red_and_not_tried_again(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = lambda config: [updating("cfg-old", config)]
    with pytest.raises(AirflowException):
        deploy(claims, store)
    changed = {"FailureReason": "alarm went off", "LastModifiedTime": MORNING}
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", **changed)]
    with pytest.raises(AirflowFailException, match="alarm went off"):
        deploy(claims, store)
    assert len(sagemaker.made("UpdateEndpoint")) == 1
    # A person who clears the task after that means it.
    sagemaker.after_update = FakeSageMaker().after_update
    assert deploy(claims, store).replaced == "cfg-old"


@pytest.mark.parametrize("reason", [{}, {"FailureReason": "last week's"}], ids=["clean", "an old story"])
@pytest.mark.parametrize("busy", [[], [updating("cfg-old")]], ids=["at rest", "autoscaling changes it"])
def test_killed_before_the_request_left_updates_once(
    sagemaker: FakeSageMaker,
    claims: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    reason: dict[str, str],
    busy: list[dict[str, Any]],
) -> None:
    store = TaskStore()
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", **reason)]

    def killed(**request: Any) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as dying, pytest.raises(SystemExit):
        dying.setattr(sagemaker, "_UpdateEndpoint", killed)
        deploy(claims, store)
    sagemaker.endpoints[ENDPOINT] = [*busy, in_service("cfg-old", **reason)]
    # The one that never arrived is counted by the fake, too.
    assert deploy(claims, store).replaced == "cfg-old"
    assert len(sagemaker.made("UpdateEndpoint")) == 2

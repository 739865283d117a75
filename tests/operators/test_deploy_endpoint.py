from __future__ import annotations

from typing import Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from include.operators.endpoint_update import EndpointUpdate
from include.sagemaker.registry import record_approval
from include.settings import Settings
from tests.operators.deploying import ENDPOINT, choose, deploy, in_service, register, scaled, updating
from tests.operators.fake_sagemaker import FakeSageMaker, refusal

pytestmark = pytest.mark.usefixtures("naps", "sagemaker", "alarms")


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


def test_update_to_another_config_is_waited_for_first(
    sagemaker: FakeSageMaker, claims: dict[str, Any], wanted: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [updating("cfg-old", "cfg-other"), in_service("cfg-other")]
    assert deploy(claims).replaced == "cfg-other"


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


def test_update_moves_traffic_as_the_settings_say_and_is_watched(
    sagemaker: FakeSageMaker, claims: dict[str, Any], settings: Settings
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    deploy(claims)
    [update] = sagemaker.made("UpdateEndpoint")
    watched = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert [alarm["AlarmName"] for alarm in watched] == list(settings.alarm_names)
    assert update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TerminationWaitInSeconds"] == 300


def test_update_without_its_alarms_is_refused_before_anything_is_touched(
    sagemaker: FakeSageMaker, claims: dict[str, Any], alarms: Any
) -> None:
    alarms.delete_alarms(AlarmNames=["shop-recommender-latency"])
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    with pytest.raises(AirflowFailException, match="No alarm shop-recommender-latency") as failure:
        deploy(claims)
    assert "include/cloud/aws.yaml" in str(failure.value)
    assert "PMS_ROLLBACK_ON_ALARMS" in str(failure.value)
    assert sagemaker.calls == []


def test_first_deploy_and_unwatched_ones_need_no_alarms(
    sagemaker: FakeSageMaker, claims: dict[str, Any], alarms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms.delete_alarms(AlarmNames=["shop-recommender-latency"])
    deploy(claims)
    choose(monkeypatch, rollback_on_alarms=False)
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    deploy(claims)
    [update] = sagemaker.made("UpdateEndpoint")
    assert "AutoRollbackConfiguration" not in update["DeploymentConfig"]


def ring(alarms: Any) -> None:
    alarms.set_alarm_state(AlarmName="shop-recommender-5xx", StateValue="ALARM", StateReason="7 % are 5xx.")


def test_alarm_that_has_gone_off_before_the_update_is_told_and_nothing_touched(
    sagemaker: FakeSageMaker, claims: dict[str, Any], alarms: Any
) -> None:
    ring(alarms)
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    with pytest.raises(AirflowException, match="shop-recommender-5xx: 7 % are 5xx") as failure:
        deploy(claims)
    # It may be quiet when Airflow tries again.
    assert not isinstance(failure.value, AirflowFailException)
    assert sagemaker.calls == []


def test_a_way_back_is_open_while_the_live_models_alarm_is_on(
    sagemaker: FakeSageMaker, claims: dict[str, Any], alarms: Any
) -> None:
    ring(alarms)
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    assert deploy(claims, allow_older=True).replaced == "cfg-old"
    [update] = sagemaker.made("UpdateEndpoint")
    watched = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert {alarm["AlarmName"] for alarm in watched} == {
        "shop-recommender-latency",
        "shop-recommender-model-errors",
    }


@pytest.mark.parametrize("answer", ["Rejected", "PendingManualApproval"])
def test_model_that_the_registry_has_taken_back_since_is_not_put_live_by_clearing_the_task(
    sagemaker: FakeSageMaker, claims: dict[str, Any], answer: Any
) -> None:
    registered = register(claims)
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    assert deploy(claims, registered=registered).replaced == "cfg-old"
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    client = boto3.client("sagemaker", aws_access_key_id="x", aws_secret_access_key="x")
    record_approval(client, registered["package_arn"], answer, "It did not answer as the gate saw.")
    with pytest.raises(AirflowFailException, match=f"{answer} in the registry .It did not answer"):
        deploy(claims, registered=registered)
    assert [name for name, _ in sagemaker.calls] == ["UpdateEndpoint"]


def live_on(sagemaker: FakeSageMaker, config: str, **tags: str) -> None:
    """Has the endpoint be live on a configuration whose model is so new."""
    sagemaker.configs[config] = {
        "EndpointConfigName": config,
        "EndpointConfigArn": f"arn:config/{config}",
        "ProductionVariants": [{"VariantName": "AllTraffic", "InstanceType": "ml.m5.large"}],
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    sagemaker.endpoints[ENDPOINT] = [in_service(config)]


def dated(claims: dict[str, Any], data_until: str | None, trained_at: str | None = None) -> dict[str, Any]:
    model = {**claims["trained_model"], "data_until": data_until, "trained_at": trained_at}
    return {**claims, "trained_model": model}


@pytest.mark.parametrize(
    ("live", "mine", "moves"),
    [
        ({"data_until": "2026-02-02"}, ("2026-02-01", None), False),
        ({"data_until": "2026-02-01"}, ("2026-02-02", None), True),
        (
            {"data_until": "2026-02-01", "trained_at": "2026-02-01T05:00:00Z"},
            ("2026-02-01", "2026-02-01T04:00:00+00:00"),
            False,
        ),
        (
            {"data_until": "2026-02-01", "trained_at": "2026-02-01T05:00:00Z"},
            ("2026-02-01", "2026-02-01T06:00:00+00:00"),
            True,
        ),
        ({"data_until": "2026-02-01"}, (None, None), False),
        ({}, (None, None), True),
        ({"data_until": "yesterday"}, ("2020-01-01", None), True),
    ],
    ids=["older", "newer", "earlier", "later", "unknown", "both unknown", "live is not told"],
)
def test_an_older_model_never_takes_the_place_of_a_newer_one(
    sagemaker: FakeSageMaker, claims: dict[str, Any], live: Any, mine: Any, moves: bool
) -> None:
    live_on(sagemaker, "cfg-old", **live)
    claims = dated(claims, *mine)
    if moves:
        assert deploy(claims).replaced == "cfg-old"
        return
    with pytest.raises(AirflowSkipException, match="Deploy over a newer one") as skipped:
        deploy(claims)
    assert "cfg-old" in str(skipped.value) and sagemaker.calls == []
    assert deploy(claims, allow_older=True).replaced == "cfg-old"


def test_a_live_configuration_that_may_not_be_looked_at_is_of_unknown_age(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    live_on(sagemaker, "cfg-old", data_until="2026-02-02")
    denied = refusal("DescribeEndpointConfig", "AccessDeniedException", "not yours", 400)
    sagemaker.faults["DescribeEndpointConfig"] = denied
    assert deploy(dated(claims, "2026-02-01")).replaced == "cfg-old"


@pytest.mark.parametrize("operation", ["DescribeEndpointConfig", "ListTags"])
def test_a_live_configuration_of_the_projects_own_is_not_taken_for_old_because_it_may_not_be_looked_at(
    sagemaker: FakeSageMaker, claims: dict[str, Any], operation: str
) -> None:
    live_on(sagemaker, "pms-0123456789ab", data_until="2026-02-02")
    sagemaker.faults[operation] = refusal(operation, "AccessDeniedException", "not yours", 400)
    with pytest.raises(AirflowFailException, match=f"Allow {operation} to the identity"):
        deploy(dated(claims, "2026-02-01"))
    assert sagemaker.calls == []


def another_run_moves_it(sagemaker: FakeSageMaker, config: str, **tags: str) -> None:
    """Has the first update be refused, since another run's to this configuration is under way."""
    live_on(sagemaker, config, **tags)
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old"), updating("cfg-old", config), in_service(config)]
    said = 'Cannot update in-progress endpoint "arn:endpoint/shop-recommender".'
    sagemaker.faults["UpdateEndpoint"] = refusal("UpdateEndpoint", "ValidationException", said, 400)


def test_endpoint_that_another_run_moves_is_waited_for_and_then_decided_about_anew(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    another_run_moves_it(sagemaker, "cfg-other", data_until="2026-02-01")
    assert deploy(dated(claims, "2026-02-02")).replaced == "cfg-other"
    another_run_moves_it(sagemaker, "cfg-newer", data_until="2026-02-03")
    with pytest.raises(AirflowSkipException, match="cfg-newer"):
        deploy(dated(claims, "2026-02-02"))
    assert len(sagemaker.made("UpdateEndpoint")) == 1


def test_endpoint_that_is_always_changed_first_by_others_is_given_up(
    sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]

    def refuse(**request: Any) -> None:
        raise refusal("UpdateEndpoint", "ValidationException", "Cannot update in-progress endpoint", 400)

    monkeypatch.setattr(sagemaker, "_UpdateEndpoint", refuse)
    with pytest.raises(AirflowException, match="10 times in a row") as failure:
        deploy(claims)
    assert not isinstance(failure.value, AirflowFailException)


@pytest.mark.parametrize(
    ("data_until", "error"), [("2026-02-03", AirflowSkipException), ("2026-02-01", AirflowFailException)]
)
def test_endpoint_that_is_moved_on_right_after_the_update_is_no_rollback(
    sagemaker: FakeSageMaker, claims: dict[str, Any], data_until: str, error: type[Exception]
) -> None:
    live_on(sagemaker, "cfg-next", data_until=data_until)
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    sagemaker.after_update = lambda config: [updating("cfg-old", config), in_service("cfg-next")]
    with pytest.raises(error, match="cfg-next") as failure:
        deploy(dated(claims, "2026-02-02"))
    assert "rolled back" not in str(failure.value)


def test_autoscaling_is_as_the_settings_say_after_every_deploy(
    sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(claims)
    assert scaled() == []
    choose(monkeypatch, endpoint_max_instances=4)
    deploy(claims)
    deploy(claims)
    assert scaled() == [(1, 4, 6000.0)]
    choose(monkeypatch, endpoint_max_instances=8, endpoint_invocations_per_instance=100)
    deploy(claims)
    assert scaled() == [(1, 8, 100.0)]
    choose(monkeypatch, endpoint_max_instances=1)
    deploy(claims)
    assert scaled() == []


def test_new_model_begins_with_as_many_machines_as_the_old_one_has_now(
    sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    choose(monkeypatch, endpoint_max_instances=4)
    deploy(claims)
    live_on(sagemaker, wanted)
    live_on(sagemaker, "cfg-old")
    deploy(claims)
    [update] = sagemaker.made("UpdateEndpoint")
    assert update["RetainAllVariantProperties"] is True


def test_autoscaling_makes_way_for_other_machines_and_comes_back_even_after_a_rollback(
    sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, endpoint_max_instances=4)
    deploy(claims)
    choose(monkeypatch, endpoint_instance_type="ml.c5.large")
    live_on(sagemaker, "cfg-old")
    seen: list[Any] = []

    def update(config: str) -> list[dict[str, Any]]:
        seen.append(scaled())
        return [{"EndpointStatus": "InService", "FailureReason": "No ping."}]

    sagemaker.after_update = update
    with pytest.raises(AirflowFailException, match="No ping"):
        deploy(claims)
    assert "RetainAllVariantProperties" not in sagemaker.made("UpdateEndpoint")[0]
    assert (seen, scaled()) == ([[]], [(1, 4, 6000.0)])


def other_machines(sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the next update be one that autoscaling makes way for."""
    choose(monkeypatch, endpoint_max_instances=4)
    deploy(claims)
    choose(monkeypatch, endpoint_instance_type="ml.c5.large")
    live_on(sagemaker, "cfg-old")


def test_autoscaling_comes_back_where_the_update_that_it_made_way_for_is_refused(
    sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other_machines(sagemaker, claims, monkeypatch)
    sagemaker.faults["UpdateEndpoint"] = refusal("UpdateEndpoint", "ValidationException", "No such image.")
    with pytest.raises(AirflowFailException, match="No such image"):
        deploy(claims)
    assert scaled() == [(1, 4, 6000.0)]


def test_autoscaling_that_cannot_be_set_up_hides_neither_a_deploy_nor_a_rollback(
    sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other_machines(sagemaker, claims, monkeypatch)

    def refuse(update: EndpointUpdate) -> None:
        raise refusal("RegisterScalableTarget", "AccessDeniedException", "not you")

    monkeypatch.setattr(EndpointUpdate, "scale", refuse)
    assert deploy(claims).replaced == "cfg-old"
    live_on(sagemaker, "cfg-old")
    sagemaker.after_update = rolled_back
    with pytest.raises(AirflowFailException, match="ping health check"):
        deploy(claims)


def test_a_step_is_a_share_of_the_machines_that_autoscaling_has_made(
    sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    canary = {"traffic_shift": "canary", "traffic_step_percent": 50, "endpoint_instance_count": 2}
    choose(monkeypatch, endpoint_max_instances=4, **canary)
    name = deploy(claims).endpoint_config_name
    live_on(sagemaker, name)
    live_on(sagemaker, "cfg-old")
    grown = [{"VariantName": "AllTraffic", "CurrentInstanceCount": 3}]
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old", ProductionVariants=grown)]
    deploy(claims)
    [update] = sagemaker.made("UpdateEndpoint")
    routing = update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert (update["RetainAllVariantProperties"], routing["CanarySize"]["Value"]) == (True, 33)


def test_ephemeral_model_gets_an_endpoint_of_its_own_and_the_live_one_is_left_alone(
    sagemaker: FakeSageMaker, claims: dict[str, Any], alarms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, endpoint_max_instances=4)
    live_on(sagemaker, "cfg-old", data_until="2026-02-02")
    deployed = deploy(claims, ephemeral=True)
    assert deployed == deploy(claims, ephemeral=True)
    assert (deployed.ephemeral, deployed.replaced) == (True, None)
    [request] = sagemaker.made("CreateEndpoint")
    assert request["EndpointName"] == deployed.endpoint_name != ENDPOINT
    assert deployed.endpoint_name.startswith(f"{ENDPOINT}-")
    assert sagemaker.endpoints[ENDPOINT] == [in_service("cfg-old")]
    assert (sagemaker.made("UpdateEndpoint"), scaled()) == ([], [])

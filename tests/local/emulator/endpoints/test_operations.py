from __future__ import annotations

import io
import os
import re
import signal
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.cloud import BUCKET, ROLE, Cloud, Shop, alive, eventually, tar_of


def _linked_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("behaviour")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


def _size(**changes: Any) -> dict[str, Any]:
    return {"InitialInstanceCount": 1, "InstanceType": "ml.m5.large", "InitialVariantWeight": 1} | changes


def test_an_endpoint_serves_its_artefact(cloud: Cloud) -> None:
    name, config = cloud.name("endpoint"), cloud.config("good")
    arn = cloud.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)["EndpointArn"]
    assert cloud.sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "Creating"
    told = cloud.settled(name)
    assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", config)
    assert told["EndpointArn"] == arn
    variant = told["ProductionVariants"][0]
    assert (variant["VariantName"], variant["CurrentWeight"], variant["CurrentInstanceCount"]) == (
        "AllTraffic",
        1.0,
        1,
    )
    assert variant["DeployedImages"][0]["SpecifiedImage"] == "registry/serving:1"
    answer = cloud.invoke(name, b'{"x": 1}', Accept="application/json", CustomAttributes="trace=7")
    assert answer["model"] == "good"
    assert answer["body"] == '{"x": 1}'
    assert answer["variant"] == "AllTraffic"
    assert answer["Content-Type"] == "application/json"
    assert answer["Accept"] == "application/json"
    assert answer["Custom"] == "trace=7"
    assert answer["answer"]["ContentType"] == "application/json"
    assert answer["answer"]["CustomAttributes"] == "trace=7"


def test_the_containers_environment_is_the_models_and_no_secret(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNOWFLAKE_PASSWORD", "canary")
    model = cloud.model("good", Environment={"GIVEN": "yes"})
    config, name = cloud.name("config"), cloud.name("endpoint")
    cloud.sagemaker.create_endpoint_config(
        EndpointConfigName=config,
        ProductionVariants=[{"VariantName": "A", "ModelName": model} | _size()],
    )
    cloud.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    cloud.settled(name)
    environment = cloud.invoke(name)["environment"]
    assert environment["GIVEN"] == "yes"
    assert "canary" not in environment.values()


@pytest.mark.parametrize(
    ("artefact", "reason"),
    [
        ("crash", "did not pass the ping health check.*exit code 1: cannot read the weights"),
        (b"no archive", "Failed to extract model data archive"),
        (tar_of({"../behaviour": "good"}), "Failed to extract model data archive.*points outside"),
        (_linked_tar(), "Failed to extract model data archive.*neither a plain file"),
    ],
)
def test_an_artefact_that_cannot_be_served_fails_the_endpoint(
    cloud: Cloud, artefact: str | bytes, reason: str
) -> None:
    name = cloud.endpoint(artefact)
    told = cloud.sagemaker.describe_endpoint(EndpointName=name)
    assert told["EndpointStatus"] == "Failed"
    assert re.search(reason, told["FailureReason"], re.DOTALL)
    with pytest.raises(ClientError, match="ValidationError.*not found"):
        cloud.invoke(name)
    with pytest.raises(ClientError, match="Cannot update failed endpoint"):
        cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("good"))
    cloud.sagemaker.delete_endpoint(EndpointName=name)


def test_a_server_that_is_never_healthy_fails_the_endpoint_and_is_ended(cloud: Cloud) -> None:
    name = cloud.endpoint("sick")
    told = cloud.sagemaker.describe_endpoint(EndpointName=name)
    assert told["EndpointStatus"] == "Failed"
    assert "no answer to /ping" in told["FailureReason"]


def test_an_artefact_that_is_gone_fails_the_endpoint(cloud: Cloud) -> None:
    config, name = cloud.config("good"), cloud.name("endpoint")
    model = cloud.sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
    cloud.s3.delete_object(Bucket=BUCKET, Key=f"models/{model['ModelName']}/model.tar.gz")
    cloud.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    assert "Failed to download model data" in cloud.settled(name)["FailureReason"]


def test_no_request_fails_during_updates(cloud: Cloud) -> None:
    name = cloud.endpoint("blue-0")
    with Shop(cloud, name, clients=3) as shop:
        for number in range(1, 4):
            config = cloud.config(f"blue-{number}")
            cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
            cloud.settled(name)
        eventually(lambda: shop.said[-1] == "blue-3")
    assert set(shop.said) == {"blue-0", "blue-1", "blue-2", "blue-3"}


def test_an_update_ends_the_old_servers_after_their_last_request(cloud: Cloud) -> None:
    name = cloud.endpoint("old")
    pids = cloud.invoke(name)["pids"]
    answers: list[dict[str, Any]] = []
    slow = threading.Thread(target=lambda: answers.append(cloud.invoke(name, "sleep 3")))
    slow.start()
    time.sleep(0.3)
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("new"))
    cloud.settled(name)
    assert cloud.invoke(name)["model"] == "new"
    slow.join()
    assert answers[0]["model"] == "old"
    eventually(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("artefact", ["crash", b"no archive"])
def test_a_failed_update_leaves_the_old_config_in_service(cloud: Cloud, artefact: str | bytes) -> None:
    name = cloud.endpoint("steady")
    before = cloud.sagemaker.describe_endpoint(EndpointName=name)
    bad = cloud.config(artefact)
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=bad)
    told = cloud.settled(name)
    assert told["EndpointStatus"] == "InService"
    assert told["EndpointConfigName"] == before["EndpointConfigName"]
    assert told["FailureReason"]
    assert "PendingDeploymentSummary" not in told
    assert cloud.invoke(name)["model"] == "steady"
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("better"))
    assert "FailureReason" not in cloud.settled(name)
    assert cloud.invoke(name)["model"] == "better"


def test_an_endpoint_in_progress_takes_no_other_change(cloud: Cloud) -> None:
    name, config = cloud.name("endpoint"), cloud.config("good")
    sagemaker = cloud.sagemaker
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=cloud.config("sick"))
    with pytest.raises(ClientError, match="ValidationException.*Cannot update in-progress endpoint"):
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
    with pytest.raises(ClientError, match="in-progress"):
        sagemaker.delete_endpoint(EndpointName=name)
    cloud.settled(name)
    name = cloud.endpoint("good")
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("sick"))
    told = sagemaker.describe_endpoint(EndpointName=name)
    assert told["EndpointStatus"] == "Updating"
    assert told["PendingDeploymentSummary"]["EndpointConfigName"] != told["EndpointConfigName"]
    with pytest.raises(ClientError, match="ValidationException.*Cannot update in-progress endpoint"):
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
    assert cloud.invoke(name)["model"] == "good"
    cloud.settled(name)


@pytest.mark.parametrize("behaviour", ["good", "stubborn"])
def test_delete_ends_the_server_and_what_it_started(cloud: Cloud, behaviour: str) -> None:
    name = cloud.endpoint(behaviour)
    pids = cloud.invoke(name)["pids"]
    assert all(map(alive, pids))
    cloud.sagemaker.delete_endpoint(EndpointName=name)
    cloud.sagemaker.get_waiter("endpoint_deleted").wait(
        EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 15}
    )
    eventually(lambda: not any(map(alive, pids)), 5)  # on a busy machine, a while after KILL
    with pytest.raises(ClientError, match="ValidationError.*not found"):
        cloud.invoke(name)
    assert not (cloud.state_dir / "endpoints" / "us-east-1" / name).exists()


@pytest.mark.parametrize(("status", "whose"), [(400, "client"), (404, "client"), (500, "server")])
def test_what_the_model_refuses_is_a_model_error(cloud: Cloud, status: int, whose: str) -> None:
    name = cloud.endpoint("good")
    runtime = cloud.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ModelError) as error:
        runtime.invoke_endpoint(EndpointName=name, Body=f"status {status}")
    response = error.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == status
    assert f"status {status}" in response["OriginalMessage"]
    assert f"Received {whose} error ({status})" in response["Error"]["Message"]
    assert cloud.invoke(name)["model"] == "good"


def test_a_body_over_the_limit_is_refused_and_the_endpoint_lives(cloud: Cloud) -> None:
    name = cloud.endpoint("good")
    with pytest.raises(ClientError, match="ValidationError.*too large"):
        cloud.invoke(name, b"x" * (6 * 1024**2 + 1))
    assert len(cloud.invoke(name, b"x" * 6 * 1024**2)["body"]) == 6 * 1024**2


def test_a_dead_server_is_service_unavailable(cloud: Cloud) -> None:
    name = cloud.endpoint("good")
    os.kill(cloud.invoke(name)["pids"][0], signal.SIGKILL)
    with pytest.raises(ClientError, match="ServiceUnavailable"):
        eventually(lambda: cloud.invoke(name) is None)


def test_two_variants_share_the_traffic_by_weight(cloud: Cloud) -> None:
    config, name = cloud.name("config"), cloud.name("endpoint")
    variants = [
        {"VariantName": "Old", "ModelName": cloud.model("old")} | _size(InitialVariantWeight=0),
        {"VariantName": "New", "ModelName": cloud.model("new")} | _size(),
    ]
    cloud.sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=variants)
    cloud.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    cloud.settled(name)
    assert {cloud.invoke(name)["variant"] for _ in range(10)} == {"New"}
    assert cloud.invoke(name, TargetVariant="Old")["model"] == "old"
    with pytest.raises(ClientError, match="ValidationError"):
        cloud.invoke(name, TargetVariant="Other")


def test_existing_names_are_refused(cloud: Cloud) -> None:
    sagemaker, endpoint = cloud.sagemaker, cloud.endpoint("good")
    config = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    model = sagemaker.describe_model(ModelName=variants[0]["ModelName"])
    again = {key: model[key] for key in ("ModelName", "ExecutionRoleArn", "PrimaryContainer")}
    with pytest.raises(ClientError, match="ValidationException.*Cannot create already existing model"):
        sagemaker.create_model(**again)
    with pytest.raises(ClientError, match="Cannot create already existing endpoint configuration"):
        sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=variants)
    with pytest.raises(ClientError, match="Cannot create already existing endpoint "):
        sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)


@pytest.mark.parametrize(
    ("call", "arguments", "said"),
    [
        ("describe_model", {"ModelName": "none"}, 'Could not find model "arn:aws:sagemaker:'),
        ("delete_model", {"ModelName": "none"}, "Could not find model"),
        ("describe_endpoint_config", {"EndpointConfigName": "none"}, "Could not find endpoint configuration"),
        ("delete_endpoint_config", {"EndpointConfigName": "none"}, "Could not find endpoint configuration"),
        (
            "create_endpoint",
            {"EndpointName": "e", "EndpointConfigName": "none"},
            "Could not find endpoint configuration",
        ),
        ("describe_endpoint", {"EndpointName": "none"}, "Could not find endpoint "),
        ("delete_endpoint", {"EndpointName": "none"}, "Could not find endpoint "),
        (
            "update_endpoint",
            {"EndpointName": "none", "EndpointConfigName": "none"},
            "Could not find endpoint ",
        ),
        (
            "create_endpoint_config",
            {
                "EndpointConfigName": "c",
                "ProductionVariants": [{"VariantName": "A", "ModelName": "none"} | _size()],
            },
            "Could not find model",
        ),
        (
            "create_model",
            {
                "ModelName": "m",
                "ExecutionRoleArn": ROLE,
                "PrimaryContainer": {"Image": "i", "ModelDataUrl": f"s3://{BUCKET}/none.tar.gz"},
            },
            "Could not find model data at",
        ),
        ("create_model", {"ModelName": "m", "ExecutionRoleArn": ROLE}, "exactly one of"),
    ],
)
def test_unknown_names_are_not_found(cloud: Cloud, call: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ClientError, match=said) as error:
        getattr(cloud.sagemaker, call)(**arguments)
    assert error.value.response["Error"]["Code"] == "ValidationException"


def test_models_configs_and_endpoints_are_described_listed_tagged_and_deleted(cloud: Cloud) -> None:
    sagemaker, endpoint = cloud.sagemaker, cloud.endpoint("good")
    config = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    described = sagemaker.describe_endpoint_config(EndpointConfigName=config)
    model = described["ProductionVariants"][0]["ModelName"]
    assert sagemaker.describe_model(ModelName=model)["PrimaryContainer"]["Image"] == "registry/serving:1"
    listed = (
        sagemaker.list_models(NameContains=model)["Models"][0]["ModelName"],
        sagemaker.list_endpoint_configs(NameContains=config)["EndpointConfigs"][0]["EndpointConfigName"],
        sagemaker.list_endpoints(NameContains=endpoint)["Endpoints"][0]["EndpointName"],
    )
    assert listed == (model, config, endpoint)
    arn = described["EndpointConfigArn"]
    tag = {"Key": "snapshot", "Value": "abc"}
    sagemaker.add_tags(ResourceArn=arn, Tags=[tag])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [tag]
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["snapshot"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == []
    sagemaker.delete_endpoint_config(EndpointConfigName=config)
    sagemaker.delete_model(ModelName=model)
    assert cloud.invoke(endpoint)["model"] == "good"  # what serves goes on serving
    assert sagemaker.list_models(NameContains=model)["Models"] == []


def test_deployment_settings_are_told_back(cloud: Cloud) -> None:
    name, config = cloud.endpoint("good"), cloud.config("good")
    deployment = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
        }
    }
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config, DeploymentConfig=deployment)
    assert cloud.settled(name)["LastDeploymentConfig"] == deployment


def test_the_extracted_artefacts_of_old_configs_are_removed(cloud: Cloud) -> None:
    name = cloud.endpoint("one")
    for behaviour in ("two", "three"):
        cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config(behaviour))
        cloud.settled(name)
    place: Path = cloud.state_dir / "endpoints" / "us-east-1" / name
    eventually(lambda: [path.name for path in place.iterdir()] == ["3"])

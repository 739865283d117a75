"""Data capture and shadow variants: what is kept of requests, and that neither costs them anything."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.local.emulator.resources.models import EndpointConfig
from include.local.emulator.serving.capture import rule_of
from include.local.emulator.serving.metrics import Source
from include.local.emulator.serving.shadow import Shadow
from tests.local.cloud import BUCKET, Cloud, Shop, eventually


def _capture(prefix: str = "captured", percent: int = 100, **changes: Any) -> dict[str, Any]:
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": percent,
        "DestinationS3Uri": f"s3://{BUCKET}/{prefix}",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {
            "JsonContentTypes": ["application/json"],
            "CsvContentTypes": ["text/csv"],
        },
    } | changes


def _kept(cloud: Cloud, endpoint: str, variant: str = "AllTraffic") -> list[dict[str, Any]]:
    found = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"captured/{endpoint}/{variant}/")
    lines: list[dict[str, Any]] = []
    for item in found.get("Contents", []):
        pattern = (
            rf"captured/{endpoint}/{variant}/\d{{4}}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{{3}}-[0-9a-f-]{{36}}\.jsonl"
        )
        assert re.fullmatch(pattern, item["Key"])
        body = cloud.s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
        lines += [json.loads(line) for line in body.splitlines()]
    return lines


def test_requests_and_answers_are_kept_as_aws_keeps_them(cloud: Cloud) -> None:
    name = cloud.endpoint("good", DataCaptureConfig=_capture())
    assert cloud.sagemaker.describe_endpoint(EndpointName=name)["DataCaptureConfig"] == {
        "EnableCapture": True,
        "CaptureStatus": "Started",
        "CurrentSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{BUCKET}/captured",
        "KmsKeyId": "",
    }
    cloud.invoke(name, '{"x": "é"}', InferenceId="mine-1")
    runtime = cloud.client("sagemaker-runtime")
    runtime.invoke_endpoint(EndpointName=name, Body=b"1,2", ContentType="text/csv; charset=utf-8")
    with pytest.raises(ClientError):
        cloud.invoke(name, "status 500")
    first, second = eventually(lambda: len(lines := _kept(cloud, name)) == 2 and lines, 4)
    assert first.keys() == {"captureData", "eventMetadata", "eventVersion"}
    assert first["eventVersion"] == "0"
    assert first["captureData"]["endpointInput"] == {
        "observedContentType": "application/json",
        "mode": "INPUT",
        "data": '{"x": "é"}',
        "encoding": "JSON",
    }
    output = first["captureData"]["endpointOutput"]
    assert (output["observedContentType"], output["mode"], output["encoding"]) == (
        "application/json",
        "OUTPUT",
        "JSON",
    )
    assert json.loads(output["data"])["model"] == "good"
    metadata = first["eventMetadata"]
    assert uuid.UUID(metadata["eventId"])
    assert (metadata["inferenceId"], metadata["customAttributes"]) == ("mine-1", ["trace=7"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["inferenceTime"])
    assert second["captureData"]["endpointInput"] == {
        "observedContentType": "text/csv; charset=utf-8",
        "mode": "INPUT",
        "data": "1,2",
        "encoding": "CSV",
    }
    assert "inferenceId" not in second["eventMetadata"]


def test_what_was_kept_last_is_written_before_the_endpoint_is_gone(cloud: Cloud) -> None:
    name = cloud.endpoint("good", DataCaptureConfig=_capture())
    for _ in range(5):
        cloud.invoke(name)
    cloud.sagemaker.delete_endpoint(EndpointName=name)
    eventually(lambda: cloud.sagemaker.list_endpoints(NameContains=name)["Endpoints"] == [])
    assert len(_kept(cloud, name)) == 5


def test_a_bucket_that_is_gone_fails_no_request(cloud: Cloud) -> None:
    capture = _capture(DestinationS3Uri="s3://no-such-bucket/captured")
    name, other = (
        cloud.endpoint("good", DataCaptureConfig=capture),
        cloud.endpoint("good", DataCaptureConfig=_capture()),
    )
    for _ in range(3):
        cloud.invoke(name)
        cloud.invoke(other)
    assert len(eventually(lambda: len(lines := _kept(cloud, other)) == 3 and lines, 6)) == 3


@pytest.mark.parametrize(
    ("changes", "modes", "encoding"),
    [
        ({}, {"Input", "Output"}, "JSON"),
        ({"CaptureOptions": [{"CaptureMode": "InputAndOutput"}]}, {"Input", "Output"}, "JSON"),
        ({"CaptureOptions": [{"CaptureMode": "Output"}]}, {"Output"}, "JSON"),
        ({"CaptureContentTypeHeader": {"CsvContentTypes": ["Application/JSON"]}}, {"Input", "Output"}, "CSV"),
        ({"CaptureContentTypeHeader": {"JsonContentTypes": ["text/csv"]}}, {"Input", "Output"}, "BASE64"),
    ],
)
def test_modes_and_encodings(changes: dict[str, Any], modes: set[str], encoding: str) -> None:
    rule = rule_of(EndpointConfig("c", "us-east-1", {"DataCaptureConfig": _capture(**changes)}))
    assert rule is not None
    assert rule.modes == modes
    assert rule.part("INPUT", "application/json; charset=utf-8", b"{}")["encoding"] == encoding
    part = rule.part("INPUT", "application/json", b"\xff\x00")  # no text, whatever its type says
    assert (part["encoding"], base64.b64decode(part["data"])) == ("BASE64", b"\xff\x00")


def test_the_share_that_is_kept() -> None:
    def kept(**changes: Any) -> int:
        rule = rule_of(EndpointConfig("c", "us-east-1", {"DataCaptureConfig": _capture(**changes)}))
        return 0 if rule is None else sum(rule.takes() for _ in range(2000))

    assert kept() == 2000
    assert kept(InitialSamplingPercentage=0) == kept(EnableCapture=False) == 0
    assert 450 < kept(InitialSamplingPercentage=30) < 750


def _shadowed(cloud: Cloud, shadow: str, *, weight: float = 1.0, **members: Any) -> str:
    """An endpoint with a shadow variant."""
    config, name = cloud.name("config"), cloud.name("endpoint")
    cloud.sagemaker.create_endpoint_config(
        EndpointConfigName=config,
        ProductionVariants=[cloud.variant("live")],
        ShadowProductionVariants=[
            cloud.variant(shadow, VariantName="Challenger", InitialVariantWeight=weight)
        ],
        **members,
    )
    cloud.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    cloud.settled(name)
    return name


def _counted(cloud: Cloud, endpoint: str, variant: str, metric: str = "Invocations") -> float:
    points = cloud.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}],
        StartTime=time.time() - 600,
        EndTime=time.time() + 600,
        Period=3600,
        Statistics=["Sum"],
    )["Datapoints"]
    return float(sum(point["Sum"] for point in points))


def test_a_shadow_gets_a_copy_of_each_request_and_answers_nobody(cloud: Cloud) -> None:
    name = _shadowed(cloud, "challenger", DataCaptureConfig=_capture())
    told = cloud.sagemaker.describe_endpoint(EndpointName=name)
    assert [variant["VariantName"] for variant in told["ProductionVariants"]] == ["AllTraffic"]
    shadow = told["ShadowProductionVariants"][0]
    assert (shadow["VariantName"], shadow["CurrentWeight"]) == ("Challenger", 1.0)
    answers = [cloud.invoke(name, f"sleep 0.0{number}", InferenceId=f"i-{number}") for number in range(1, 6)]
    assert {(answer["model"], answer["variant"]) for answer in answers} == {("live", "AllTraffic")}
    with pytest.raises(ClientError, match="Production variant Challenger does not exist"):
        cloud.invoke(name, TargetVariant="Challenger")
    copies = eventually(lambda: len(lines := _kept(cloud, name, "Challenger")) == 5 and lines, 6)
    for line in copies:
        assert json.loads(line["captureData"]["endpointOutput"]["data"])["model"] == "challenger"
    originals = _kept(cloud, name)

    def ids(lines: list[dict[str, Any]]) -> set[tuple[str, str]]:
        return {(line["eventMetadata"]["inferenceId"], line["eventMetadata"]["eventId"]) for line in lines}

    assert ids(copies) == ids(originals)
    assert len(ids(copies)) == 5
    eventually(lambda: _counted(cloud, name, "Challenger") == 5)
    assert _counted(cloud, name, "AllTraffic") == 5


def test_a_shadow_that_fails_fails_no_request(cloud: Cloud) -> None:
    name = _shadowed(cloud, "status 500")
    with Shop(cloud, name) as shop:
        eventually(lambda: len(shop.said) > 30)
    assert set(shop.said) == {"live"}
    eventually(lambda: _counted(cloud, name, "Challenger", "Invocation5XXErrors") == len(shop.said))
    assert _counted(cloud, name, "AllTraffic", "Invocation5XXErrors") == 0


def test_a_shadow_comes_and_goes_by_updates_and_no_request_fails(cloud: Cloud) -> None:
    name = cloud.endpoint("live")
    before = cloud.sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    with_shadow = cloud.sagemaker.describe_endpoint(EndpointName=_shadowed(cloud, "challenger"))
    with Shop(cloud, name):
        for config in (with_shadow["EndpointConfigName"], before):
            cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
            told = cloud.settled(name)
            assert told["EndpointConfigName"] == config
            assert ("ShadowProductionVariants" in told) == (config != before)
            time.sleep(0.3)


class _Weighed:
    """As much of a variant as a shadow asks of one."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.name = "v"
        self.source = Source("us-east-1", "e", "v", "c")


@pytest.mark.parametrize(
    ("weight", "low", "high"), [(1.0, 2000, 2000), (0.3, 450, 750), (0.0, 0, 0), (2.0, 2000, 2000)]
)
def test_the_share_that_is_copied_is_that_of_the_weights(weight: float, low: int, high: int) -> None:
    shadow = Shadow(_Weighed(weight), _Weighed(1.0))  # type: ignore[arg-type]
    assert low <= sum(shadow.takes() for _ in range(2000)) <= high
    shadow.close()


def test_copies_that_find_no_place_are_dropped_and_counted() -> None:
    shadow = Shadow(_Weighed(1.0), _Weighed(1.0))  # type: ignore[arg-type]
    gate = threading.Event()
    started = time.monotonic()
    for _ in range(300):
        shadow.offer(gate.wait)
    assert time.monotonic() - started < 1
    assert 40 <= shadow.dropped <= 44  # of 300, all but 256 that wait and up to four that are under way
    gate.set()
    shadow.close()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"production": 2}, "beside exactly one production variant"),
        ({"shadows": 2}, "takes one shadow variant"),
        ({"shadow_name": "P0"}, "Variant names must be unique"),
        ({"serverless": True}, "exactly one variant"),
    ],
)
def test_shadows_that_aws_does_not_have_are_refused(cloud: Cloud, members: dict[str, Any], said: str) -> None:
    model, shadows = cloud.model("good"), range(members.get("shadows", 1))

    def variant(name: str) -> dict[str, Any]:
        size: dict[str, Any] = {"InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        if members.get("serverless"):
            size = {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 1}}
        return {"VariantName": name, "ModelName": model, **size}

    with pytest.raises(ClientError, match=f"ValidationException.*{said}"):
        cloud.sagemaker.create_endpoint_config(
            EndpointConfigName=cloud.name("config"),
            ProductionVariants=[variant(f"P{number}") for number in range(members.get("production", 1))],
            ShadowProductionVariants=[
                variant(members.get("shadow_name", f"S{number}")) for number in shadows
            ],
        )

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.local.emulator.server import Emulator
from tests.local.cloud import BUCKET, Cloud


def _post(
    cloud: Cloud, headers: dict[str, str], body: bytes = b"{}", path: str = "/"
) -> tuple[int, dict[str, Any], http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(cloud.url.removeprefix("http://"), timeout=10)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer, response


@pytest.mark.parametrize(
    "operation",
    ["CreateMagic", "", "CreateTrainingJob/..", "CreateHumanTaskUi"],
)
def test_an_unknown_operation_is_refused_as_aws_does(cloud: Cloud, operation: str) -> None:
    status, answer, response = _post(cloud, {"X-Amz-Target": f"SageMaker.{operation}"})
    assert 400 <= status < 500
    assert answer["__type"] in ("UnknownOperationException", "ValidationException")
    assert response.headers["x-amzn-ErrorType"] == answer["__type"]


def test_an_operation_that_nobody_implements_is_unknown(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match="UnknownOperationException"):
        cloud.sagemaker.list_workforces()


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[1]", b"7"])
def test_a_body_that_is_no_request_is_refused(cloud: Cloud, body: bytes) -> None:
    status, answer, _ = _post(cloud, {"X-Amz-Target": "SageMaker.DescribeModel"}, body)
    assert (status, answer["__type"]) == (400, "SerializationException")


def test_parameters_that_the_client_does_not_check_are_refused(cloud: Cloud) -> None:
    request = cloud.job_request("pass")
    request["ResourceConfig"]["InstanceType"] = "ml.giant.9xlarge"
    with pytest.raises(ClientError, match="ValidationException.*instanceType.*enum value set"):
        cloud.sagemaker.create_training_job(**request)
    with pytest.raises(ClientError, match="ValidationException.*regular expression"):
        cloud.sagemaker.describe_endpoint(EndpointName="under_score")
    # Of moto's operations, too.
    with pytest.raises(ClientError, match="ValidationException.*regular expression"):
        cloud.sagemaker.create_experiment(ExperimentName="under_score")


def test_other_services_are_motos(cloud: Cloud) -> None:
    assert cloud.client("sts").get_caller_identity()["Account"] == "123456789012"
    cloud.s3.put_object(Bucket=BUCKET, Key="a/b c+é", Body=b"x" * 3_000_000)
    assert len(cloud.s3.get_object(Bucket=BUCKET, Key="a/b c+é")["Body"].read()) == 3_000_000
    cloud.client("cloudwatch").put_metric_data(
        Namespace="shop", MetricData=[{"MetricName": "m", "Value": 1.0}]
    )


def test_one_emulator_a_process(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop the other emulator first"):
        Emulator(tmp_path, sys.executable).start()


def test_an_emulator_that_is_not_started_has_no_address(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path, sys.executable)
    with pytest.raises(RuntimeError, match="not started"):
        _ = emulator.url
    emulator.stop()

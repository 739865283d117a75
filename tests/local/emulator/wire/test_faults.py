from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from werkzeug.test import Client

from include.local.emulator.application import Application
from include.local.emulator.wire.faults import Faults
from tests.local.cloud import BUCKET, Cloud

Calls = Callable[[Cloud], Any]
SEEN: dict[str, Calls] = {
    "DescribeTrainingJob": lambda cloud: cloud.sagemaker.describe_training_job(TrainingJobName="x"),
    "CreateExperiment": lambda cloud: cloud.sagemaker.create_experiment(ExperimentName="x"),
    "InvokeEndpoint": lambda cloud: cloud.invoke("x"),
    "s3:ListBuckets": lambda cloud: cloud.s3.list_buckets(),
    "s3:CreateBucket": lambda cloud: cloud.s3.create_bucket(Bucket="x"),
    "s3:ListObjects": lambda cloud: cloud.s3.list_objects(Bucket=BUCKET),
    "s3:ListObjectsV2": lambda cloud: cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix="a"),
    "s3:GetBucketLocation": lambda cloud: cloud.s3.get_bucket_location(Bucket=BUCKET),
    "s3:DeleteObjects": lambda cloud: cloud.s3.delete_objects(
        Bucket=BUCKET, Delete={"Objects": [{"Key": "a"}]}
    ),
    "s3:PutObject": lambda cloud: cloud.s3.put_object(Bucket=BUCKET, Key="a/b c+é", Body=b"x" * 3_000_000),
    "s3:GetObject": lambda cloud: cloud.s3.get_object(Bucket=BUCKET, Key="a"),
    "s3:CopyObject": lambda cloud: cloud.s3.copy_object(Bucket=BUCKET, Key="b", CopySource=f"{BUCKET}/a"),
    "s3:CreateMultipartUpload": lambda cloud: cloud.s3.create_multipart_upload(Bucket=BUCKET, Key="a"),
    "s3:UploadPart": lambda cloud: cloud.s3.upload_part(
        Bucket=BUCKET, Key="a", UploadId="u", PartNumber=1, Body=b"x"
    ),
    "s3:CompleteMultipartUpload": lambda cloud: cloud.s3.complete_multipart_upload(
        Bucket=BUCKET, Key="a", UploadId="u", MultipartUpload={"Parts": [{"ETag": "e", "PartNumber": 1}]}
    ),
    "sts:GetCallerIdentity": lambda cloud: cloud.client("sts").get_caller_identity(),
    "logs:DescribeLogGroups": lambda cloud: cloud.client("logs").describe_log_groups(),
    "cloudwatch:DescribeAlarms": lambda cloud: cloud.client("cloudwatch").describe_alarms(),
    "cloudformation:ListStacks": lambda cloud: cloud.client("cloudformation").list_stacks(),
}


def _request(cloud: Cloud, method: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(cloud.url.removeprefix("http://"), timeout=10)
    connection.request(method, "/_emulator/faults", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


@pytest.mark.parametrize("operation", SEEN)
def test_an_operation_answers_with_the_error_asked_for(
    cloud: Cloud, faults: Callable[..., None], operation: str
) -> None:
    faults({"operation": operation, "code": "ThrottlingException", "status": 400, "reason": "Rate exceeded"})
    with pytest.raises(ClientError) as error:
        SEEN[operation](cloud)
    assert error.value.response["Error"]["Code"] == "ThrottlingException"
    assert error.value.response["Error"]["Message"] == "Rate exceeded"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_rule_is_used_up_and_others_are_not_touched(cloud: Cloud, faults: Callable[..., None]) -> None:
    faults(
        {"operation": "s3:HeadObject", "code": "SlowDown", "status": 503, "times": 2},
        {"operation": "s3:DeleteObject", "code": "InternalError", "status": 500, "times": None},
    )
    cloud.put("there", b"x")
    for _ in range(2):
        with pytest.raises(ClientError, match="503"):
            cloud.s3.head_object(Bucket=BUCKET, Key="there")
    assert cloud.s3.head_object(Bucket=BUCKET, Key="there")["ContentLength"] == 1
    left = {"operation": "s3:DeleteObject", "code": "InternalError", "status": 500, "times": None}
    assert _request(cloud, "GET") == (200, [{**left, "delay_seconds": 0.0, "reason": None}])
    assert _request(cloud, "DELETE") == (200, [])
    cloud.s3.delete_object(Bucket=BUCKET, Key="there")


def test_a_rule_without_a_code_only_delays(cloud: Cloud, faults: Callable[..., None]) -> None:
    faults({"operation": "s3:ListBuckets", "delay_seconds": 0.3})
    spans = []
    for _ in range(2):
        begun = time.monotonic()
        cloud.s3.list_buckets()
        spans.append(time.monotonic() - begun)
    assert spans[0] > 0.3 > spans[1]


def test_a_connection_is_dropped(cloud: Cloud, faults: Callable[..., None]) -> None:
    faults({"operation": "s3:PutObject", "code": "drop"}, {"operation": "ListModels", "code": "drop"})
    with pytest.raises(ConnectionClosedError):
        cloud.put("dropped", b"x" * 3_000_000)
    with pytest.raises(ConnectionClosedError):
        cloud.sagemaker.list_models()
    cloud.sagemaker.list_models()


def test_jobs_and_their_scripts_are_spared(cloud: Cloud, faults: Callable[..., None]) -> None:
    request = cloud.job_request("pass")
    faults({"operation": "s3:GetObject", "code": "SlowDown", "status": 503, "times": None})
    cloud.sagemaker.create_training_job(**request)
    assert cloud.finished(request["TrainingJobName"])["TrainingJobStatus"] == "Completed"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"operation": "CreateModel"}, "a list"),
        ([7], "rule 1: it is not an object"),
        ([{"code": "x"}], "exactly one of operation, job, endpoint"),
        ([{"operation": "CreateModel", "job": "*", "code": "x"}], "exactly one of"),
        (
            [{"operation": "CreateModel", "code": "x", "event": "fail"}],
            "unknown event; a rule with operation",
        ),
        ([{"operation": "CreateModel", "code": "x", "after": 1}], "unknown after"),
        ([{"operation": "CreateModle", "code": "x"}], "no operation CreateModle"),
        ([{"operation": "s3:PutObjekt", "code": "x"}], "no operation s3:PutObjekt"),
        ([{"operation": "s4:PutObject", "code": "x"}], "no operation s4:PutObject"),
        ([{"operation": "lambda:Invoke", "code": "x"}], "no operation lambda:Invoke"),
        ([{"operation": "CreateModel"}], "without code or delay_seconds"),
        ([{"operation": "CreateModel", "code": "x", "status": 200}], "status 200"),
        ([{"operation": "CreateModel", "code": "x", "status": "500"}], "status '500' has the wrong type"),
        ([{"operation": "CreateModel", "code": "x", "times": 0}], "times 0 is too small"),
        ([{"operation": "CreateModel", "code": "x", "times": True}], "times True has the wrong type"),
        ([{"operation": "CreateModel", "delay_seconds": -1}], "delay_seconds -1 is too small"),
        ([{"job": "*", "event": "rollback"}], "event has to be one of spot_interruption"),
        ([{"endpoint": "*", "event": "fail"}, {"endpoint": "e"}], "rule 2: event has to be one of rollback"),
    ],
)
def test_a_rule_that_says_nothing_sensible_is_refused(
    cloud: Cloud, faults: Callable[..., None], rules: object, said: str
) -> None:
    status, answer = _request(cloud, "POST", json.dumps(rules).encode())
    assert (status, answer["__type"]) == (400, "ValidationException")
    assert said in answer["message"]
    assert _request(cloud, "GET") == (200, [])


def test_the_route_is_no_ones_but_the_tests(cloud: Cloud) -> None:
    assert _request(cloud, "POST", b"{")[0] == 400
    assert _request(cloud, "PUT")[0] == 404
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        assert _request(cloud, "GET", **headers)[0] == 403


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_without_being_asked_for_there_is_no_route(method: str) -> None:
    faults = Faults()
    client = Client(Application(None, None, faults, control_route=False))  # type: ignore[arg-type]
    rules = [{"operation": "CreateModel", "code": "x"}]
    answer = client.open("/_emulator/faults", method=method, base_url="http://127.0.0.1", json=rules)
    assert answer.status_code == 404
    assert not faults


def test_events_are_told_to_the_job_or_endpoint_they_are_for() -> None:
    faults = Faults()
    faults.add(
        [
            {"job": "one", "event": "spot_interruption", "after_seconds": 1, "times": 2},
            {"job": "*", "event": "fail", "reason": "because"},
            {"endpoint": "*", "event": "rollback"},
        ]
    )
    assert faults.job_event("one", 0.5, ["spot_interruption"]) is None
    for _ in range(2):
        rule = faults.job_event("one", 1.5)
        assert rule is not None and rule.event == "spot_interruption"
    assert faults.job_event("two", events=["no_capacity"]) is None
    rule = faults.job_event("two")
    assert rule is not None and (rule.event, rule.reason) == ("fail", "because")
    assert faults.job_event("two") is None
    rule = faults.endpoint_event("any")
    assert rule is not None and rule.event == "rollback"
    assert faults.endpoint_event("any") is None

"""An emulator that is killed and starts again on the same folder: what it had told is there."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.local.cloud import BUCKET, ROLE, Cloud, clients_of, eventually

DRIVER = """
import pathlib, sys, threading
from include.local.emulator.server import Emulator
command = [sys.executable, sys.argv[2]]
emulator = Emulator(
    pathlib.Path(sys.argv[1]), sys.executable, server_command=command, startup_seconds=6, stop_grace_seconds=1
)
print(emulator.start().url, flush=True)
threading.Event().wait()
"""
# Notes in its checkpoint how often it has begun; the first try never ends by itself.
COUNTS = """
import os, pathlib, time
place = pathlib.Path(os.environ["PMS_CHECKPOINT_DIR"])
place.mkdir(parents=True, exist_ok=True)
begun = len(list(place.iterdir()))
(place / f"begun-{begun}").write_text("x")
print("begun before:", begun, flush=True)
while begun == 0:
    time.sleep(0.05)
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "weights").write_text(str(begun))
"""
BIG = bytes(range(256)) * 4096 * 11  # 11 MiB: three parts
Killed = Callable[[], Cloud]


@pytest.fixture
def start(tmp_path: Path, root: Path, fake_model_server: Path) -> Iterator[Killed]:
    """Starts an emulator, after killing the one before."""
    processes: list[subprocess.Popen[str]] = []

    def kill_and_start() -> Cloud:
        for process in processes:
            process.kill()
            process.wait()
        command = [sys.executable, "-c", DRIVER, str(tmp_path / "state"), str(fake_model_server)]
        processes.append(subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout is not None
        url = processes[-1].stdout.readline().strip()
        return Cloud(url, tmp_path / "state", clients_of(url))

    yield kill_and_start
    for process in processes:
        process.kill()
        process.wait()


def _started(start: Killed) -> Cloud:
    cloud = start()
    cloud.s3.create_bucket(Bucket=BUCKET)
    return cloud


def _described(s3: Any, key: str, **version: str) -> dict[str, Any]:
    answer = s3.get_object(Bucket=BUCKET, Key=key, **version)
    answer["Body"] = hashlib.sha256(answer["Body"].read()).hexdigest()
    names = ("Body", "ETag", "LastModified", "ContentType", "ContentLength", "Metadata", "TagCount")
    return {name: answer.get(name) for name in names}


def test_objects_are_as_they_were(start: Killed) -> None:
    cloud = _started(start)
    s3 = cloud.s3
    keys = ["plain", "größe/ä b+c%2F.csv", "a//b", "x" * 1000, "empty", "overwritten", "copied"]
    for key in keys:
        s3.put_object(
            Bucket=BUCKET,
            Key=key,
            Body=b"" if key == "empty" else key.encode(),
            ContentType="text/csv",
            Metadata={"rows": "7"},
            Tagging="a=1&b=2",
        )
    s3.put_object(Bucket=BUCKET, Key="overwritten", Body=b"second")
    s3.copy_object(Bucket=BUCKET, Key="copied", CopySource={"Bucket": BUCKET, "Key": "plain"})
    s3.put_object_tagging(Bucket=BUCKET, Key="plain", Tagging={"TagSet": [{"Key": "c", "Value": "3"}]})
    for key in ("one", "two", "three"):
        s3.put_object(Bucket=BUCKET, Key=f"gone/{key}", Body=b"x" * 1000)
    s3.delete_object(Bucket=BUCKET, Key="gone/one")
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "gone/two"}, {"Key": "gone/three"}]})
    before = {key: _described(s3, key) for key in keys}
    listed = s3.list_objects_v2(Bucket=BUCKET)["Contents"]

    s3 = start().s3
    assert s3.list_objects_v2(Bucket=BUCKET)["Contents"] == listed
    assert {key: _described(s3, key) for key in keys} == before
    assert s3.get_object_tagging(Bucket=BUCKET, Key="plain")["TagSet"] == [{"Key": "c", "Value": "3"}]
    assert before["plain"]["Metadata"] == {"rows": "7"}
    # Each living key has one file of bytes: what was deleted or overwritten takes no room.
    files = list((cloud.state_dir / "s3" / BUCKET / "data").iterdir())
    assert len(files) == len(keys)
    s3.put_object(Bucket=BUCKET, Key="after", Body=b"and it goes on")
    s3.delete_object(Bucket=BUCKET, Key="plain")
    s3 = start().s3
    assert _described(s3, "after")["ContentLength"] == 14
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=BUCKET, Key="plain")


def test_multipart_uploads_and_versions_are_as_they_were(start: Killed, tmp_path: Path) -> None:
    cloud = _started(start)
    (tmp_path / "big").write_bytes(BIG)
    parts = TransferConfig(multipart_threshold=5 * 1024**2, multipart_chunksize=5 * 1024**2)
    cloud.s3.upload_file(str(tmp_path / "big"), BUCKET, "big", Config=parts)
    before = _described(cloud.s3, "big")
    assert before["ETag"].endswith('-3"')
    (file,) = (cloud.state_dir / "s3" / BUCKET / "data").iterdir()
    assert file.read_bytes() == BIG
    cloud.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    first = cloud.s3.put_object(Bucket=BUCKET, Key="v", Body=b"first")["VersionId"]
    cloud.s3.put_object(Bucket=BUCKET, Key="v", Body=b"second")
    cloud.s3.delete_object(Bucket=BUCKET, Key="v")
    versions = cloud.s3.list_object_versions(Bucket=BUCKET, Prefix="v")

    s3 = start().s3
    assert _described(s3, "big") == before
    s3.download_file(BUCKET, "big", str(tmp_path / "again"), Config=parts)
    assert (tmp_path / "again").read_bytes() == BIG
    ranged = s3.get_object(Bucket=BUCKET, Key="big", Range="bytes=6000000-6000009")["Body"].read()
    assert ranged == BIG[6_000_000:6_000_010]
    again = s3.list_object_versions(Bucket=BUCKET, Prefix="v")
    assert again["Versions"] == versions["Versions"]
    assert again["DeleteMarkers"] == versions["DeleteMarkers"]
    assert s3.get_object(Bucket=BUCKET, Key="v", VersionId=first)["Body"].read() == b"first"
    s3.delete_object(Bucket=BUCKET, Key="v", VersionId=first)
    assert len(list((cloud.state_dir / "s3" / BUCKET / "data").iterdir())) == 2


def test_buckets_keep_their_settings_and_deleted_ones_stay_away(start: Killed) -> None:
    s3 = _started(start).s3
    s3.create_bucket(Bucket="gone-bucket")
    s3.create_bucket(Bucket="far-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    rules = [{"ID": "r", "Status": "Enabled", "Prefix": "tmp/", "Expiration": {"Days": 3}}]
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": rules})
    s3.put_bucket_policy(Bucket=BUCKET, Policy='{"Version": "2012-10-17", "Statement": []}')
    tags = [{"Key": "project", "Value": "post-modern-stack"}]
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": tags})
    s3.delete_bucket(Bucket="gone-bucket")
    listed = s3.list_buckets()["Buckets"]
    s3 = start().s3
    assert s3.list_buckets()["Buckets"] == listed
    assert s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"] == rules
    assert s3.get_bucket_policy(Bucket=BUCKET)["Policy"] == '{"Version": "2012-10-17", "Statement": []}'
    assert s3.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == tags
    assert s3.get_bucket_location(Bucket="far-bucket")["LocationConstraint"] == "eu-west-1"


TEMPLATE = """
Resources:
  Box:
    Type: AWS::S3::Bucket
    Properties: {BucketName: stack-bucket}
  Role:
    Type: AWS::IAM::Role
    Properties: {RoleName: stack-role, AssumeRolePolicyDocument: {Version: "2012-10-17", Statement: []}}
"""


def test_stacks_roles_alarms_and_log_lines_are_found_again(start: Killed) -> None:
    cloud = _started(start)
    stack = cloud.client("cloudformation").create_stack(
        StackName="s", TemplateBody=TEMPLATE, Capabilities=["CAPABILITY_NAMED_IAM"]
    )["StackId"]
    cloud.s3.put_object(Bucket="stack-bucket", Key="k", Body=b"kept")
    role = cloud.client("iam").get_role(RoleName="stack-role")["Role"]
    alarm = {"MetricName": "m", "Namespace": "n", "Period": 60, "EvaluationPeriods": 1, "Threshold": 1.0}
    for region in ("us-east-1", "eu-west-1"):
        cloud.client("cloudwatch", region).put_metric_alarm(
            AlarmName=f"alarm-{region}", ComparisonOperator="GreaterThanThreshold", Statistic="Sum", **alarm
        )
    cloud.client("cloudwatch").set_alarm_state(
        AlarmName="alarm-us-east-1", StateValue="ALARM", StateReason="r"
    )
    logs = cloud.client("logs", "eu-west-1")
    logs.create_log_group(logGroupName="g")
    logs.create_log_stream(logGroupName="g", logStreamName="s")
    lines = [{"timestamp": int(time.time() * 1000) + n, "message": f"line {n}"} for n in range(3)]
    logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=lines)

    cloud = start()
    (found,) = cloud.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    assert found["StackStatus"] == "CREATE_COMPLETE"
    assert cloud.s3.get_object(Bucket="stack-bucket", Key="k")["Body"].read() == b"kept"
    again = cloud.client("iam").get_role(RoleName="stack-role")["Role"]
    assert (again["Arn"], again["RoleId"]) == (role["Arn"], role["RoleId"])
    for region, state in (("us-east-1", "ALARM"), ("eu-west-1", "OK")):
        (found,) = cloud.client("cloudwatch", region).describe_alarms()["MetricAlarms"]
        assert (found["AlarmName"], found["StateValue"]) == (f"alarm-{region}", state)
    events = cloud.client("logs", "eu-west-1").get_log_events(logGroupName="g", logStreamName="s")["events"]
    assert [(event["timestamp"], event["message"]) for event in events] == [
        (line["timestamp"], line["message"]) for line in lines
    ]


def test_the_registry_and_finished_jobs_are_as_they_were(start: Killed) -> None:
    cloud = _started(start)
    job = cloud.run_job("print('m=0.5')", Tags=[{"Key": "a", "Value": "b"}])
    model = cloud.model("ok")
    far = cloud.client("sagemaker", "eu-west-1")
    for region in (cloud.sagemaker, far):
        region.create_model_package_group(ModelPackageGroupName="g", Tags=[{"Key": "k", "Value": "v"}])
    group = cloud.sagemaker.describe_model_package_group(ModelPackageGroupName="g")
    cloud.sagemaker.delete_tags(ResourceArn=group["ModelPackageGroupArn"], TagKeys=["k"])
    made = cloud.sagemaker.create_model_package(ModelPackageGroupName="g")["ModelPackageArn"]
    cloud.sagemaker.update_model_package(ModelPackageArn=made, ModelApprovalStatus="Approved")
    package = cloud.sagemaker.describe_model_package(ModelPackageName=made)

    cloud = start()
    for answer in (job, group, package):
        del answer["ResponseMetadata"]
    assert _without_meta(cloud.finished(job["TrainingJobName"])) == job
    tags = cloud.sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "a", "Value": "b"}]
    assert cloud.sagemaker.describe_model(ModelName=model)["ExecutionRoleArn"] == ROLE
    found = cloud.sagemaker.describe_model_package_group(ModelPackageGroupName="g")
    assert _without_meta(found) == group
    assert cloud.sagemaker.list_tags(ResourceArn=group["ModelPackageGroupArn"])["Tags"] == []
    assert _without_meta(cloud.sagemaker.describe_model_package(ModelPackageName=made)) == package
    second = cloud.sagemaker.create_model_package(ModelPackageGroupName="g")["ModelPackageArn"]
    assert second.endswith("/2")
    far = cloud.client("sagemaker", "eu-west-1")
    assert far.describe_model_package_group(ModelPackageGroupName="g")
    assert far.list_model_packages(ModelPackageGroupName="g")["ModelPackageSummaryList"] == []


def _without_meta(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def test_a_job_goes_on_from_its_checkpoint(start: Killed) -> None:
    cloud = _started(start)
    request = cloud.job_request(COUNTS, CheckpointConfig={"S3Uri": f"s3://{BUCKET}/checkpoints"})
    name = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    place = cloud.state_dir / "jobs" / name / "ml" / "checkpoints"
    eventually(lambda: place.exists() and any(place.iterdir()), 30)
    stopped = cloud.job_request("import time; time.sleep(60)")
    cloud.sagemaker.create_training_job(**stopped)
    cloud.wait_status(stopped["TrainingJobName"], "Training")
    cloud.sagemaker.stop_training_job(TrainingJobName=stopped["TrainingJobName"])

    cloud = start()
    job = cloud.finished(name)
    assert job["TrainingJobStatus"] == "Completed"
    steps = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert "Interrupted" in steps and steps[-1] == "Completed"
    logs = cloud.client("logs")
    events = logs.filter_log_events(logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=name)
    told = [event["message"] for event in events["events"]]
    assert [line for line in told if line.startswith("begun")][-1] == "begun before: 1"
    assert cloud.finished(stopped["TrainingJobName"])["TrainingJobStatus"] == "Stopped"


def test_endpoints_answer_again_and_a_deployment_goes_on(start: Killed) -> None:
    cloud = _started(start)
    name = cloud.endpoint("old")
    assert cloud.invoke(name)["model"] == "old"
    other = cloud.endpoint("other")
    cloud.sagemaker.update_endpoint(EndpointName=other, EndpointConfigName=cloud.config("sick"))
    lost = cloud.endpoint("lost")
    cloud.s3.delete_objects(
        Bucket=BUCKET,
        Delete={
            "Objects": [{"Key": key["Key"]} for key in _models(cloud) if "lost" in _behaviour(cloud, key)]
        },
    )
    before = _without_meta(cloud.sagemaker.describe_endpoint(EndpointName=name))

    cloud = start()
    assert cloud.invoke(name)["model"] == "old"  # at once: it waits for the server
    assert _without_meta(cloud.sagemaker.describe_endpoint(EndpointName=name)) == before
    assert cloud.invoke(other)["model"] == "other"
    rolled_back = cloud.settled(other)
    assert rolled_back["EndpointStatus"] == "InService"
    assert "did not pass the ping" in rolled_back["FailureReason"]
    failed = cloud.settled(lost)
    assert failed["EndpointStatus"] == "Failed"
    assert "Failed to download model data" in failed["FailureReason"]
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("new"))
    eventually(lambda: cloud.invoke(name)["model"] == "new")


def _models(cloud: Cloud) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix="models/")["Contents"]
    return found


def _behaviour(cloud: Cloud, entry: dict[str, Any]) -> str:
    import gzip

    body = cloud.s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
    return gzip.decompress(body).decode(errors="replace")


def test_what_is_spoilt_is_set_aside_and_the_rest_is_found(start: Killed) -> None:
    cloud = _started(start)
    for key in ("good", "spoilt", "lost"):
        cloud.put(key, key.encode())
    cloud.client("iam").create_user(UserName="u")
    cloud.model("ok")
    state = cloud.state_dir
    records = {path: path.read_bytes() for path in (state / "s3" / BUCKET / "keys").iterdir()}
    by_key = {
        key: next(p for p, told in records.items() if key.encode() in told) for key in ("spoilt", "lost")
    }
    by_key["spoilt"].write_bytes(records[by_key["spoilt"]][:50])
    (data,) = (p for p in (state / "s3" / BUCKET / "data").iterdir() if p.read_bytes() == b"lost")
    data.unlink()
    (state / "s3" / BUCKET / "data" / "unfinished").write_bytes(b"half")
    with (state / "journal.jsonl").open("a") as journal:
        journal.write('{"seed": 1, "envi')
    (state / "sagemaker" / "model" / "us-east-1" / "broken.json").write_text("{")

    cloud = start()
    assert [
        entry["Key"]
        for entry in cloud.s3.list_objects_v2(Bucket=BUCKET)["Contents"]
        if "/" not in entry["Key"]
    ] == ["good"]
    assert cloud.client("iam").get_user(UserName="u")
    assert len(cloud.sagemaker.list_models()["Models"]) == 1
    assert len(list(state.rglob("*.corrupt"))) == 4
    assert not (state / "s3" / BUCKET / "data" / "unfinished").exists()
    cloud.client("iam").create_user(UserName="w")
    cloud.put("spoilt", b"anew")

    cloud = start()
    users = cloud.client("iam").list_users()["Users"]
    assert sorted(user["UserName"] for user in users) == ["u", "w"]
    assert cloud.s3.get_object(Bucket=BUCKET, Key="spoilt")["Body"].read() == b"anew"


def test_what_was_told_as_written_is_there_after_a_kill(start: Killed) -> None:
    cloud = _started(start)
    told: list[str] = []
    import threading

    def write() -> None:
        with contextlib.suppress(Exception):  # the kill
            for number in range(10_000):
                cloud.put(f"n/{number}", str(number).encode() * 100)
                told.append(f"n/{number}")

    thread = threading.Thread(target=write)
    thread.start()
    eventually(lambda: len(told) > 30)
    cloud = start()
    thread.join()
    pages = cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="n/")
    found = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
    assert set(told) <= found
    for key in found:
        number = key.partition("/")[2]
        assert cloud.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == number.encode() * 100

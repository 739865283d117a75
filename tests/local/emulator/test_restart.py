"""An emulator that is killed and starts again on the same folder: what it had told is there."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from tests.local.cloud import BUCKET, ROLE, Cloud, clients_of, eventually
from tests.local.emulator.training.test_tuning import describe, trials_of, tuning_request

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
SEARCHED = """
import time
time.sleep(2)
print("mrr=0.5")
"""
BIG = bytes(range(256)) * 4096 * 11  # 11 MiB: three parts
PARTS = TransferConfig(multipart_threshold=5 * 1024**2, multipart_chunksize=5 * 1024**2)
RULES = [{"ID": "r", "Status": "Enabled", "Prefix": "tmp/", "Expiration": {"Days": 3}}]
POLICY = '{"Version": "2012-10-17", "Statement": []}'
KEYS = ("plain", "größe/ä b+c%2F.csv", "a//b", "x" * 1000, "empty", "overwritten", "copied")
OBJECTS = "object-bucket"


class Machine:
    """Runs one emulator after the other on a folder; each is killed before the next starts."""

    def __init__(self, folder: Path, root: Path, model_server: Path) -> None:
        self.state = folder / "state"
        self._root, self._model_server = root, model_server
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Cloud:
        self.kill()
        command = [sys.executable, "-c", DRIVER, str(self.state), str(self._model_server)]
        self._process = subprocess.Popen(command, cwd=self._root, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        url = self._process.stdout.readline().strip()
        return Cloud(url, self.state, clients_of(url))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@dataclass
class Kept:
    """What an emulator told before it was killed, and the next one."""

    cloud: Cloud
    told: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def machine(
    tmp_path_factory: pytest.TempPathFactory, root: Path, fake_model_server: Path
) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"), root, fake_model_server)
    yield machine
    machine.kill()


@pytest.fixture(scope="module")
def kept(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Fills an emulator, kills it while a client writes, and starts the next one."""
    cloud = machine.start()
    for bucket in (BUCKET, OBJECTS):
        cloud.s3.create_bucket(Bucket=bucket)
    big = tmp_path_factory.mktemp("big") / "big"
    big.write_bytes(BIG)
    told = {
        **_fill_objects(cloud.s3, big),
        **_fill_buckets(cloud.s3),
        **_fill_others(cloud),
        **_fill_registry(cloud),
        **_fill_endpoints(cloud),
        **_fill_jobs(cloud),
    }
    written: list[str] = []

    def write() -> None:
        with contextlib.suppress(Exception):  # the kill
            for number in range(10_000):
                cloud.put(f"n/{number}", str(number).encode() * 100)
                written.append(f"n/{number}")

    thread = threading.Thread(target=write)
    thread.start()
    eventually(lambda: len(written) > 30)
    machine.kill()
    thread.join()
    return Kept(machine.start(), {**told, "written": written})


def _fill_objects(s3: Any, big: Path) -> dict[str, Any]:
    for key in KEYS:
        s3.put_object(
            Bucket=OBJECTS,
            Key=key,
            Body=b"" if key == "empty" else key.encode(),
            ContentType="text/csv",
            Metadata={"rows": "7"},
            Tagging="a=1&b=2",
        )
    s3.put_object(Bucket=OBJECTS, Key="overwritten", Body=b"second")
    s3.copy_object(Bucket=OBJECTS, Key="copied", CopySource={"Bucket": OBJECTS, "Key": "plain"})
    s3.put_object_tagging(Bucket=OBJECTS, Key="plain", Tagging={"TagSet": [{"Key": "c", "Value": "3"}]})
    for key in ("one", "two", "three"):
        s3.put_object(Bucket=OBJECTS, Key=f"gone/{key}", Body=b"x" * 1000)
    s3.delete_object(Bucket=OBJECTS, Key="gone/one")
    s3.delete_objects(Bucket=OBJECTS, Delete={"Objects": [{"Key": "gone/two"}, {"Key": "gone/three"}]})
    s3.upload_file(str(big), OBJECTS, "big", Config=PARTS)
    s3.create_bucket(Bucket="versions")
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket="versions", Key="v", Body=b"first")["VersionId"]
    s3.put_object(Bucket="versions", Key="v", Body=b"second")
    s3.delete_object(Bucket="versions", Key="v")
    return {
        "objects": {key: _described(s3, key) for key in (*KEYS, "big")},
        "listed": s3.list_objects_v2(Bucket=OBJECTS)["Contents"],
        "versions": _versions(s3),
        "first": first,
    }


def _described(s3: Any, key: str) -> dict[str, Any]:
    answer = s3.get_object(Bucket=OBJECTS, Key=key)
    answer["Body"] = hashlib.sha256(answer["Body"].read()).hexdigest()
    names = ("Body", "ETag", "LastModified", "ContentType", "ContentLength", "Metadata", "TagCount")
    return {name: answer.get(name) for name in names}


def _versions(s3: Any) -> list[Any]:
    answer = s3.list_object_versions(Bucket="versions")
    return [answer["Versions"], answer["DeleteMarkers"]]


def test_objects_are_as_they_were(kept: Kept) -> None:
    s3 = kept.cloud.s3
    assert s3.list_objects_v2(Bucket=OBJECTS)["Contents"] == kept.told["listed"]
    assert {key: _described(s3, key) for key in (*KEYS, "big")} == kept.told["objects"]
    assert kept.told["objects"]["plain"]["Metadata"] == {"rows": "7"}
    assert s3.get_object_tagging(Bucket=OBJECTS, Key="plain")["TagSet"] == [{"Key": "c", "Value": "3"}]


def test_a_multipart_upload_is_one_file_and_is_read_in_parts(kept: Kept, tmp_path: Path) -> None:
    assert kept.told["objects"]["big"]["ETag"].endswith('-3"')
    kept.cloud.s3.download_file(OBJECTS, "big", str(tmp_path / "again"), Config=PARTS)
    assert (tmp_path / "again").read_bytes() == BIG
    # Each living key has one file of bytes: what was deleted or overwritten takes no room.
    assert len(list((kept.cloud.state_dir / "s3" / OBJECTS / "data").iterdir())) == len(KEYS) + 1


def test_versions_are_as_they_were_and_can_be_deleted(kept: Kept) -> None:
    s3, first = kept.cloud.s3, kept.told["first"]
    assert _versions(s3) == kept.told["versions"]
    assert s3.get_object(Bucket="versions", Key="v", VersionId=first)["Body"].read() == b"first"
    s3.delete_object(Bucket="versions", Key="v", VersionId=first)
    (left,) = (kept.cloud.state_dir / "s3" / "versions" / "data").iterdir()
    assert left.read_bytes() == b"second"


def test_what_was_told_as_written_is_there_after_a_kill(kept: Kept) -> None:
    s3 = kept.cloud.s3
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="n/")
    found = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
    assert set(kept.told["written"]) <= found
    for key in found:
        body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        assert body == key.partition("/")[2].encode() * 100


def _fill_buckets(s3: Any) -> dict[str, Any]:
    s3.create_bucket(Bucket="gone-bucket")
    s3.create_bucket(Bucket="far-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_bucket_lifecycle_configuration(Bucket="far-bucket", LifecycleConfiguration={"Rules": RULES})
    s3.put_bucket_policy(Bucket="far-bucket", Policy=POLICY)
    s3.put_bucket_tagging(Bucket="far-bucket", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    s3.delete_bucket(Bucket="gone-bucket")
    return {}


def test_buckets_keep_their_settings_and_deleted_ones_stay_away(kept: Kept) -> None:
    s3 = kept.cloud.s3
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert "far-bucket" in names and "gone-bucket" not in names
    assert s3.get_bucket_lifecycle_configuration(Bucket="far-bucket")["Rules"] == RULES
    assert s3.get_bucket_policy(Bucket="far-bucket")["Policy"] == POLICY
    assert s3.get_bucket_tagging(Bucket="far-bucket")["TagSet"] == [{"Key": "k", "Value": "v"}]
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


def _fill_others(cloud: Cloud) -> dict[str, Any]:
    stack = cloud.client("cloudformation").create_stack(
        StackName="s", TemplateBody=TEMPLATE, Capabilities=["CAPABILITY_NAMED_IAM"]
    )["StackId"]
    cloud.s3.put_object(Bucket="stack-bucket", Key="k", Body=b"kept")
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
    role = cloud.client("iam").get_role(RoleName="stack-role")["Role"]
    return {"stack": stack, "role": role["RoleId"], "lines": lines}


def test_stacks_roles_and_alarms_are_found_again(kept: Kept) -> None:
    cloud = kept.cloud
    (found,) = cloud.client("cloudformation").describe_stacks(StackName=kept.told["stack"])["Stacks"]
    assert found["StackStatus"] == "CREATE_COMPLETE"
    assert cloud.s3.get_object(Bucket="stack-bucket", Key="k")["Body"].read() == b"kept"
    assert cloud.client("iam").get_role(RoleName="stack-role")["Role"]["RoleId"] == kept.told["role"]
    for region, state in (("us-east-1", "ALARM"), ("eu-west-1", "OK")):
        (found,) = cloud.client("cloudwatch", region).describe_alarms(AlarmNames=[f"alarm-{region}"])[
            "MetricAlarms"
        ]
        assert found["StateValue"] == state


def test_log_lines_are_found_again(kept: Kept) -> None:
    logs = kept.cloud.client("logs", "eu-west-1")
    events = logs.get_log_events(logGroupName="g", logStreamName="s")["events"]
    told = [{name: event[name] for name in ("timestamp", "message")} for event in events]
    assert told == kept.told["lines"]


def _fill_registry(cloud: Cloud) -> dict[str, Any]:
    for region in ("us-east-1", "eu-west-1"):
        cloud.client("sagemaker", region).create_model_package_group(
            ModelPackageGroupName="g", Tags=[{"Key": "k", "Value": "v"}]
        )
    group = cloud.sagemaker.describe_model_package_group(ModelPackageGroupName="g")
    cloud.sagemaker.delete_tags(ResourceArn=group["ModelPackageGroupArn"], TagKeys=["k"])
    made = cloud.sagemaker.create_model_package(ModelPackageGroupName="g")["ModelPackageArn"]
    cloud.sagemaker.update_model_package(ModelPackageArn=made, ModelApprovalStatus="Approved")
    package = cloud.sagemaker.describe_model_package(ModelPackageName=made)
    return {"group": _without_meta(group), "package": _without_meta(package)}


def _without_meta(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def test_the_registry_is_as_it_was_in_each_region(kept: Kept) -> None:
    sagemaker, group, package = kept.cloud.sagemaker, kept.told["group"], kept.told["package"]
    assert _without_meta(sagemaker.describe_model_package_group(ModelPackageGroupName="g")) == group
    assert sagemaker.list_tags(ResourceArn=group["ModelPackageGroupArn"])["Tags"] == []
    found = sagemaker.describe_model_package(ModelPackageName=package["ModelPackageArn"])
    assert _without_meta(found) == package
    second = sagemaker.create_model_package(ModelPackageGroupName="g")["ModelPackageArn"]
    assert second.endswith("/2")
    far = kept.cloud.client("sagemaker", "eu-west-1")
    arn = far.describe_model_package_group(ModelPackageGroupName="g")["ModelPackageGroupArn"]
    assert far.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "k", "Value": "v"}]
    assert far.list_model_packages(ModelPackageGroupName="g")["ModelPackageSummaryList"] == []


def _fill_jobs(cloud: Cloud) -> dict[str, Any]:
    finished = cloud.run_job("print('m=0.5')", Tags=[{"Key": "a", "Value": "b"}])
    under_way = cloud.job_request(COUNTS, CheckpointConfig={"S3Uri": f"s3://{BUCKET}/checkpoints"})
    stopped = cloud.job_request("import time; time.sleep(60)")
    for request in (under_way, stopped):
        cloud.sagemaker.create_training_job(**request)
    search = tuning_request(
        cloud, SEARCHED, limits={"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 1}
    )
    cloud.sagemaker.create_hyper_parameter_tuning_job(**search)
    place = cloud.state_dir / "jobs" / under_way["TrainingJobName"] / "ml" / "checkpoints"
    eventually(lambda: place.exists() and any(place.iterdir()), 30)
    cloud.wait_status(stopped["TrainingJobName"], "Training")
    cloud.sagemaker.stop_training_job(TrainingJobName=stopped["TrainingJobName"])
    tuning = search["HyperParameterTuningJobName"]
    eventually(lambda: trials_of(cloud, tuning), 30)
    return {
        "tuning": tuning,
        "trials": trials_of(cloud, tuning),
        "finished": _without_meta(finished),
        "under_way": under_way["TrainingJobName"],
        "stopped": stopped["TrainingJobName"],
    }


def test_finished_jobs_are_as_they_were(kept: Kept) -> None:
    job = kept.told["finished"]
    found = kept.cloud.sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
    assert _without_meta(found) == job
    tags = kept.cloud.sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "a", "Value": "b"}]


def test_a_job_goes_on_from_its_checkpoint(kept: Kept) -> None:
    cloud, name = kept.cloud, kept.told["under_way"]
    job = cloud.finished(name)
    assert job["TrainingJobStatus"] == "Completed"
    steps = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert "Interrupted" in steps and steps[-1] == "Completed"
    events = cloud.client("logs").filter_log_events(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=name
    )
    told = [event["message"] for event in events["events"]]
    assert [line for line in told if line.startswith("begun")][-1] == "begun before: 1"
    assert cloud.finished(kept.told["stopped"])["TrainingJobStatus"] == "Stopped"


def test_a_search_goes_on_with_its_trials(kept: Kept) -> None:
    name = kept.told["tuning"]
    ended = eventually(
        lambda: (
            (told := describe(kept.cloud, name))["HyperParameterTuningJobStatus"] != "InProgress" and told
        ),
        60,
    )
    assert ended["HyperParameterTuningJobStatus"] == "Completed"
    assert ended["TrainingJobStatusCounters"]["Completed"] == 2
    first, second = trials_of(kept.cloud, name)
    (before,) = kept.told["trials"]
    assert first["TrainingJobName"] == before["TrainingJobName"]
    assert first["TunedHyperParameters"] == before["TunedHyperParameters"]
    assert first["TunedHyperParameters"] != second["TunedHyperParameters"]


def _fill_endpoints(cloud: Cloud) -> dict[str, Any]:
    steady, moving, lost = (cloud.endpoint(behaviour) for behaviour in ("old", "other", "lost"))
    config = cloud.sagemaker.describe_endpoint(EndpointName=lost)["EndpointConfigName"]
    (variant,) = cloud.sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    cloud.s3.delete_object(Bucket=BUCKET, Key=f"models/{variant['ModelName']}/model.tar.gz")
    cloud.sagemaker.update_endpoint(EndpointName=moving, EndpointConfigName=cloud.config("sick"))
    described = _without_meta(cloud.sagemaker.describe_endpoint(EndpointName=steady))
    return {"steady": described, "moving": moving, "lost": lost}


def test_an_endpoint_answers_again_and_can_be_updated(kept: Kept) -> None:
    cloud, before = kept.cloud, kept.told["steady"]
    name = before["EndpointName"]
    assert cloud.invoke(name)["model"] == "old"
    assert _without_meta(cloud.sagemaker.describe_endpoint(EndpointName=name)) == before
    cloud.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=cloud.config("new"))
    eventually(lambda: cloud.invoke(name)["model"] == "new")


def test_a_deployment_goes_on_and_is_rolled_back(kept: Kept) -> None:
    name = kept.told["moving"]
    assert kept.cloud.invoke(name)["model"] == "other"
    rolled_back = kept.cloud.settled(name)
    assert rolled_back["EndpointStatus"] == "InService"
    assert "did not pass the ping" in rolled_back["FailureReason"]


def test_an_endpoint_whose_model_is_gone_says_so(kept: Kept) -> None:
    failed = eventually(lambda: _failed(kept.cloud, kept.told["lost"]), 40)
    assert "Failed to download model data" in failed["FailureReason"]


def _failed(cloud: Cloud, endpoint: str) -> dict[str, Any] | None:
    told: dict[str, Any] = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    return told if told["EndpointStatus"] == "Failed" else None


def test_what_is_spoilt_is_set_aside_and_the_rest_is_found(kept: Kept, machine: Machine) -> None:
    cloud, state = kept.cloud, kept.cloud.state_dir
    cloud.s3.create_bucket(Bucket="spoilt-bucket")
    for key in ("good", "spoilt", "lost"):
        cloud.s3.put_object(Bucket="spoilt-bucket", Key=key, Body=key.encode())
    cloud.client("iam").create_user(UserName="u")
    model, place = cloud.model("ok"), state / "s3" / "spoilt-bucket"
    machine.kill()
    for record in (place / "keys").iterdir():
        if b'"name": "spoilt"' in (told := record.read_bytes()):
            record.write_bytes(told[:50])
    for data in (place / "data").iterdir():
        if data.read_bytes() == b"lost":
            data.unlink()
    (place / "data" / "unfinished").write_bytes(b"half")
    with (state / "journal.jsonl").open("a") as journal:
        journal.write('{"seed": 1, "envi')
    (state / "sagemaker" / "model" / "us-east-1" / "broken.json").write_text("{")

    cloud = machine.start()
    assert [entry["Key"] for entry in cloud.s3.list_objects_v2(Bucket="spoilt-bucket")["Contents"]] == [
        "good"
    ]
    assert cloud.client("iam").get_user(UserName="u")
    assert cloud.sagemaker.describe_model(ModelName=model)["ExecutionRoleArn"] == ROLE
    # Not below `endpoints`: folders come and go there while servers start again.
    aside = [*state.glob("*.corrupt"), *place.rglob("*.corrupt"), *(state / "sagemaker").rglob("*.corrupt")]
    assert len(aside) == 4
    assert (place / "data" / "unfinished").exists()  # it may be what the spoilt record speaks of
    cloud.client("iam").create_user(UserName="w")
    cloud.s3.put_object(Bucket="spoilt-bucket", Key="spoilt", Body=b"anew")

    cloud = machine.start()
    users = cloud.client("iam").list_users()["Users"]
    assert sorted(user["UserName"] for user in users) == ["u", "w"]
    assert cloud.s3.get_object(Bucket="spoilt-bucket", Key="spoilt")["Body"].read() == b"anew"

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.cloud import BUCKET, Cloud, alive, eventually, tar_of

TRAINS = """
    import argparse, json, os, pathlib, sys
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--architecture")
    options = parser.parse_args()
    channel = pathlib.Path(os.environ["SM_CHANNEL_SNAPSHOT"])
    files = {str(p.relative_to(channel)): p.read_text() for p in channel.rglob("*") if p.is_file()}
    for epoch in range(options.epochs):
        print(f"epoch {epoch} mrr={0.1 * (epoch + 1):.1f}")
    print("to stderr", file=sys.stderr)
    model = pathlib.Path(os.environ["SM_MODEL_DIR"], "1")
    model.mkdir()
    (model / "saved_model.pb").write_text(json.dumps([vars(options), files]))
    evaluation = pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"], "evaluation")
    evaluation.mkdir()
    (evaluation / "metrics.json").write_text("{}")
"""
HANGS = """
    import os, pathlib, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("pids", os.getpid(), child.pid, flush=True)
    pathlib.Path(os.environ["SM_MODEL_DIR"], "half").write_text("half a model")
    time.sleep(600)
"""
METRICS = {"MetricDefinitions": [{"Name": "mrr", "Regex": r"mrr=([0-9.]+)"}]}


def _channel(name: str, uri: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def _fetch_tar(cloud: Cloud, uri: str) -> dict[str, str]:
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    body = cloud.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz") as tar:
        return {
            member.name: tar.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in tar
            if member.isfile()
        }


def _log(cloud: Cloud, job: str) -> str:
    return (cloud.state_dir / "jobs" / job / "training.log").read_text(encoding="utf-8")


def _pids(cloud: Cloud, job: str) -> list[int]:
    def found() -> re.Match[str] | None:
        path = cloud.state_dir / "jobs" / job / "training.log"
        return re.search(r"pids (\d+) (\d+)\n", path.read_text()) if path.exists() else None

    return [int(pid) for pid in eventually(found).groups()]


def test_a_job_trains_and_brings_everything_back(cloud: Cloud) -> None:
    for key, text in {
        "manifest.json": "{}",
        "train/a.parquet": "rows",
        "train/sub/b.parquet": "more",
    }.items():
        cloud.put(f"snapshots/one/{key}", text.encode())
    cloud.put("snapshots/one-more/not-ours", b"x")
    request = cloud.job_request(
        TRAINS,
        hyper_parameters={"epochs": "3", "architecture": '"gru"'},
        InputDataConfig=[_channel("snapshot", f"s3://{BUCKET}/snapshots/one/")],
        Tags=[{"Key": "run", "Value": "7"}],
    )
    request["AlgorithmSpecification"] |= METRICS
    arn = cloud.sagemaker.create_training_job(**request)["TrainingJobArn"]
    job = cloud.finished(request["TrainingJobName"])

    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Completed"
    steps = job["SecondaryStatusTransitions"]
    states = ["Starting", "Pending", "Downloading", "Training", "Uploading", "Completed"]
    assert [step["Status"] for step in steps] == states
    assert [step["StatusMessage"] for step in steps] == [
        "Starting the training job",
        "Preparing the instances for training",
        "Downloading input data",
        "Training image download completed. Training in progress.",
        "Uploading generated training model",
        "Training job completed",
    ]
    assert job["LastModifiedTime"] == steps[-1]["StartTime"] == job["TrainingEndTime"]
    assert all(one["EndTime"] == two["StartTime"] for one, two in zip(steps, steps[1:], strict=False))
    assert job["CreationTime"] <= job["TrainingStartTime"] <= job["TrainingEndTime"]
    assert job["BillableTimeInSeconds"] == job["TrainingTimeInSeconds"] >= 1
    assert [(m["MetricName"], m["Value"]) for m in job["FinalMetricDataList"]] == [
        ("mrr", pytest.approx(0.3))
    ]
    assert "FailureReason" not in job
    assert job["HyperParameters"] == request["HyperParameters"]
    assert cloud.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "run", "Value": "7"}]

    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{BUCKET}/models/{job['TrainingJobName']}/output/model.tar.gz"
    options, files = json.loads(_fetch_tar(cloud, uri)["1/saved_model.pb"])
    assert options == {"epochs": 3, "architecture": "gru"}
    assert files == {"manifest.json": "{}", "train/a.parquet": "rows", "train/sub/b.parquet": "more"}
    output = _fetch_tar(cloud, uri.replace("model.tar.gz", "output.tar.gz"))
    assert output == {"evaluation/metrics.json": "{}"}

    lines = _log(cloud, job["TrainingJobName"]).splitlines()
    assert lines[-1] == "to stderr" or "to stderr" in lines
    logs = cloud.client("logs")
    streams = logs.describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{job['TrainingJobName']}/"
    )["logStreams"]
    assert len(streams) == 1
    assert streams[0]["logStreamName"].startswith(f"{job['TrainingJobName']}/algo-1-")
    events = logs.get_log_events(
        logGroupName="/aws/sagemaker/TrainingJobs",
        logStreamName=streams[0]["logStreamName"],
        startFromHead=True,
    )["events"]
    assert [event["message"] for event in events] == lines


def test_a_prefix_that_ends_inside_a_name_matches_like_s3s(cloud: Cloud) -> None:
    cloud.put("parts/part-1.csv", b"1")
    cloud.put("parts/part-2.csv", b"2")
    job = cloud.run_job(
        TRAINS,
        hyper_parameters={"epochs": "0"},
        InputDataConfig=[_channel("snapshot", f"s3://{BUCKET}/parts/part")],
    )
    _, files = json.loads(_fetch_tar(cloud, job["ModelArtifacts"]["S3ModelArtifacts"])["1/saved_model.pb"])
    assert files == {"part-1.csv": "1", "part-2.csv": "2"}


KEEPS = """
    import os, pathlib, sys
    folder = pathlib.Path(os.environ["PMS_CHECKPOINT_DIR"])
    folder.mkdir(exist_ok=True)
    count = len(list(folder.iterdir()))
    print(f"found {count}")
    (folder / f"checkpoint-{count}").write_text("x")
    sys.exit(count == 0)
"""


def test_the_next_job_finds_the_checkpoints_of_one_that_failed(cloud: Cloud) -> None:
    kept = {"S3Uri": f"s3://{BUCKET}/models/first/checkpoints/", "LocalPath": "/opt/ml/checkpoints"}
    first = cloud.run_job(KEEPS, CheckpointConfig=kept)
    assert first["TrainingJobStatus"] == "Failed"
    assert first["CheckpointConfig"] == kept
    second = cloud.run_job(KEEPS, CheckpointConfig=kept)
    assert second["TrainingJobStatus"] == "Completed"
    assert "found 1" in _log(cloud, second["TrainingJobName"])
    listed = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix="models/first/checkpoints/")["Contents"]
    assert [item["Key"].rsplit("/", 1)[1] for item in listed] == ["checkpoint-0", "checkpoint-1"]


def test_no_secret_of_the_emulators_process_reaches_the_script(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNOWFLAKE_PASSWORD", "canary-1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-2")
    job = cloud.run_job("import os; print(dict(os.environ))", Environment={"GIVEN": "yes"})
    told = _log(cloud, job["TrainingJobName"])
    assert "canary" not in told
    assert "'GIVEN': 'yes'" in told


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import sys; print('loss is NaN', file=sys.stderr); sys.exit(3)", r"exit code: 3\nloss is NaN$"),
        ("raise ValueError('manifest missing')", r"ValueError: manifest missing$"),
        (
            "import os; open(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('told so'); raise OSError",
            r"exit code: 1\ntold so$",
        ),
        ("import os; os.kill(os.getpid(), 9)", r"exit code: 137"),
        ("print('x' * 5000); raise SystemExit(2)", r"exit code: 2\nx+$"),
    ],
)
def test_a_script_that_fails_fails_its_job_with_its_words(cloud: Cloud, script: str, reason: str) -> None:
    job = cloud.run_job(script)
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: ")
    assert re.search(reason, job["FailureReason"])
    assert len(job["FailureReason"]) <= 1024
    last = job["SecondaryStatusTransitions"][-1]
    assert (last["Status"], last["StatusMessage"]) == ("Failed", "Training job failed")
    assert job["TrainingTimeInSeconds"] >= 1
    listed = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"models/{job['TrainingJobName']}/")
    assert listed["KeyCount"] == 0


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (None, "there is no source archive"),
        (b"no tar", "is refused"),
        (tar_of({"../escaped.py": "x", "train.py": "x"}), "points outside"),
        (tar_of({"other.py": "x"}), "train.py is not in the source archive"),
    ],
)
def test_a_source_archive_that_cannot_be_used_fails_the_job(
    cloud: Cloud, archive: bytes | None, reason: str
) -> None:
    request = cloud.job_request("pass")
    key = f"code/{request['TrainingJobName']}/sourcedir.tar.gz"
    if archive is None:
        cloud.s3.delete_object(Bucket=BUCKET, Key=key)
    else:
        cloud.put(key, archive)
    cloud.sagemaker.create_training_job(**request)
    job = cloud.finished(request["TrainingJobName"])
    assert job["TrainingJobStatus"] == "Failed"
    assert reason in job["FailureReason"]
    assert not list(cloud.state_dir.rglob("escaped.py"))


def test_a_program_outside_the_archive_is_not_run(cloud: Cloud) -> None:
    job = cloud.run_job("pass", hyper_parameters={"sagemaker_program": '"../../../train.py"'})
    assert "is not in the source archive" in job["FailureReason"]


def test_a_key_that_points_outside_its_channel_fails_the_job(cloud: Cloud) -> None:
    cloud.put("evil/../../../../escaped.txt", b"x")
    job = cloud.run_job("pass", InputDataConfig=[_channel("snapshot", f"s3://{BUCKET}/evil/")])
    assert job["FailureReason"].startswith("ClientError: Data download failed")
    assert not list(cloud.state_dir.rglob("escaped.txt"))


@pytest.mark.parametrize("uri", [f"s3://{BUCKET}/nothing-here/", "s3://no-such-bucket/x"])
def test_a_channel_without_objects_is_refused_at_once(cloud: Cloud, uri: str) -> None:
    request = cloud.job_request("pass", InputDataConfig=[_channel("snapshot", uri)])
    with pytest.raises(ClientError, match="ValidationException.*No S3 objects found under S3 URL"):
        cloud.sagemaker.create_training_job(**request)
    with pytest.raises(ClientError, match="Requested resource not found"):
        cloud.sagemaker.describe_training_job(TrainingJobName=request["TrainingJobName"])


def test_a_missing_output_bucket_is_the_emulators_failure(cloud: Cloud) -> None:
    job = cloud.run_job("pass", OutputDataConfig={"S3OutputPath": "s3://no-such-bucket/models"})
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("InternalServerError: ")
    assert "NoSuchBucket" in job["FailureReason"]


def test_stop_ends_the_script_and_what_it_started(cloud: Cloud) -> None:
    request = cloud.job_request(HANGS)
    name = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    pids = _pids(cloud, name)
    assert all(map(alive, pids))
    cloud.sagemaker.stop_training_job(TrainingJobName=name)
    assert cloud.sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] in (
        "Stopping",
        "Stopped",
    )
    job = cloud.finished(name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert "Stopping" in [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert not any(map(alive, pids))
    # As on AWS, what was in the model folder is kept.
    assert _fetch_tar(cloud, job["ModelArtifacts"]["S3ModelArtifacts"]) == {"half": "half a model"}
    with pytest.raises(ClientError, match="is in status Stopped"):
        cloud.sagemaker.stop_training_job(TrainingJobName=name)


def test_a_script_that_ignores_term_is_killed(cloud: Cloud) -> None:
    request = cloud.job_request("import signal\nsignal.signal(15, signal.SIG_IGN)\n" + _dedented(HANGS))
    cloud.sagemaker.create_training_job(**request)
    pids = _pids(cloud, request["TrainingJobName"])
    cloud.sagemaker.stop_training_job(TrainingJobName=request["TrainingJobName"])
    assert cloud.finished(request["TrainingJobName"])["TrainingJobStatus"] == "Stopped"
    assert not any(map(alive, pids))


def _dedented(script: str) -> str:
    return "\n".join(line.strip() for line in script.splitlines())


def test_a_job_over_its_time_is_ended(cloud: Cloud) -> None:
    started = time.monotonic()
    request = cloud.job_request(HANGS, StoppingCondition={"MaxRuntimeInSeconds": 1})
    cloud.sagemaker.create_training_job(**request)
    pids = _pids(cloud, request["TrainingJobName"])
    job = cloud.finished(request["TrainingJobName"])
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert time.monotonic() - started < 15
    assert not any(map(alive, pids))


def test_a_process_left_behind_by_a_script_is_ended(cloud: Cloud) -> None:
    job = cloud.run_job(
        """
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("pids", os.getpid(), child.pid, flush=True)
        """
    )
    assert job["TrainingJobStatus"] == "Completed"
    assert not any(map(alive, _pids(cloud, job["TrainingJobName"])))


def test_a_description_echoes_the_request(cloud: Cloud) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/1"
    request = cloud.job_request(
        "pass",
        VpcConfig={"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]},
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/models", "KmsKeyId": key},
        ResourceConfig={
            "InstanceCount": 1,
            "InstanceType": "ml.g5.xlarge",
            "VolumeSizeInGB": 50,
            "VolumeKmsKeyId": key,
        },
        StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 90},
        EnableManagedSpotTraining=True,
        EnableNetworkIsolation=False,
        EnableInterContainerTrafficEncryption=True,
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/kept/", "LocalPath": "/opt/ml/checkpoints"},
        Environment={"A": "b"},
        RetryStrategy={"MaximumRetryAttempts": 2},
    )
    told = cloud.sagemaker.create_training_job(**request)
    job = cloud.finished(request["TrainingJobName"])
    assert {member: job[member] for member in request} == request
    assert job["TrainingJobArn"] == told["TrainingJobArn"]


def test_a_job_that_has_ended_can_be_deleted_and_its_name_used_again(cloud: Cloud) -> None:
    request = cloud.job_request(HANGS)
    name = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    _pids(cloud, name)
    with pytest.raises(cloud.sagemaker.exceptions.ResourceInUse, match="InProgress"):
        cloud.sagemaker.delete_training_job(TrainingJobName=name)
    cloud.sagemaker.stop_training_job(TrainingJobName=name)
    cloud.finished(name)
    cloud.sagemaker.delete_training_job(TrainingJobName=name)
    for call in (cloud.sagemaker.describe_training_job, cloud.sagemaker.delete_training_job):
        with pytest.raises(ClientError, match="Requested resource not found"):
            call(TrainingJobName=name)
    assert cloud.run_job("pass", name=name)["TrainingJobStatus"] == "Completed"


def test_the_same_name_twice_is_in_use(cloud: Cloud) -> None:
    request = cloud.job_request("pass")
    cloud.sagemaker.create_training_job(**request)
    for region in ("us-east-1", "eu-west-1"):
        sagemaker = cloud.client("sagemaker", region)
        with pytest.raises(sagemaker.exceptions.ResourceInUse):
            sagemaker.create_training_job(**request)
    cloud.finished(request["TrainingJobName"])


@pytest.mark.parametrize("call", ["describe_training_job", "stop_training_job"])
def test_an_unknown_job_is_not_found(cloud: Cloud, call: str) -> None:
    with pytest.raises(ClientError) as error:
        getattr(cloud.sagemaker, call)(TrainingJobName="no-such-job")
    assert error.value.response["Error"] == {
        "Code": "ValidationException",
        "Message": "Requested resource not found.",
    }


def test_jobs_are_listed_filtered_and_paged(cloud: Cloud) -> None:
    stem = cloud.name("listed")
    names = [f"{stem}-{letter}" for letter in "abc"]
    for name in names:
        cloud.run_job("pass" if name[-1] != "c" else "raise SystemExit(1)", name=name)
    sagemaker = cloud.sagemaker
    first = sagemaker.list_training_jobs(NameContains=stem.upper(), SortBy="Name", MaxResults=2)
    assert [job["TrainingJobName"] for job in first["TrainingJobSummaries"]] == names[:2]
    second = sagemaker.list_training_jobs(
        NameContains=stem, SortBy="Name", MaxResults=2, NextToken=first["NextToken"]
    )
    assert [job["TrainingJobName"] for job in second["TrainingJobSummaries"]] == names[2:]
    assert "NextToken" not in second
    failed = sagemaker.list_training_jobs(NameContains=stem, StatusEquals="Failed")
    assert [job["TrainingJobName"] for job in failed["TrainingJobSummaries"]] == names[2:]
    since = sagemaker.describe_training_job(TrainingJobName=names[0])["CreationTime"]
    later = sagemaker.list_training_jobs(
        NameContains=stem, CreationTimeAfter=since, SortBy="CreationTime", SortOrder="Descending"
    )
    listed = [job["TrainingJobName"] for job in later["TrainingJobSummaries"]]
    assert listed[:2] == [names[2], names[1]]
    assert cloud.client("sagemaker", "eu-west-1").list_training_jobs()["TrainingJobSummaries"] == []


def test_a_folder_of_an_earlier_emulator_is_no_obstacle(cloud: Cloud) -> None:
    request = cloud.job_request("import os; print(sorted(os.listdir(os.environ['SM_MODEL_DIR'])))")
    leftover = cloud.state_dir / "jobs" / request["TrainingJobName"] / "ml" / "model" / "stale"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("x")
    cloud.sagemaker.create_training_job(**request)
    assert cloud.finished(request["TrainingJobName"])["TrainingJobStatus"] == "Completed"
    assert _log(cloud, request["TrainingJobName"]) == "[]\n"


def test_progress_bars_and_bytes_that_are_no_text_are_lines(cloud: Cloud) -> None:
    job = cloud.run_job(
        r"import sys; sys.stdout.buffer.write(b'1/2\r2/2\n\xff\xfe\n\n'); sys.stdout.flush(); print('é')"
    )
    assert _log(cloud, job["TrainingJobName"]).splitlines() == ["1/2", "2/2", "\ufffd\ufffd", "", "é"]
    assert os.path.exists(cloud.state_dir / "jobs" / job["TrainingJobName"])

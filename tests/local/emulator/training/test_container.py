from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.local.emulator.machine.processes import clean_environment
from include.local.emulator.training.container import (
    Workspace,
    arguments,
    check_job,
    decode_hyper_parameters,
    environment,
    metric_patterns,
    read_metrics,
    user_hyper_parameters,
    write_config,
)
from include.local.emulator.wire.errors import AwsError

CHANNEL = {"ChannelName": "snapshot", "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix"}}}
REQUEST: dict[str, Any] = {
    "AlgorithmSpecification": {"TrainingImage": "image:1"},
    "HyperParameters": {
        "sagemaker_program": '"train.py"',
        "sagemaker_submit_directory": '"s3://bucket/sourcedir.tar.gz"',
        "epochs": "3",
        "learning-rate": "0.002",
        "architecture": '"gru"',
    },
    "InputDataConfig": [CHANNEL],
    "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.g5.xlarge"},
    "Environment": {"EXTRA": "yes", "SM_MODEL_DIR": "/elsewhere"},
}


@pytest.mark.parametrize(
    ("raw", "decoded", "argument"),
    [
        ("3", 3, "3"),
        ("0.002", 0.002, "0.002"),
        ("true", True, "True"),
        ('"gru"', "gru", "gru"),
        ("gru", "gru", "gru"),
        ('"3"', "3", "3"),
        ("", "", ""),
        ('["a", "b"]', ["a", "b"], '["a", "b"]'),
        ('{"a": 1}', {"a": 1}, '{"a": 1}'),
        ('"; rm -rf /"', "; rm -rf /", "; rm -rf /"),
    ],
)
def test_hyper_parameters_reach_the_script_as_the_toolkit_sends_them(
    raw: str, decoded: Any, argument: str
) -> None:
    values = decode_hyper_parameters({"name": raw})
    assert values == {"name": decoded}
    assert arguments(values) == ["--name", argument]


def test_sagemakers_own_hyper_parameters_are_not_the_scripts() -> None:
    decoded = decode_hyper_parameters(REQUEST["HyperParameters"])
    assert arguments(user_hyper_parameters(decoded)) == [
        "--architecture", "gru", "--epochs", "3", "--learning-rate", "0.002",
    ]  # fmt: skip


def test_the_environment_is_the_containers() -> None:
    workspace = Workspace(Path("/jobs/job-1"))
    env = environment(workspace, "job-1", "eu-west-1", "http://127.0.0.1:1", REQUEST)
    assert env["SM_MODEL_DIR"] == "/jobs/job-1/ml/model"
    assert env["SM_OUTPUT_DATA_DIR"] == "/jobs/job-1/ml/output/data"
    assert env["SM_CHANNEL_SNAPSHOT"] == "/jobs/job-1/ml/input/data/snapshot"
    assert json.loads(env["SM_CHANNELS"]) == ["snapshot"]
    assert json.loads(env["SM_HPS"]) == {"epochs": 3, "learning-rate": 0.002, "architecture": "gru"}
    assert env["SM_HP_EPOCHS"] == "3"
    assert json.loads(env["SM_HOSTS"]) == [env["SM_CURRENT_HOST"]]
    assert env["SM_NUM_GPUS"] == "0"
    assert int(env["SM_NUM_CPUS"]) > 0
    assert env["TRAINING_JOB_NAME"] == "job-1"
    assert env["AWS_REGION"] == "eu-west-1"
    assert env["EXTRA"] == "yes"


def test_nothing_secret_of_the_parent_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "SNOWFLAKE_PASSWORD", "AIRFLOW__CORE__FERNET_KEY", "PYTHONPATH"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    env = clean_environment({"OWN": "1"})
    assert "canary" not in env.values()
    assert env["TF_CPP_MIN_LOG_LEVEL"] == "2"
    assert env["OWN"] == "1"
    assert "PATH" in env


def test_the_config_files_are_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.renew()
    kept = {"S3Uri": "s3://bucket/kept/"}
    write_config(workspace, {**REQUEST, "CheckpointConfig": kept})
    read = {path.name: json.loads(path.read_text()) for path in (tmp_path / "ml/input/config").iterdir()}
    assert read["hyperparameters.json"]["epochs"] == "3"
    assert read["resourceconfig.json"]["current_host"] == "algo-1"
    assert set(read["inputdataconfig.json"]) == {"snapshot"}
    assert read["checkpointconfig.json"] == {"LocalPath": "/opt/ml/checkpoints", **kept}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"AlgorithmSpecification": {}}, "ValidationException", "exactly one of"),
        ({"HyperParameters": {}}, "ValidationException", "sagemaker_program is missing"),
        (
            {"HyperParameters": {"sagemaker_program": "a.py", "sagemaker_submit_directory": "/opt/code"}},
            "ValidationException",
            "must be an s3:// address",
        ),
        ({"ResourceConfig": {"InstanceCount": 2}}, "ResourceLimitExceeded", "one instance"),
        ({"InputDataConfig": [CHANNEL, CHANNEL]}, "ValidationException", "unique"),
        ({"InputDataConfig": [CHANNEL | {"InputMode": "Pipe"}]}, "ValidationException", "File mode"),
        (
            {"InputDataConfig": [{"ChannelName": "a", "DataSource": {"FileSystemDataSource": {}}}]},
            "ValidationException",
            "S3Prefix",
        ),
        (
            {
                "AlgorithmSpecification": {
                    "TrainingImage": "i",
                    "MetricDefinitions": [{"Name": "m", "Regex": "("}],
                }
            },
            "ValidationException",
            "Metric m",
        ),
        (
            {
                "AlgorithmSpecification": {
                    "TrainingImage": "i",
                    "MetricDefinitions": [{"Name": "m", "Regex": "x"}],
                }
            },
            "ValidationException",
            "no group",
        ),
    ],
)
def test_a_job_that_cannot_run_here_is_refused(change: dict[str, Any], code: str, said: str) -> None:
    check_job(REQUEST)
    with pytest.raises(AwsError, match=said) as error:
        check_job(REQUEST | change)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("epoch 1 loss=0.5 mrr=0.25", {"loss": 0.5, "mrr": 0.25}),
        ("loss=nan", {}),
        ("loss=1e-3", {"loss": 0.001}),
        ("loss=-", {}),
        ("nothing", {}),
    ],
)
def test_metrics_are_read_from_lines(line: str, found: dict[str, float]) -> None:
    definitions = [{"Name": "loss", "Regex": r"loss=(\S+)"}, {"Name": "mrr", "Regex": r"mrr=([0-9.]+)"}]
    assert read_metrics(metric_patterns({"MetricDefinitions": definitions}), line) == found

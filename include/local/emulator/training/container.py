"""The container contract of a training job: folders, `SM_*` variables, arguments. Starts nothing."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.local.emulator.wire.errors import AwsError, validation_error

HOST = "algo-1"
PROGRAM = "sagemaker_program"
SUBMIT_DIRECTORY = "sagemaker_submit_directory"
DEFAULT_MAX_RUNTIME = 86_400


@dataclass(frozen=True)
class Workspace:
    """The folders of one job; `ml` is what a container sees as `/opt/ml`."""

    root: Path

    @property
    def ml(self) -> Path:
        """`/opt/ml`."""
        return self.root / "ml"

    @property
    def code(self) -> Path:
        """The user's script and what stands beside it."""
        return self.ml / "code"

    @property
    def model(self) -> Path:
        """What becomes `model.tar.gz`."""
        return self.ml / "model"

    @property
    def input(self) -> Path:
        """Holds `data/<channel>` and `config/`."""
        return self.ml / "input"

    @property
    def output(self) -> Path:
        """Holds `data/`, which becomes `output.tar.gz`, and `failure`."""
        return self.ml / "output"

    @property
    def checkpoints(self) -> Path:
        """What is kept in `CheckpointConfig`'s `S3Uri`, whatever its `LocalPath` is called there."""
        return self.ml / "checkpoints"

    @property
    def log(self) -> Path:
        """The job's lines, as CloudWatch has them."""
        return self.root / "training.log"

    def channel(self, name: str) -> Path:
        """The folder of an input channel."""
        return self.input / "data" / name

    def renew(self) -> None:
        """Makes the folders anew, empty, as an instance has them; the log of those before stays."""
        shutil.rmtree(self.ml, ignore_errors=True)
        for folder in (
            self.code,
            self.model,
            self.input / "config",
            self.input / "data",
            self.output / "data",
            self.output / "intermediate",
        ):
            folder.mkdir(parents=True)


def decode_hyper_parameters(raw: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values as the script-mode toolkit reads them: JSON where they are JSON, text otherwise."""
    decoded: dict[str, Any] = {}
    for name, value in raw.items():
        try:
            decoded[name] = json.loads(value)
        except ValueError:
            decoded[name] = value
    return decoded


def user_hyper_parameters(decoded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those that are the script's own, without SageMaker's and a tuning job's."""
    return {name: value for name, value in decoded.items() if not name.startswith(("sagemaker_", "_tuning_"))}


def arguments(hyper_parameters: Mapping[str, Any]) -> list[str]:
    """Returns the script's command line: `--name value`, sorted by name."""
    return [
        part
        for name, value in sorted(hyper_parameters.items())
        for part in (f"--{name}" if len(name) > 1 else f"-{name}", _as_text(value))
    ]


def check_job(request: Mapping[str, Any]) -> None:
    """Refuses what SageMaker, or this one machine, would not run.

    Raises:
        AwsError: `ValidationException` or `ResourceLimitExceeded`.
    """
    algorithm = request.get("AlgorithmSpecification", {})
    if ("TrainingImage" in algorithm) == ("AlgorithmName" in algorithm):
        raise validation_error("You must specify exactly one of AlgorithmName and TrainingImage.")
    hyper_parameters = decode_hyper_parameters(request.get("HyperParameters", {}))
    for name in (PROGRAM, SUBMIT_DIRECTORY):
        if not isinstance(hyper_parameters.get(name), str):
            raise validation_error(f"The local emulator runs script mode only: {name} is missing.")
    if not hyper_parameters[SUBMIT_DIRECTORY].startswith("s3://"):
        raise validation_error(f"Hyper-parameter {SUBMIT_DIRECTORY} must be an s3:// address.")
    if request.get("ResourceConfig", {}).get("InstanceCount", 1) > 1:
        raise AwsError("ResourceLimitExceeded", "The local emulator has one instance for a training job.")
    _check_spot(request)
    _check_channels(request.get("InputDataConfig", []))
    metric_patterns(algorithm)


def _check_spot(request: Mapping[str, Any]) -> None:
    limits = request.get("StoppingCondition", {})
    wait = limits.get("MaxWaitTimeInSeconds")
    if not request.get("EnableManagedSpotTraining"):
        if wait is not None:
            raise validation_error(
                "Invalid MaxWaitTimeInSeconds. It is supported only where EnableManagedSpotTraining is true."
            )
        return
    if wait is None or wait < limits.get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME):
        raise validation_error(
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
            "MaxRuntimeInSeconds."
        )


def _check_channels(channels: Sequence[Mapping[str, Any]]) -> None:
    names = [channel["ChannelName"] for channel in channels]
    if len(set(names)) < len(names):
        raise validation_error("Channel names must be unique.")
    for channel in channels:
        source = channel["DataSource"].get("S3DataSource", {})
        if source.get("S3DataType") != "S3Prefix" or channel.get("InputMode") == "Pipe":
            raise validation_error(
                f"Channel {channel['ChannelName']}: the local emulator reads S3Prefix channels in File mode."
            )


def metric_patterns(algorithm: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
    """Returns the compiled `MetricDefinitions`.

    Raises:
        AwsError: `ValidationException`, one is not a regular expression with a group.
    """
    patterns: dict[str, re.Pattern[str]] = {}
    for definition in algorithm.get("MetricDefinitions", []):
        try:
            pattern = re.compile(definition["Regex"])
        except re.error as error:
            raise validation_error(f"Metric {definition['Name']}: {error}") from error
        if not pattern.groups:
            raise validation_error(f"Metric {definition['Name']}: the regular expression has no group.")
        patterns[definition["Name"]] = pattern
    return patterns


def read_metrics(patterns: Mapping[str, re.Pattern[str]], line: str) -> dict[str, float]:
    """Returns the metrics that a line of the log states, finite numbers only."""
    found: dict[str, float] = {}
    for name, pattern in patterns.items():
        if match := pattern.search(line):
            try:
                value = float(match[1])
            except (TypeError, ValueError):
                continue
            if math.isfinite(value):
                found[name] = value
    return found


def environment(
    workspace: Workspace, job: str, region: str, url: str, request: Mapping[str, Any]
) -> dict[str, str]:
    """Returns the container's variables.

    Args:
        workspace: Its folders.
        job: Job name.
        region: Region of the job.
        url: Address of the emulator, which the script finds where AWS's endpoints would be.
        request: The CreateTrainingJob request.
    """
    decoded = decode_hyper_parameters(request.get("HyperParameters", {}))
    user = user_hyper_parameters(decoded)
    channels = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
    instance = request.get("ResourceConfig", {}).get("InstanceType", "local")
    program = decoded[PROGRAM]
    return {
        **request.get("Environment", {}),
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_ACCESS_KEY_ID": "emulator",
        "AWS_SECRET_ACCESS_KEY": "emulator",
        "TRAINING_JOB_NAME": job,
        "SM_MODEL_DIR": str(workspace.model),
        "SM_INPUT_DIR": str(workspace.input),
        "SM_INPUT_CONFIG_DIR": str(workspace.input / "config"),
        "SM_OUTPUT_DIR": str(workspace.output),
        "SM_OUTPUT_DATA_DIR": str(workspace.output / "data"),
        "SM_OUTPUT_INTERMEDIATE_DIR": str(workspace.output / "intermediate"),
        "SM_MODULE_DIR": decoded[SUBMIT_DIRECTORY],
        "SM_MODULE_NAME": program.removesuffix(".py"),
        "SM_USER_ENTRY_POINT": program,
        "SM_USER_ARGS": json.dumps(arguments(user)),
        "SM_HOSTS": json.dumps([HOST]),
        "SM_CURRENT_HOST": HOST,
        "SM_CURRENT_INSTANCE_TYPE": instance,
        "SM_NUM_GPUS": "0",
        "SM_NUM_CPUS": str(os.cpu_count() or 1),
        "SM_CHANNELS": json.dumps(sorted(channels)),
        "SM_HPS": json.dumps(user),
        **({"PMS_CHECKPOINT_DIR": str(workspace.checkpoints)} if request.get("CheckpointConfig") else {}),
        **{f"SM_CHANNEL_{name.upper()}": str(workspace.channel(name)) for name in channels},
        **{f"SM_HP_{name.upper()}": _as_text(value) for name, value in user.items()},
    }


def write_config(workspace: Workspace, request: Mapping[str, Any]) -> None:
    """Writes what a container finds in `/opt/ml/input/config`."""
    instance = request.get("ResourceConfig", {}).get("InstanceType", "local")
    files = {
        "hyperparameters.json": request.get("HyperParameters", {}),
        "resourceconfig.json": {"current_host": HOST, "hosts": [HOST], "current_instance_type": instance},
        "inputdataconfig.json": {
            channel["ChannelName"]: {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
            for channel in request.get("InputDataConfig", [])
        },
    }
    if checkpoints := request.get("CheckpointConfig"):
        local = checkpoints.get("LocalPath", "/opt/ml/checkpoints")
        files["checkpointconfig.json"] = {"LocalPath": local, "S3Uri": checkpoints["S3Uri"]}
    for name, content in files.items():
        (workspace.input / "config" / name).write_text(json.dumps(content), encoding="utf-8")


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)

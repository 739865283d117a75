"""How it starts and ends: the command line, signals, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from include.local.emulator.endpoints.operations import Endpoints
from include.local.emulator.server import Emulator
from include.local.emulator.training.tuning import TuningJobs
from include.settings import Settings
from tests.local.cloud import BUCKET, Cloud, alive, clients_of, eventually
from tests.local.emulator.training.test_jobs import HANGS
from tests.local.emulator.training.test_tuning import pids_of, start


@pytest.fixture
def running(tmp_path: Path, root: Path) -> Iterator[tuple[subprocess.Popen[str], Cloud]]:
    ready = tmp_path / "run" / "ready.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "include.local.emulator", "--port", "0"),
            *("--state-dir", str(tmp_path / "state"), "--ml-python", sys.executable),
            *("--ready-file", str(ready), "--faults"),
        ],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"ready http://127\.0\.0\.1:\d+\n", line)
        eventually(ready.exists)
        told = json.loads(ready.read_text())
        assert told == {"url": line.split()[1], "pid": process.pid}
        cloud = Cloud(told["url"], tmp_path / "state", clients_of(told["url"]))
        cloud.s3.create_bucket(Bucket=BUCKET)
        assert cloud.faults() == []
        yield process, cloud
    finally:
        process.kill()
        process.wait()


def _children_of_a_job(cloud: Cloud) -> list[int]:
    request = cloud.job_request(HANGS)
    cloud.sagemaker.create_training_job(**request)
    log = cloud.state_dir / "jobs" / request["TrainingJobName"] / "training.log"
    told = eventually(lambda: re.search(r"pids (\d+) (\d+)\n", log.read_text()) if log.exists() else None, 30)
    return [int(pid) for pid in told.groups()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_everything_it_started(
    running: tuple[subprocess.Popen[str], Cloud], number: signal.Signals, tmp_path: Path
) -> None:
    process, cloud = running
    pids = _children_of_a_job(cloud)
    assert all(map(alive, pids))
    process.send_signal(number)
    assert process.wait(20) == 0
    assert not any(map(alive, pids))
    assert not (tmp_path / "run" / "ready.json").exists()


def test_nothing_outlives_an_emulator_that_is_killed(
    running: tuple[subprocess.Popen[str], Cloud],
) -> None:
    process, cloud = running
    pids = _children_of_a_job(cloud)
    process.kill()
    process.wait()
    eventually(lambda: not any(map(alive, pids)), 15)


def test_model_servers_end_with_the_emulator(tmp_path: Path, fake_model_server: Path) -> None:
    emulator = Emulator(
        tmp_path,
        sys.executable,
        server_command=[sys.executable, str(fake_model_server)],
        stop_grace_seconds=1,
    )
    with emulator:
        cloud = Cloud(emulator.url, tmp_path, clients_of(emulator.url))
        cloud.s3.create_bucket(Bucket=BUCKET)
        pids = cloud.invoke(cloud.endpoint("stubborn"))["pids"]
        waiting = cloud.name("endpoint")  # a deployment in progress, too
        cloud.sagemaker.create_endpoint(EndpointName=waiting, EndpointConfigName=cloud.config("sick"))
        place = tmp_path / "endpoints" / "us-east-1" / waiting
        eventually(lambda: list(place.rglob("server.log")))
    assert not any(map(alive, pids))
    assert _processes_with(str(tmp_path)) == []


def test_searches_end_with_the_emulator_and_start_no_more_trials(tmp_path: Path) -> None:
    with Emulator(tmp_path, sys.executable, stop_grace_seconds=1) as emulator:
        cloud = Cloud(emulator.url, tmp_path, clients_of(emulator.url))
        cloud.s3.create_bucket(Bucket=BUCKET)
        pids = pids_of(cloud, start(cloud, HANGS))
        assert all(map(alive, pids))
    assert not any(map(alive, pids))
    assert len(list((tmp_path / "jobs").iterdir())) == 2
    assert _processes_with(str(tmp_path)) == []


def _processes_with(text: str) -> list[str]:
    """Command lines of processes that name a folder; none where the system does not tell."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def test_a_port_that_is_taken_is_told(tmp_path: Path, root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "include.local.emulator", "--port", str(port)]
        options = ["--state-dir", str(tmp_path), "--ml-python", sys.executable]
        done = subprocess.run([*command, *options], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen on port {port}" in done.stderr


def test_a_folder_that_another_emulator_has_is_told(
    running: tuple[subprocess.Popen[str], Cloud], root: Path
) -> None:
    process, cloud = running
    command = [sys.executable, "-m", "include.local.emulator", "--port", "0"]
    options = ["--state-dir", str(cloud.state_dir), "--ml-python", sys.executable]
    done = subprocess.run([*command, *options], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"Another emulator (process {process.pid}) keeps its state in {cloud.state_dir}" in done.stderr
    assert "make down" in done.stderr
    assert cloud.s3.list_buckets()["Buckets"]


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Endpoints, "resume", lambda self: 1 / 0)
        broken.setattr(TuningJobs, "close", lambda self: 1 / 0)  # nor does an end that fails
        emulator = Emulator(tmp_path, sys.executable)
        with pytest.raises(ZeroDivisionError):
            emulator.start()
    assert not [thread for thread in threading.enumerate() if thread.name == "emulator"]
    with pytest.raises(RuntimeError, match="not started"):
        emulator.url  # noqa: B018
    with emulator:
        assert clients_of(emulator.url)("s3").list_buckets()["Buckets"] == []


def test_an_interpreter_that_does_not_exist_is_told(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-m", "include.local.emulator", "--port", "0"]
    options = ["--state-dir", str(tmp_path), "--ml-python", str(tmp_path / "none")]
    done = subprocess.run([*command, *options], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "is not a program" in done.stderr


def test_it_deploys_the_template_by_the_settings_before_it_says_that_it_is_ready(
    tmp_path: Path, root: Path
) -> None:
    compose = yaml.safe_load((root / "docker-compose.override.yml").read_text())
    command = shlex.split(compose["services"]["local-aws"]["command"])[1:]
    own = {"--port": "0", "--state-dir": str(tmp_path), "--ml-python": sys.executable}
    for option, value in own.items():
        command[command.index(option) + 1] = value
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PMS_BUCKET": "of-the-settings", "PMS_ENDPOINT_NAME": "of-the-settings"},
    )
    try:
        assert process.stdout is not None
        clients = clients_of(process.stdout.readline().split()[1])
        assert [bucket["Name"] for bucket in clients("s3").list_buckets()["Buckets"]] == ["of-the-settings"]
        alarms = {alarm["AlarmName"] for alarm in clients("cloudwatch").describe_alarms()["MetricAlarms"]}
        assert alarms == set(Settings(endpoint_name="of-the-settings").alarm_names)
    finally:
        process.terminate()
        process.wait(20)


def test_a_template_that_cannot_be_deployed_ends_it_with_the_reason(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-m", "include.local.emulator", "--port", "0", "--aws-template"]
    command += ["--state-dir", str(tmp_path), "--ml-python", sys.executable]
    environment = os.environ | {"PMS_KEEP_VERSIONS": "-1"}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 1
    assert "cannot deploy aws.yaml" in done.stderr
    assert "keep_versions" in done.stderr
    assert "ready" not in done.stdout


def test_it_knows_nothing_of_the_pipeline(root: Path) -> None:
    lists = (
        "import include.local.emulator.__main__, sys\n"
        "print(*(name for name in sys.modules if name.startswith('include.')), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", lists], cwd=root, capture_output=True, text=True, check=True)
    assert [name for name in done.stdout.split() if not name.startswith("include.local")] == []

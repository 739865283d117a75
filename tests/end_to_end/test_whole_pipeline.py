"""Every DAG, whole, under a real Airflow with the emulator: `make demo`, and behind it `make up`."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from include.gate.rules import load_rules
from include.local import demo, stack
from include.local.airflow_api import AirflowApi
from include.local.airflow_home import USERNAME
from include.local.demo import PIPELINE_DAG
from include.sagemaker.registry import list_packages
from tests.end_to_end import people

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1500)]
APPROVE, TEAR_DOWN = "gate.approve_model", "tear_down"
GROUP = "shop-recommender"  # of models, and the endpoint's name

# Secrets of a worker's environment and of the connections; fault 30 looks for them in all that a run wrote.
CANARIES = {
    "AWS_ACCESS_KEY_ID": "canary-access-key",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-access-key",
    "AWS_SESSION_TOKEN": "canary-session-token",
    "COMET_API_KEY": "canary-comet-key",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-password",
    "SNOWFLAKE_PASSWORD": "canary-snowflake-password",
    "PRIVATE_KEY_PASSPHRASE": "canary-passphrase",
}
PASSWORDS = {"aws_default": "canary-aws-connection", "warehouse_default": "canary-warehouse-connection"}
# A text that breaks out, a window that is none, a foreign bucket, a giant machine; and no Params at all.
HOSTILE: tuple[object, ...] = (
    {"start_date": "2026-01-01'; drop table raw.loads; --"},
    {"tenant": '", "vars": {"tenant": "other"}, "x": "'},
    {"reuse_snapshot": "s3://somebody-elses/snapshots/snap-0123456789abcdef"},
    {"training_instance_type": "ml.p4d.24xlarge"},
    {"training_instances": 1000},
    ["deploy"],
)


def generate(root: Path, folder: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "include.local.shop", "--out", str(folder), *options]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return folder


def run(
    root: Path, data: Path, build: Path, once_up: Callable[[str], None] = lambda url: None
) -> subprocess.CompletedProcess[str]:
    """Runs the demo; `once_up` is called with the address of its Airflow while the demo goes on."""
    command = [sys.executable, "-m", "include.local.demo", "--data", str(data), "--build-dir", str(build)]
    environment = {**os.environ, **CANARIES}
    told: list[str] = []
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                told.append(line)
                if "web UI while this runs:" in line:
                    once_up(line.split()[-1])
        except BaseException:
            process.terminate()
            raise
        status = process.wait()
        errors.seek(0)
        return subprocess.CompletedProcess(command, status, "".join(told), errors.read())


def plant(api: AirflowApi) -> None:
    """Gives the connections passwords that can be looked for."""
    for conn_id, password in PASSWORDS.items():
        path = f"/api/v2/connections/{conn_id}"
        kind = api._http.get(path).raise_for_status().json()["conn_type"]
        body = {"connection_id": conn_id, "conn_type": kind, "password": password}
        api._http.patch(path, params={"update_mask": "password"}, json=body).raise_for_status()


def refusals(api: AirflowApi) -> list[tuple[int, str]]:
    """What the API server says to each hostile conf."""
    api.wait_for_dag(PIPELINE_DAG, 120)
    answers = [
        api._http.post(f"/api/v2/dags/{PIPELINE_DAG}/dagRuns", json={"logical_date": None, "conf": conf})
        for conf in HOSTILE
    ]
    return [(answer.status_code, answer.text) for answer in answers]


def left_running(build: Path) -> list[str]:
    """Command lines of processes of the run: by its folder, or by the Airflow home they inherited."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        with contextlib.suppress(psutil.Error):
            if str(build) in line or process.environ().get("AIRFLOW_HOME", "").startswith(str(build)):
                found.append(line)
    return found


def content_of(path: Path) -> bytes:
    """A file's bytes, and those of an archive as they were before it was packed."""
    content = path.read_bytes()
    return content + gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, ml_python: Path) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def shop_run(root: Path, build: Path) -> dict[str, Any]:
    data = generate(root, build / "input", "--sessions", "3000", "--products", "300", "--days", "14")
    refused: list[tuple[int, str]] = []

    def once_up(url: str) -> None:
        passwords = build / "airflow" / "simple_auth_manager_passwords.json.generated"
        api = AirflowApi(url, USERNAME, json.loads(passwords.read_text())[USERNAME])
        plant(api)
        refused.extend(refusals(api))

    done = run(root, data, build, once_up)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {**json.loads((build / "demo.json").read_text()), "refused": refused}


def test_generated_shop_ends_with_a_live_model_that_answers(shop_run: dict[str, Any], build: Path) -> None:
    assert shop_run["verdict"]["approved"]
    assert shop_run["live_model"]["snapshot_id"] == shop_run["snapshot_id"]
    assert shop_run["registered"]["approval"] == "Approved"
    assert shop_run["registered"]["snapshot_id"] == shop_run["snapshot_id"]
    assert len(shop_run["recommendations"]) == 3
    for answer in shop_run["recommendations"]:
        assert len(answer["skus"]) == len(set(answer["skus"])) == 5
        assert answer["session"][-1] not in answer["skus"]
    assert shop_run["metrics"]["hit_rate@20"] > 1.5 * shop_run["baselines"]["popularity"]["hit_rate@20"]
    assert "<html" in (build / "card.html").read_text().lower()
    assert set(shop_run["seconds"]) == {"load", "transform", "export", "train", "gate", "deploy", "total"}


def test_hostile_params_are_refused_by_the_api_and_start_nothing(
    shop_run: dict[str, Any], build: Path
) -> None:
    *of_params, of_no_object = shop_run["refused"]
    assert len(of_params) == len(HOSTILE) - 1
    for (status, said), conf in zip(of_params, HOSTILE, strict=False):
        assert isinstance(conf, dict)
        assert (status, "Invalid input for param" in said, next(iter(conf)) in said) == (400, True, True)
    assert of_no_object[0] == 422
    with contextlib.closing(sqlite3.connect(build / "airflow" / "airflow.db")) as database:
        runs = database.execute("select run_id from dag_run where dag_id = ?", (PIPELINE_DAG,)).fetchall()
    assert runs == [(shop_run["run_id"],)]


def test_no_secret_is_in_anything_that_the_run_wrote(shop_run: dict[str, Any], build: Path) -> None:
    home = build / "airflow"
    passwords, config = home / "simple_auth_manager_passwords.json.generated", home / "airflow.cfg"
    assert "canary-" not in config.read_text()
    keys = re.findall(r"^(?:fernet_key|jwt_secret|secret_key) = (\S+)$", config.read_text(), re.M)
    # Every canary begins so, and a part of one would be a leak, too.
    secrets = ["canary-", *keys, *json.loads(passwords.read_text()).values()]
    assert len(keys) >= 2
    written = [path for path in build.rglob("*") if path.is_file() and path not in (passwords, config)]
    assert {"demo.json", "airflow.db", "emulator.log"} <= {path.name for path in written}
    leaks = {
        str(path.relative_to(build)): secret[:8]
        for path in written
        for content in [content_of(path)]
        for secret in secrets
        if secret.encode() in content
    }
    assert leaks == {}


def test_nothing_is_left_running(shop_run: dict[str, Any], build: Path) -> None:
    assert left_running(build) == []


# Behind the demo, on the same folder: to start a stack takes half a minute of both cores.


@pytest.fixture(scope="module")
def up(build: Path, shop_run: dict[str, Any]) -> Iterator[stack.Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PMS_SCHEDULE", "")  # no nightly run beside those that are asked for
        stack.up(build, ports=(0, 0))
    running = stack.running(build)
    assert running is not None
    yield running
    stack.down(build)
    assert left_running(build) == []


def test_what_was_made_goes_after_a_yes_to_the_list_of_it(up: stack.Stack) -> None:
    api, sagemaker = up.api(), demo._aws("sagemaker", up)
    config = sagemaker.describe_endpoint(EndpointName=GROUP)["EndpointConfigName"]
    run_id = people.start(api, TEAR_DOWN, "approve", {"registry": True})
    asked = people.agree(api, TEAR_DOWN, "approve", run_id)
    assert f"`{GROUP}`" in asked and f"`{config}`" in asked
    assert people.end(api, TEAR_DOWN, run_id)[0] == "success"
    assert sagemaker.list_endpoints()["Endpoints"] == sagemaker.list_models()["Models"] == []
    assert sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"] == []


def test_silence_does_not_deploy_and_a_yes_does(
    up: stack.Stack, shop_run: dict[str, Any], build: Path
) -> None:
    api, sagemaker = up.api(), demo._aws("sagemaker", up)
    asks = {"require_approval": True, "reuse_snapshot": shop_run["snapshot_id"]}
    asks["tenant"] = demo.tenant_of(build / "input")
    run_id = people.start(api, PIPELINE_DAG, APPROVE, {**asks, "approval_hours": 20 / 3600})
    [waiting] = list_packages(sagemaker, GROUP)
    assert waiting.approval == "PendingManualApproval"
    state, tasks = people.end(api, PIPELINE_DAG, run_id)
    assert (state, tasks[APPROVE], tasks["deploy.smoke_test"]) == ("failed", "failed", "upstream_failed")
    [refused] = list_packages(sagemaker, GROUP)
    assert (refused.arn, refused.approval) == (waiting.arn, "Rejected")
    assert refused.approval_description is not None and "Nobody answered" in refused.approval_description
    assert sagemaker.list_endpoints()["Endpoints"] == []

    run_id = people.start(api, PIPELINE_DAG, APPROVE, asks)
    assert "Model card" in people.agree(api, PIPELINE_DAG, APPROVE, run_id)
    state, tasks = people.end(api, PIPELINE_DAG, run_id)
    assert (state, tasks[APPROVE], tasks["deploy.smoke_test"]) == ("success", "success", "success")
    approved = list_packages(sagemaker, GROUP)[0]
    assert approved.approval == "Approved"
    assert approved.approval_description == f"Approved by admin (run {run_id})"


def test_noise_is_rejected_with_reasons_and_nothing_goes_live(
    root: Path, tmp_path: Path, build: Path, up: stack.Stack
) -> None:
    endpoints = demo._aws("sagemaker", up).list_endpoints()["Endpoints"]
    data = generate(
        root,
        tmp_path / "input",
        "--sessions",
        "2000",
        "--products",
        "500",
        "--days",
        "14",
        "--structure",
        "0",
    )
    done = run(root, data, build)
    assert done.returncode == 3, done.stdout[-4000:] + done.stderr[-4000:]
    result = json.loads((build / "demo.json").read_text())
    assert not result["verdict"]["approved"]
    # By itself, and not only for being worse than what the shop's run left live.
    alone = {rule.name for rule in load_rules().rules if rule.needs is None}
    assert alone & {check["name"] for check in result["verdict"]["checks"] if check["status"] == "failed"}
    assert result["registered"]["approval"] == "Rejected"
    assert result["live_model"] is None
    assert result["recommendations"] == []
    assert demo._aws("sagemaker", up).list_endpoints()["Endpoints"] == endpoints


def test_bad_input_ends_with_a_clear_message(
    root: Path, tmp_path: Path, build: Path, up: stack.Stack
) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "browsing.csv").write_text("session,sku\n1,2\n")
    done = run(root, tmp_path / "input", build)
    assert done.returncode == 2
    assert "session_id_hash" in done.stderr

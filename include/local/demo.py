"""`make demo`: the whole pipeline on a laptop, from raw events to an endpoint that answers.

Exit status: 0 the model is live and answered; 3 the gate rejected it; 2 the input cannot be used;
1 anything else went wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from include.local.airflow_api import AirflowApi
from include.local.demo_report import STEPS, print_report, say, seconds_per_step, show
from include.local.places import BUILD, ROOT
from include.local.stack import Stack, stage
from include.settings import get_settings

LOAD_DAG, PIPELINE_DAG = "load_shopping_events", "post_modern_stack"
EXIT_FAULT, EXIT_BAD_INPUT, EXIT_REJECTED = 1, 2, 3
# The tasks that judge the input.
INPUT_TASKS = frozenset({"load_events", "export.export_snapshot"})
MINUTES = 60.0


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who ran it."""

    def __init__(self, message: str, status: int = EXIT_FAULT) -> None:
        super().__init__(message)
        self.status = status


def prepare_data(data: Path | None, build: Path = BUILD) -> Path:
    """Returns the folder to load: the caller's, or the generated shop, made where it is missing.

    Raises:
        DemoError: The folder does not exist or holds no browsing file.
    """
    if data is not None:
        folder = data.expanduser().resolve()
        if not folder.is_dir():
            raise DemoError(f"DATA={data} is not a folder.", EXIT_BAD_INPUT)
        if not any(folder.glob("browsing*.csv*")):
            raise DemoError(
                f"{data} holds no browsing.csv, browsing.csv.gz or browsing_train.csv.", EXIT_BAD_INPUT
            )
        return folder
    folder = build / "data" / "shop"
    if not (folder / "browsing.csv.gz").exists():
        say("==> generating the default shop")
        partial = folder.with_name("shop.partial")
        subprocess.run(
            [sys.executable, "-m", "include.local.shop", "--out", str(partial)], cwd=ROOT, check=True
        )
        partial.rename(folder)
    return folder


def tenant_of(data: Path | None) -> str:
    """Returns the tenant of a folder's events.

    It derives from the files' content: other files are another shop, and shops never mix in the
    append-only log.
    """
    if data is None:
        return get_settings().tenant
    digest = hashlib.sha256()
    for pattern in ("browsing*.csv*", "sku_to_content.csv*"):
        for path in sorted(data.expanduser().resolve().glob(pattern)):
            with path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"data-{digest.hexdigest()[:12]}"


def run_dag(api: AirflowApi, dag_id: str, conf: dict[str, object]) -> tuple[str, str]:
    """Runs a DAG with a line for each task that ends; returns the run's id and its final state."""
    api.wait_for_dag(dag_id, 120)
    # What an interrupted demo left unfinished would be resumed first.
    for unfinished in api.unfinished_runs(dag_id):
        api.fail_run(dag_id, unfinished)
    # Triggered before unpaused: a nightly run that is due as well then queues behind this one.
    run_id = api.trigger(dag_id, conf)
    api.pause(dag_id, is_paused=False)
    try:
        state = api.wait_for_run(dag_id, run_id, show, 180 * MINUTES)
    finally:
        api.pause(dag_id, is_paused=True)
    return run_id, state


def failure(api: AirflowApi, dag_id: str, run_id: str, what: str) -> DemoError:
    """Returns why a run did not get to its end, with the exit status that fits.

    Tasks that judge the input fail for good where it cannot be used; any other fault is a fault.
    """
    failed = [task.task_id for task in api.tasks(dag_id, run_id) if task.state == "failed"]
    if not failed:
        message = "No session of the window has two products one after the other: nothing to train on."
        return DemoError(f"{what}\n  {message}", EXIT_BAD_INPUT)
    reasons = {task_id: api.failure(dag_id, run_id, task_id) for task_id in failed}
    told = "\n".join(f"  {task_id}: {reason}" for task_id, reason in reasons.items())
    is_input = all(
        task_id in INPUT_TASKS and reason.startswith("AirflowFailException")
        for task_id, reason in reasons.items()
    )
    return DemoError(f"{what}\n{told}", EXIT_BAD_INPUT if is_input else EXIT_FAULT)


def load(api: AirflowApi, folder: Path, tenant: str) -> dict[str, Any]:
    """Runs the load and returns its report.

    Raises:
        DemoError: The load failed.
    """
    run_id, state = run_dag(api, LOAD_DAG, {"source": str(folder), "tenant": tenant})
    report = api.result(LOAD_DAG, run_id, "load_events")
    if state != "success" or not report:
        raise failure(api, LOAD_DAG, run_id, "The events could not be loaded.")
    return dict(report)


def _aws(service: str, stack: Stack) -> Any:
    client: Callable[..., Any] = boto3.client  # its overloads know no service named at run time
    return client(
        service,
        endpoint_url=stack.aws_url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(proxies={}),  # loopback traffic never goes through a proxy of the environment
    )


def read_object(stack: Stack, uri: str) -> bytes:
    """Returns the bytes of an `s3://` object."""
    parts = urlsplit(uri)
    body = _aws("s3", stack).get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"]
    return bytes(body.read())


def sessions_of_test_set(stack: Stack, evaluation_uri: str, count: int = 3) -> list[list[str]]:
    """Returns sessions of the test set, from the training job's evaluation archive."""
    with tarfile.open(fileobj=io.BytesIO(read_object(stack, evaluation_uri))) as archive:
        for member in archive:
            if member.name.removeprefix("./") == "evaluation/smoke.json":
                content = archive.extractfile(member)
                assert content is not None
                return [list(case["session"]) for case in json.load(content)[:count]]
    raise DemoError(f"{evaluation_uri} holds no test sessions.")


def recommend(stack: Stack, endpoint: str, sessions: list[list[str]]) -> list[dict[str, Any]]:
    """Asks the live endpoint, one request a session, and returns sessions with their recommendations."""
    runtime = _aws("sagemaker-runtime", stack)
    answers = []
    for session in sessions:
        asked = time.perf_counter()
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint,
            ContentType="application/json",
            Body=json.dumps({"instances": [{"session": session, "k": 5}]}),
        )
        prediction = json.load(answer["Body"])["predictions"][0]
        took = round((time.perf_counter() - asked) * 1000, 1)
        answers.append({"session": session, "milliseconds": took, **prediction})
    return answers


def trained_before(sagemaker: Any, job_name: str, began: datetime) -> str | None:
    """Returns when a training job was created, None where that was not before a run began.

    A job is named after data, code and settings: the emulator still has those of earlier demos, and a run
    with the same takes the finished job, its artefact and its measurements.
    """
    created: datetime = sagemaker.describe_training_job(TrainingJobName=job_name)["CreationTime"]
    return created.isoformat(" ", "seconds") if created < began else None


def pipeline(stack: Stack, api: AirflowApi, landed: dict[str, Any], build: Path) -> dict[str, Any]:
    """Runs the pipeline over what was loaded and gathers the result of the run.

    Raises:
        DemoError: The run failed for another reason than the gate's verdict.
    """
    last = date.fromisoformat(landed["last_event_date"]) + timedelta(days=1)
    conf: dict[str, object] = {
        "start_date": landed["first_event_date"],
        "end_date": last.isoformat(),
        "tenant": landed["tenant"],
    }
    began = datetime.now(UTC)
    run_id, state = run_dag(api, PIPELINE_DAG, conf)
    snapshot = api.result(PIPELINE_DAG, run_id, "export.export_snapshot")
    verdict = api.result(PIPELINE_DAG, run_id, "gate.gate_model")
    live = api.result(PIPELINE_DAG, run_id, "deploy.smoke_test")
    rejected = verdict is not None and not verdict["approved"]
    if not rejected and (state != "success" or verdict is None or live is None):
        raise failure(api, PIPELINE_DAG, run_id, "The pipeline did not get to its end.")
    trained = api.result(PIPELINE_DAG, run_id, "train.train_model")
    result = {
        "run_id": run_id,
        "trained_before": trained_before(_aws("sagemaker", stack), trained["job_name"], began),
        "snapshot_id": snapshot["snapshot_id"],
        "verdict": verdict,
        "metrics": verdict["metrics"],
        "baselines": verdict["baselines"],
        "registered": api.result(PIPELINE_DAG, run_id, "gate.register_model"),
        "live_model": live,
        "recommendations": [],
        "seconds": seconds_per_step(api.tasks(PIPELINE_DAG, run_id)),
    }
    if live is not None:
        sessions = sessions_of_test_set(stack, trained["evaluation_uri"])
        result["recommendations"] = recommend(stack, live["endpoint_name"], sessions)
    if verdict["card_uri"]:
        (build / "card.html").write_bytes(read_object(stack, verdict["card_uri"]))
    return result


def demo(data: Path | None, build: Path = BUILD) -> int:
    """Runs the demo and returns its exit status.

    Args:
        data: Folder in the Coveo schema; None for the generated shop.
        build: Folder for everything that the run leaves behind.
    """
    began = time.monotonic()
    (build / "demo.json").unlink(missing_ok=True)
    folder = prepare_data(data, build)
    say("==> starting Airflow and the local emulator of S3 and SageMaker")
    with stage(build) as stack:
        api = stack.api()
        say(f"    web UI while this runs: {stack.airflow_url}")
        say(f"==> {LOAD_DAG}: {folder}")
        loading = time.monotonic()
        landed = load(api, folder, tenant_of(data))
        load_seconds = round(time.monotonic() - loading, 1)
        say(
            f"    {landed['events_landed']:,} events landed, {landed['events_rejected']:,} rejected"
            + (" (these files had been loaded before)" if landed["already_loaded"] else "")
        )
        say(f"==> {PIPELINE_DAG}: {' → '.join(STEPS)}")
        result = pipeline(stack, api, landed, build)
    result["seconds"] = {
        "load": load_seconds,
        **result["seconds"],
        "total": round(time.monotonic() - began, 1),
    }
    (build / "demo.json").write_text(json.dumps(result, indent=2, ensure_ascii=False))
    print_report(result)
    say(f"\n  card      {build / 'card.html'}\n  result    {build / 'demo.json'}\n  web UI    make up")
    return 0 if result["verdict"]["approved"] else EXIT_REJECTED


def main() -> int:
    """Parses the command line, runs the demo and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with browsing.csv[.gz] in the Coveo schema")
    parser.add_argument(
        "--build-dir", type=Path, default=BUILD, help="folder for everything it leaves behind"
    )
    arguments = parser.parse_args()
    build: Path = arguments.build_dir.resolve()
    build.mkdir(parents=True, exist_ok=True)
    # A closed terminal or a plain kill must end what was started, too.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        return demo(arguments.data, build)
    except DemoError as error:
        print(f"\nmake demo: {error}", file=sys.stderr)
        return error.status
    except (RuntimeError, TimeoutError, httpx.HTTPError, BotoCoreError, ClientError) as error:
        print(f"\nmake demo: {error}\nLogs: {build / 'logs'}", file=sys.stderr)
        return EXIT_FAULT


if __name__ == "__main__":
    sys.exit(main())

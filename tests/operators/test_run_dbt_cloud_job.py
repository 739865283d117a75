from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp.connector
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.serialization.serialized_objects import BaseSerialization
from tenacity import wait_none

from include.dbt_artifacts import XCOM_KEY
from include.operators.run_dbt_cloud_job import DBT_CAUSE_MAX_LENGTH, RunDbtCloudJobOperator, cause_of
from tests.operators.dbt_cloud import (
    ACCOUNT,
    CANCELLED,
    ERROR,
    JOB,
    QUEUED,
    RUNNING,
    SUCCESS,
    TOKEN,
    DbtCloud,
    run_results,
    write_certificate,
)

TASK, RUN = "transform.run_dbt_cloud_job", "manual__2026-01-01T00:00:00+00:00"
CAUSE = cause_of("post_modern_stack", RUN, TASK)
BUCKET = "post-modern-stack"
FAILED_TEST = (
    "test.post_modern_stack.unique_sessions.0123456789",
    "fail",
    "Got 3 results, configured to fail",
)
BROKEN_MODEL = ("model.post_modern_stack.sessions", "error", "Warehouse is suspended")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def cloud(aws: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DbtCloud]:
    """A dbt Cloud that the connection points at, trusted through its certificate, and nobody who waits."""
    double = DbtCloud(certificate)
    connect(monkeypatch, double)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # aiohttp, which the trigger uses, has made its context when it was imported.
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    monkeypatch.setattr("airflow.providers.dbt.cloud.hooks.dbt.wait_exponential", lambda **_: wait_none())
    yield double
    double.close()


def connect(monkeypatch: pytest.MonkeyPatch, cloud: DbtCloud, token: str = TOKEN) -> None:
    connection = {"conn_type": "dbt_cloud", "host": cloud.tenant, "login": str(ACCOUNT), "password": token}
    monkeypatch.setenv("AIRFLOW_CONN_DBT_CLOUD_DEFAULT", json.dumps(connection))


class Task:
    """The task through its tries: worker, triggerer, worker."""

    def __init__(self, job: int = JOB, seconds: float = 60, poll: float = 0.001) -> None:
        self.job, self.seconds, self.poll = job, seconds, poll
        self.tries = 0
        self.xcom: dict[str, Any] = {}

    def operator(self) -> RunDbtCloudJobOperator:
        return RunDbtCloudJobOperator(
            task_id=TASK,
            job_id=self.job,
            check_interval=self.poll,  # type: ignore[arg-type]
            execution_timeout=timedelta(seconds=self.seconds),
        )

    def context(self) -> Any:
        task_instance = SimpleNamespace(
            dag_id="post_modern_stack", run_id=RUN, task_id=TASK, try_number=self.tries, xcom_push=self._push
        )
        return {"ti": task_instance, "run_id": RUN}

    def _push(self, key: str, value: Any) -> None:
        self.xcom[key] = value

    def submit(self) -> TaskDeferred:
        """The first half, up to the deferral."""
        self.tries += 1
        self.xcom.clear()
        with pytest.raises(TaskDeferred) as deferred:
            self.operator().execute(self.context())
        return deferred.value

    def poll_to_the_end(self, deferred: TaskDeferred) -> dict[str, Any]:
        """What the triggerer does with a trigger that went through the database."""

        async def first_event() -> Any:
            path, arguments = deferred.trigger.serialize()
            stored = BaseSerialization.deserialize(BaseSerialization.serialize(arguments))
            async for event in type(deferred.trigger)(**stored).run():
                return event.payload
            raise AssertionError(f"{path} ended without an event")

        payload: dict[str, Any] = asyncio.run(first_event())
        return payload

    def resume(self, deferred: TaskDeferred, event: dict[str, Any]) -> int:
        return int(getattr(self.operator(), deferred.method_name)(self.context(), event=event))

    def try_once(self) -> int:
        deferred = self.submit()
        return self.resume(deferred, self.poll_to_the_end(deferred))


def kept(aws: Any) -> dict[str, bytes]:
    """Every dbt file on S3, by key."""
    listed = aws.list_objects_v2(Bucket=BUCKET, Prefix="shop/dbt/").get("Contents", [])
    return {one["Key"]: aws.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in listed}


def failure(task: Task) -> AirflowException:
    with pytest.raises(AirflowException) as raised:
        task.try_once()
    return raised.value


def is_retried(error: AirflowException) -> bool:
    return not isinstance(error, AirflowFailException)


def test_a_run_is_polled_to_its_end_and_its_files_are_kept(cloud: DbtCloud, aws: Any) -> None:
    task = Task()
    run_id = task.try_once()
    assert cloud.runs[run_id]["trigger"]["cause"] == CAUSE
    for part in ("post_modern_stack", RUN, TASK):
        assert part in CAUSE
    assert cloud.requests.count(f"GET /api/v2/accounts/{ACCOUNT}/runs/{run_id}/") == 4
    folder = f"shop/dbt/manual__2026-01-01T00%3A00%3A00%2B00%3A00/{TASK}/{run_id}"
    assert kept(aws) == {
        f"{folder}/manifest.json": cloud.artifacts[2]["manifest.json"],
        f"{folder}/run_results.json": cloud.artifacts[2]["run_results.json"],
    }
    assert task.xcom[XCOM_KEY] == {
        "manifest_uri": f"s3://{BUCKET}/{folder}/manifest.json",
        "run_results_uri": f"s3://{BUCKET}/{folder}/run_results.json",
        "docs_uri": None,
    }
    assert task.xcom["job_run_url"] == cloud.runs[run_id]["href"]


def test_documentation_of_a_last_step_is_kept_and_does_not_hide_the_tests(cloud: DbtCloud, aws: Any) -> None:
    cloud.artifacts[3] = {
        "run_results.json": run_results("generate"),
        "manifest.json": b"{}",
        "catalog.json": b'{"nodes": {"a": "</script>"}}',
    }
    task = Task()
    task.try_once()
    files = {key.rpartition("/")[2]: content for key, content in kept(aws).items()}
    assert files["run_results.json"] == run_results("build")
    assert b'{"nodes": {"a": "<\\/script>"}}' in files["docs.html"]
    assert b"JSON INLINE DATA" not in files["docs.html"]
    assert task.xcom[XCOM_KEY]["docs_uri"].endswith("/docs.html")


def test_retry_attaches_to_the_run_of_a_killed_try(cloud: DbtCloud) -> None:
    task = Task()
    task.submit()
    assert task.try_once() == 1000
    assert cloud.started() == 1


def test_retry_after_a_lost_answer_finds_the_run(cloud: DbtCloud) -> None:
    cloud.faults = {"/run/": [502]}
    task = Task()
    lost = failure(task)
    assert is_retried(lost) and "502" in str(lost)
    cloud.add_run(CAUSE, [QUEUED, SUCCESS])  # it had come through
    assert task.try_once() == 1000
    assert cloud.started() == 1


def test_retry_after_s3_was_away_only_fetches_the_files(
    cloud: DbtCloud, aws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task()
    aws.delete_bucket(Bucket=BUCKET)
    assert "NoSuchBucket" in str(failure(task))
    aws.create_bucket(Bucket=BUCKET)
    assert task.try_once() == 1000
    assert cloud.started() == 1 and len(kept(aws)) == 2


def test_task_cleared_after_a_success_builds_anew(cloud: DbtCloud) -> None:
    task = Task()
    assert [task.try_once(), task.try_once()] == [1000, 1001]


def test_somebody_elses_run_of_the_job_is_left_alone(cloud: DbtCloud) -> None:
    cloud.add_run("Kicked off from the UI", [RUNNING])
    cloud.add_run(cause_of("post_modern_stack", "another run", TASK), [RUNNING])
    assert Task().try_once() == 1002


def test_failed_data_test_is_named_and_not_retried(cloud: DbtCloud, aws: Any) -> None:
    cloud.statuses = [RUNNING, ERROR]
    cloud.artifacts[2]["run_results.json"] = run_results("build", FAILED_TEST)
    error = failure(Task())
    assert not is_retried(error)
    assert "unique_sessions: Got 3 results" in str(error)
    assert any(key.endswith("run_results.json") for key in kept(aws)), "the card lists the tests"


@pytest.mark.parametrize("results", [run_results("build", BROKEN_MODEL), None], ids=["model", "before any"])
def test_failed_run_gives_dbt_clouds_reason_and_is_retried_as_a_new_run(
    cloud: DbtCloud, results: bytes | None
) -> None:
    cloud.statuses, cloud.status_message = [RUNNING, ERROR], "Warehouse is suspended"
    cloud.artifacts[2] = {"manifest.json": b"{}"} | ({"run_results.json": results} if results else {})
    task = Task()
    error = failure(task)
    assert is_retried(error)
    assert "1000 failed: Warehouse is suspended" in str(error) and cloud.runs[1000]["href"] in str(error)
    cloud.statuses, cloud.artifacts[2]["run_results.json"] = [SUCCESS], run_results()
    assert task.try_once() == 1001


def test_cancelled_run_is_not_started_again(cloud: DbtCloud) -> None:
    cloud.statuses = [RUNNING, CANCELLED]
    error = failure(Task())
    assert not is_retried(error) and "was cancelled there" in str(error)
    assert cloud.started() == 1


def test_run_that_takes_too_long_is_cancelled(cloud: DbtCloud) -> None:
    cloud.statuses = [RUNNING]
    error = failure(Task(seconds=0.2, poll=0.05))
    assert not is_retried(error) and "PMS_DBT_CLOUD_MINUTES" in str(error)
    assert cloud.runs[1000]["status"] == CANCELLED


def test_job_that_builds_nothing_is_refused(cloud: DbtCloud) -> None:
    cloud.artifacts = {1: {"run_results.json": run_results("seed"), "manifest.json": b"{}"}}
    error = failure(Task())
    assert not is_retried(error) and "dbt build" in str(error)


@pytest.mark.parametrize("request_end", ["/runs/", "/runs/1000/", "/artifacts/run_results.json"])
def test_a_few_answers_of_5xx_are_sat_out(cloud: DbtCloud, request_end: str) -> None:
    cloud.faults = {request_end: [500, 503, 504]}
    assert Task().try_once() == 1000
    assert cloud.faults == {request_end: []}


@pytest.mark.parametrize("request_end", ["/runs/", "/runs/1000/", "/artifacts/run_results.json"])
def test_lasting_5xx_ends_the_try_after_four_requests_and_is_retried(
    cloud: DbtCloud, request_end: str
) -> None:
    cloud.faults = {request_end: [503] * 100}
    task = Task()
    error = failure(task)
    assert is_retried(error) and "503" in str(error)
    # The poll gives up first, and what became of the run is then asked for once more.
    assert 100 - len(cloud.faults[request_end]) == (8 if request_end == "/runs/1000/" else 4)
    cloud.faults.clear()
    assert task.try_once() == 1000
    assert cloud.started() == 1


def test_run_that_goes_on_when_the_poll_gives_up_is_attached_to(cloud: DbtCloud) -> None:
    cloud.statuses = [RUNNING] * 3 + [SUCCESS]
    task = Task()
    deferred = task.submit()
    cloud.faults = {"/runs/1000/": [503] * 4}
    event = task.poll_to_the_end(deferred)
    with pytest.raises(AirflowException, match="goes on, but could not be followed: 503") as raised:
        task.resume(deferred, event)
    assert is_retried(raised.value)
    assert task.try_once() == 1000
    assert cloud.started() == 1


def test_dbt_cloud_that_is_not_there_is_retried(cloud: DbtCloud) -> None:
    cloud.close()
    error = failure(Task())
    assert is_retried(error) and "does not answer" in str(error)


def test_unknown_job_is_refused_at_once(cloud: DbtCloud) -> None:
    error = failure(Task(job=404))
    assert not is_retried(error) and "PMS_DBT_CLOUD_JOB_ID" in str(error)
    assert cloud.started() == 1


@pytest.mark.parametrize("status", [401, 403])
def test_refused_token_is_neither_retried_nor_shown(
    cloud: DbtCloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    token = TOKEN if status == 403 else "dbtc_expired"
    connect(monkeypatch, cloud, token)
    cloud.faults = {"/runs/": [403] * 9}
    caplog.set_level(logging.DEBUG)
    error = failure(Task())
    assert not is_retried(error) and "token" in str(error) and "dbt_cloud_default" in str(error)
    assert len(cloud.requests) == 1
    assert token not in caplog.text + str(error) + repr(error.__cause__)


def test_token_is_not_stored_with_the_trigger(cloud: DbtCloud) -> None:
    assert TOKEN not in str(Task().submit().trigger.serialize())


def test_cause_is_the_same_for_every_try_and_never_too_long() -> None:
    assert cause_of("d", "r", "t") == cause_of("d", "r", "t")
    one, other = (cause_of("d" * 200, f"{'r' * 200}{end}", "t") for end in "12")
    assert one != other
    assert len(one) == len(other) == DBT_CAUSE_MAX_LENGTH

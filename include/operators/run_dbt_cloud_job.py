"""Builds and tests the dbt project as one job of dbt Cloud."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import requests
from airflow.providers.dbt.cloud.hooks.dbt import (
    DBT_CAUSE_MAX_LENGTH,
    DbtCloudHook,
    DbtCloudJobRunStatus,
    validate_execute_complete_event,
)
from airflow.providers.dbt.cloud.operators.dbt import DbtCloudRunJobOperator
from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include import dbt_artifacts
from include.operators.guard import aws_faults
from include.operators.keep_dbt_artifacts import are_files_kept, docs_page, keep_files
from include.operators.links import DbtDocsLink

if TYPE_CHECKING:
    from requests import Response, Session

REQUEST_SECONDS = 30
MOST_TRIES = 4
BUILDS = {"build", "run", "test"}


class RunDbtCloudJobOperator(DbtCloudRunJobOperator):
    """Runs the job deferred, and keeps `manifest.json`, `run_results.json` and the documentation on S3.

    The run's cause names DAG, run and task, and is how a retry finds the run of an earlier try: it attaches
    to one that is under way, and of one that has succeeded it only fetches what is not on S3 yet. A run past
    `execution_timeout` is cancelled.

    Args:
        execution_timeout: How long a run may take.
        hook_params: Arguments of the provider's hook; by default every request has a limit and a few tries.
        **kwargs: Arguments of the provider's operator.
    """

    # The provider's own is a tuple of one, and typed so.
    operator_extra_links = (*DbtCloudRunJobOperator.operator_extra_links, DbtDocsLink())  # type: ignore[assignment]

    def __init__(
        self, *, execution_timeout: timedelta, hook_params: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        limits = {"timeout_seconds": REQUEST_SECONDS, "retry_limit": MOST_TRIES, **(hook_params or {})}
        super().__init__(deferrable=True, execution_timeout=execution_timeout, hook_params=limits, **kwargs)
        self.patience = execution_timeout.total_seconds()

    @cached_property
    def hook(self) -> DbtCloudHook:
        """The provider's hook, with its limit and its tries in force."""
        return PatientDbtCloudHook(self.dbt_cloud_conn_id, **self.hook_params)

    def execute(self, context: Context) -> None:
        """Starts the job or finds its run, and waits for the run without holding a worker.

        Raises:
            TaskDeferred: Always, where dbt Cloud answers; goes on in `execute_complete`.
            AirflowFailException: Token, account or job are wrong.
            AirflowException: dbt Cloud does not answer for now.
        """
        with dbt_cloud_faults(self.dbt_cloud_conn_id, f"job {self.job_id}"):
            run = self._find_or_start(context)
        self.run_id = run["id"]
        context["ti"].xcom_push(key="job_run_url", value=run["href"])
        deadline = time.time() + self.patience
        self.defer(
            trigger=DbtCloudRunJobTrigger(
                conn_id=self.dbt_cloud_conn_id,
                run_id=self.run_id,
                account_id=self.account_id,
                poll_interval=self.check_interval,
                end_time=deadline,
                execution_deadline=deadline,
                hook_params=self.hook_params,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> int:
        """Confirms with dbt Cloud what became of the run, and keeps its files.

        Returns:
            The run's id in dbt Cloud.

        Raises:
            AirflowFailException: A test failed, or the run was cancelled, took too long, or built nothing.
            AirflowException: The run failed otherwise, or dbt Cloud or S3 do not answer for now.
        """
        event = validate_execute_complete_event(event)
        self.run_id = run_id = int(event["run_id"])
        with dbt_cloud_faults(self.dbt_cloud_conn_id, f"run {run_id}"):
            run = self.hook.get_job_run(
                run_id=run_id, account_id=self.account_id, include_related=["run_steps"]
            ).json()["data"]
            status = run["status"]
            if not DbtCloudJobRunStatus.is_terminal(status):
                self._give_up_following(event)
            files = self._fetch_files(run)
        if status == DbtCloudJobRunStatus.CANCELLED.value:
            raise AirflowFailException(f"dbt Cloud run {run_id} was cancelled there. See {run['href']}")
        if files:
            keep_files(context, files, attempt=str(run_id))
            with aws_faults(f"dbt Cloud run {run_id}"):
                dbt_artifacts.refuse_failed_tests(json.loads(files["run_results.json"]))
        if status != DbtCloudJobRunStatus.SUCCESS.value:
            self.hook.log_job_run_failure_details(run_id=run_id, job_run=run)
            reason = run.get("status_message") or "dbt Cloud gave no reason"
            raise AirflowException(f"dbt Cloud run {run_id} failed: {reason}. See {run['href']}")
        if not files:
            raise AirflowFailException(
                f"dbt Cloud run {run_id} succeeded and built nothing: no step of it left manifest.json "
                "and run_results.json of a build. Give PMS_DBT_CLOUD_JOB_ID a job with the step `dbt build`."
            )
        self.log.info("dbt Cloud run %s succeeded.", run_id)
        return run_id

    def _find_or_start(self, context: Context) -> dict[str, Any]:
        """Returns the run that is about this task of this DAG run, a new one where none is usable."""
        cause = cause_of(context["ti"].dag_id, context["ti"].run_id, self.task_id)
        runs = self.hook.get_job_runs(
            account_id=self.account_id,
            payload={
                "job_definition_id": self.job_id,
                "include_related": ["trigger"],
                "order_by": "-id",
                "limit": 100,
            },
        ).json()["data"]
        mine = [run for run in runs if (run.get("trigger") or {}).get("cause") == cause]
        if mine and self._is_usable(context, mine[0]):
            self.log.info("An earlier try started dbt Cloud run %s: going on with it.", mine[0]["id"])
            return dict(mine[0])
        # Asked once only: where the answer is lost the run may exist, and the next try finds it by its cause.
        once = PatientDbtCloudHook(self.dbt_cloud_conn_id, timeout_seconds=REQUEST_SECONDS)
        started = once.trigger_job_run(account_id=self.account_id, job_id=self.job_id, cause=cause)
        run: dict[str, Any] = started.json()["data"]
        self.log.info("Started dbt Cloud run %s: %s", run["id"], run["href"])
        return run

    def _is_usable(self, context: Context, run: dict[str, Any]) -> bool:
        if run["status"] in DbtCloudJobRunStatus.NON_TERMINAL_STATUSES.value:
            return True
        # Who clears a task whose files are all there wants the models built anew.
        if run["status"] != DbtCloudJobRunStatus.SUCCESS.value:
            return False
        return not are_files_kept(context, str(run["id"]))

    def _fetch_files(self, run: dict[str, Any]) -> dict[str, bytes]:
        """Fetches what the last step that built or tested left, and the documentation if there is any."""
        for step in sorted(run.get("run_steps") or [], key=lambda step: step["index"], reverse=True):
            results = self._artifact("run_results.json", step["index"])
            if results is None or json.loads(results).get("args", {}).get("which") not in BUILDS:
                continue
            manifest, catalog = self._artifact("manifest.json", step["index"]), self._artifact("catalog.json")
            if manifest is None:
                continue
            docs = {} if catalog is None else {"docs.html": docs_page(manifest, catalog)}
            # The manifest last: it says that the others are there.
            return {"run_results.json": results, **docs, "manifest.json": manifest}
        return {}

    def _artifact(self, path: str, step: int | None = None) -> bytes | None:
        """Returns an artefact of a step, of the last one by default; None where it left none."""
        try:
            answer: Response = self.hook.get_job_run_artifact(
                run_id=self.run_id, path=path, account_id=self.account_id, step=step
            )
        except requests.HTTPError as error:
            if _status(error) == requests.codes.not_found:
                return None
            raise
        return answer.content

    def _give_up_following(self, event: dict[str, Any]) -> None:
        """Ends a try whose run still goes on."""
        if event["status"] == "timeout":
            self.hook.cancel_job_run(account_id=self.account_id, run_id=self.run_id)
            raise AirflowFailException(
                f"dbt Cloud run {self.run_id} did not end within {self.patience:.0f} s and was cancelled. "
                "Raise PMS_DBT_CLOUD_MINUTES, or look at what takes so long."
            )
        raise AirflowException(
            f"dbt Cloud run {self.run_id} goes on, but could not be followed: {event.get('message')}. "
            "A retry attaches to it."
        )


class PatientDbtCloudHook(DbtCloudHook):
    """The provider's hook, with the limit and the tries that it was asked for.

    Below it, `HttpHook` forgets the limit unless `get_conn` notes it, and turns an answer of 5xx into an
    error that the provider's own retry does not know.
    """

    def get_conn(self, *args: Any, **kwargs: Any) -> Session:
        """Returns the provider's session."""
        session: Session = super().get_conn(*args, **kwargs)
        self.merged_extra = {"timeout": self.timeout_seconds}
        return session

    def check_response(self, response: Response) -> None:
        """Raises what the retry looks for."""
        response.raise_for_status()


def cause_of(dag_id: str, run_id: str, task_id: str) -> str:
    """Returns the cause of a run: the same for every try of one task of one DAG run, and for nothing else."""
    cause = f"Airflow: DAG {dag_id}, run {run_id}, task {task_id}"
    if len(cause) <= DBT_CAUSE_MAX_LENGTH:
        return cause
    # dbt Cloud keeps no more of it, and what is cut off may be what tells two runs apart.
    digest = hashlib.sha256(cause.encode()).hexdigest()[:16]
    return f"{cause[: DBT_CAUSE_MAX_LENGTH - 17]}~{digest}"


@contextmanager
def dbt_cloud_faults(conn_id: str, about: str) -> Iterator[None]:
    """Fails the task at once where dbt Cloud refuses, and lets Airflow retry where it does not answer.

    Args:
        conn_id: The connection, for the message.
        about: What was asked about, for the message.

    Raises:
        AirflowFailException: Dbt Cloud refused the request.
        AirflowException: It answered with 5xx or 429, or not at all.
    """
    try:
        yield
    except requests.HTTPError as error:
        status = _status(error)
        if status >= 500 or status == requests.codes.too_many_requests:
            raise AirflowException(f"dbt Cloud, {about}: {error}") from error
        advice = {
            401: f"Put a valid API token into connection {conn_id!r}.",
            403: f"The token of connection {conn_id!r} may not do this: allow it, or use another one.",
            404: f"Check PMS_DBT_CLOUD_JOB_ID and the account (login) of connection {conn_id!r}.",
        }.get(status, "")
        raise AirflowFailException(f"dbt Cloud refused, {about}: {error}. {advice}") from error
    except requests.RequestException as error:
        raise AirflowException(f"dbt Cloud does not answer, {about}: {error}") from error


def _status(error: requests.HTTPError) -> int:
    return 0 if error.response is None else error.response.status_code

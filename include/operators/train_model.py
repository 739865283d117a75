"""Trains a model on a snapshot as a SageMaker training job, or searches for the best of several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.providers.amazon.aws.operators.sagemaker import SageMakerTrainingOperator, serialize
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import ClientError

from include.contracts import Snapshot, TrainedModel
from include.operators.guard import aws_faults, read_claim
from include.operators.job_following import (
    deadline_of,
    follow,
    give_up,
    goes_on,
    stop_job,
)
from include.operators.job_trigger import LATE, SageMakerJobTrigger
from include.operators.links import TrainingJobLink
from include.operators.records import leave_record
from include.operators.sagemaker_jobs import JOBS, Job
from include.sagemaker.errors import is_existing, is_missing
from include.sagemaker.naming import MAX_ATTEMPTS, MAX_NAMES, attempt_name
from include.sagemaker.plan import Choice, check_cost, job_request, source_uri
from include.sagemaker.prices import cost_sentence
from include.sagemaker.source import build_source_archive, source_digest
from include.sagemaker.storage import object_exists
from include.settings import PROJECT_ROOT, Settings, get_settings

SOURCE = PROJECT_ROOT / "include" / "ml"


class TrainModelOperator(SageMakerTrainingOperator):
    """Runs one training job per content, or one search with several, and returns its claim check.

    The job's name is a function of snapshot, code, hyper-parameters, image and instances: a retry attaches
    to the running job, and a finished one is used again. A job that failed or was stopped is followed by
    one new job, named `-2`, `-3`, …

    The triggerer follows the job, and its news stand in the task's log. A task that is marked, cleared or out
    of time stops its job; a worker or a triggerer that dies does not.

    Args:
        snapshot: The `Snapshot` claim check, or the XCom of the task that exports it.
        hyperparameters: What reaches `train.py` as `--name value`.
        instance_type: Instance of the job.
        max_runtime_seconds: SageMaker stops a training after this long.
        instances: Number of instances.
        spot: Train on spare capacity.
        max_cost: US dollars that a new job may cost at most; None for no limit.
        tune_trials: 0 trains once; N starts a tuning job of N trainings, and the best of them goes on.
        tune_parallel: Trainings of a tuning job at a time.
        deferrable: Off: the worker follows the job, as it also does where the triggerer cannot reach AWS.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields("snapshot", *Choice._fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"snapshot": "json", "hyperparameters": "json"}
    operator_extra_links = (TrainingJobLink(),)

    def __init__(
        self,
        *,
        snapshot: Any,
        hyperparameters: Mapping[str, object],
        instance_type: str,
        max_runtime_seconds: int | str,
        instances: int | str = 1,
        spot: Any = False,
        max_cost: Any = None,
        tune_trials: int | str = 0,
        tune_parallel: int | str = 1,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, deferrable=deferrable, **kwargs)
        self.snapshot = snapshot
        self.hyperparameters = hyperparameters
        self.instance_type = instance_type
        self.max_runtime_seconds = max_runtime_seconds
        self.instances = instances
        self.spot = spot
        self.max_cost = max_cost
        self.tune_trials = tune_trials
        self.tune_parallel = tune_parallel
        self._running: tuple[Job, str] | None = None
        self._killed = False

    def execute(self, context: Context) -> dict[str, object]:
        """Starts the job or finds it, and returns `TrainedModel` for XCom once it has ended.

        Raises:
            TaskDeferred: The job runs; goes on in `execute_complete`.
        """
        with aws_faults("Training"):
            settings = get_settings()
            snapshot = read_claim(Snapshot, self.snapshot)
            job = self._job()
            self.config = job_request(
                self._choice(), settings, snapshot, source_digest(SOURCE), self._region()
            )
            name, found = self._start_or_attach(job, snapshot, settings)
            TrainingJobLink.leave(context, self.hook.get_conn(), kind=job.console, job=name)
            if job.outcome(found).state == "done":
                # It had ended before we came: its log stands in the task that followed it.
                return self._finish(context, settings, job, name, found)
            self._running = (job, name)
            deadline = deadline_of(job, found, self.config)
            if self.deferrable:
                self._hand_over(job, name, deadline, settings.poll_seconds)
            ended = self._follow(job, name, deadline, settings.poll_seconds)
            return self._finish(context, settings, job, name, ended)

    def execute_complete(  # type: ignore[override]  # the provider returns what SageMaker answered
        self, context: Context, event: dict[str, Any] | None = None
    ) -> dict[str, object]:
        """Finds out what became of the job that the triggerer followed; returns `TrainedModel` for XCom."""
        with aws_faults("Training"):
            if event is None:
                raise AirflowException("The triggerer sent no event. A retry attaches to the job.")
            settings = get_settings()
            job, name = self._job(), str(event["name"])
            self._running = (job, name)
            with aws_faults("Training", goes_on(job, name)):
                description = job.describe(name)
            if job.outcome(description).state == "running":
                if event["status"] == LATE:
                    give_up(job, name, self.log)
                self.log.warning(
                    "The triggerer cannot follow %s, this worker does: %s", name, event["message"]
                )
                job.go_on_from(event["place"])
                description = self._follow(job, name, float(event["deadline"]), settings.poll_seconds)
            self._refuse_failed(job, description, event["last_words"])
            return self._finish(context, settings, job, name, description)

    def on_kill(self) -> None:
        """Stops the job: nobody is left who waits for it, and it costs money."""
        self._killed = True
        if self._running is not None:
            job, name = self._running
            self.log.warning("The task was killed; stopping %s %s.", job.label.lower(), name)
            stop_job(job, name, self.log)

    def _job(self) -> Job:
        return JOBS["tuning" if int(self.tune_trials) else "training"](self.hook, self.log)

    def _choice(self) -> Choice:
        return Choice(**{name: getattr(self, name) for name in Choice._fields})

    def _region(self) -> str | None:
        client: Any = self.hook.get_conn()
        region: str | None = client.meta.region_name
        return region

    def _upload_source(self, uri: str) -> None:
        s3 = self.hook.s3_hook
        if not object_exists(s3.get_conn(), uri):
            bucket, key = s3.parse_s3_url(uri)
            s3.load_bytes(build_source_archive(SOURCE), key, bucket, replace=True)
            self.log.info("Uploaded the training code to %s.", uri)

    def _describe(self, job: Job, name: str) -> dict[str, Any] | None:
        with aws_faults("Training", goes_on(job, name, is_sure=False)):
            try:
                return job.describe(name)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise

    def _start_or_attach(
        self, job: Job, snapshot: Snapshot, settings: Settings
    ) -> tuple[str, dict[str, Any]]:
        """Returns name and description of the one job to follow; starts it unless it is there."""
        failures: list[str] = []
        faults = 0
        for attempt in range(1, MAX_NAMES + 1):
            name = attempt_name(str(self.config[job.name_member]), attempt)
            description = self._describe(job, name)
            if description is None:
                self._create(job, name, settings, failures)
                with aws_faults("Training", goes_on(job, name)):
                    return name, job.describe(name)
            while description[job.status_member] == "Stopping":
                # Killed or stopped a moment ago: its end decides whether a new job is needed.
                time.sleep(settings.poll_seconds)
                description = job.describe(name)
            outcome = job.outcome(description)
            if outcome.state == "running":
                self.log.info("Attaching to %s %s, which is running.", job.label.lower(), name)
                return name, description
            if outcome.state == "done":
                if self._has_artefacts(job.result(description, snapshot)[0]):
                    self.log.info("%s %s has finished before; its model is used.", job.label, name)
                    return name, description
                failures.append(f"{job.label} {name} finished, but its model is no longer on S3.")
            else:
                failures.append(outcome.reason)
                # Who stops it, and what is short of time or machines, says nothing about code and data.
                faults += description[job.status_member] != "Stopped" and not outcome.worth_retry
            if faults == MAX_ATTEMPTS:
                break
        listed = "".join(f"\n  {number}. {failure}" for number, failure in enumerate(failures, 1))
        raise AirflowFailException(
            f"No other {job.label.lower()} with these inputs is started: of {len(failures)} so far, {faults} "
            f"failed by themselves ({MAX_ATTEMPTS} may, {MAX_NAMES} in all). Mend code or data, or change an "
            f"input: a hyper-parameter, the instance, the dates. What became of them:{listed}"
        )

    def _has_artefacts(self, trained: TrainedModel) -> bool:
        s3 = self.hook.s3_hook.get_conn()
        return object_exists(s3, trained.model_uri) and object_exists(s3, trained.evaluation_uri)

    def _create(self, job: Job, name: str, settings: Settings, failures: list[str]) -> None:
        for failure in failures:
            self.log.info("Before: %s", failure)
        if warning := check_cost(self._choice(), self._region()):
            self.log.warning("%s", warning)
        self._upload_source(source_uri(settings, source_digest(SOURCE)))
        if self._killed:
            raise AirflowException(f"The task was killed before it started a {job.label.lower()}.")
        self._running = (job, name)
        request = {**self.config, job.name_member: name}
        try:
            job.create(request)
        except ClientError as error:
            if not is_existing(error):
                raise
            self.log.info("%s %s was started a moment ago; attaching.", job.label, name)
            return
        self.log.info(
            "Started %s %s on %s x %s%s, at most %s s.",
            job.label.lower(),
            name,
            self.instances,
            self.instance_type,
            " of spare capacity" if self.spot else "",
            job.seconds(request),
        )

    def _hand_over(self, job: Job, name: str, deadline: float, poll_seconds: int) -> None:
        """Leaves the job to the triggerer."""
        if self._killed:
            # The kill can have come between the request that creates the job and its answer.
            end = "was told to stop" if stop_job(job, name, self.log) else "could not be stopped: see above"
            raise AirflowException(f"The task was killed; {job.label.lower()} {name} {end}.")
        if self.execution_timeout is not None:
            # Airflow holds a worker to it, and forgets it while a task is deferred.
            deadline = min(deadline, time.time() + self.execution_timeout.total_seconds())
        connection = {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "verify": self.verify,
            "config": self.botocore_config,
        }
        self.defer(
            trigger=SageMakerJobTrigger(
                kind=job.kind, name=name, deadline=deadline, poll_seconds=poll_seconds, connection=connection
            ),
            method_name="execute_complete",
        )

    def _follow(self, job: Job, name: str, deadline: float, poll_seconds: int) -> dict[str, Any]:
        """Waits for the job's end with its news in our log; returns the description of a completed job."""
        description = follow(
            job,
            name,
            deadline=deadline,
            poll_seconds=poll_seconds,
            is_killed=lambda: self._killed,
            log=self.log,
        )
        self._refuse_failed(job, description, job.last_words())
        return description

    def _refuse_failed(self, job: Job, description: Mapping[str, Any], last_words: str) -> None:
        self._running = None
        outcome = job.outcome(description)
        if outcome.state != "done":
            fault = AirflowException if outcome.worth_retry or self._killed else AirflowFailException
            raise fault(outcome.reason + last_words)

    def _finish(
        self, context: Context, settings: Settings, job: Job, name: str, description: Mapping[str, Any]
    ) -> dict[str, object]:
        trained, behind = job.result(description, read_claim(Snapshot, self.snapshot))
        # OpenLineage reads data and artefact from here once the task has ended.
        self.serialized_training_data = serialize(behind)
        self.log.info("%s %s made %s.", job.label, name, trained.model_uri)
        self.log.info("%s", cost_sentence(trained))
        leave_record(context, self.hook.s3_hook.get_conn(), settings, trained)
        return trained.to_xcom()

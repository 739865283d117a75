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
from include.operators.links import TrainingJobLink
from include.operators.records import leave_record
from include.operators.sagemaker_jobs import Job, TrainingJob, TuningJob
from include.sagemaker.errors import explain, is_existing, is_missing
from include.sagemaker.images import training_image
from include.sagemaker.naming import MAX_ATTEMPTS, attempt_name, training_job_name
from include.sagemaker.source import build_source_archive, source_digest
from include.sagemaker.storage import object_exists
from include.sagemaker.training import training_request
from include.sagemaker.tuning import tuning_request
from include.settings import PROJECT_ROOT, Settings, get_settings

SOURCE = PROJECT_ROOT / "include" / "ml"
# The job's own limit counts from the start of training; before and after it machines are found, and
# data and model are moved.
WAIT_BEYOND_LIMIT_SECONDS = 1800
# CloudWatch shows the last words of a job a moment after its end.
LAST_WORDS_SECONDS = 5


class TrainModelOperator(SageMakerTrainingOperator):
    """Runs one training job per content, or one search with several, and returns its claim check.

    The job's name is a function of snapshot, code, hyper-parameters, image and instance: a retry attaches
    to the running job, and a finished one is used again. A job that failed or was stopped is followed by
    one new job, named `-2`, `-3`, …

    Args:
        snapshot: The `Snapshot` claim check, or the XCom of the task that exports it.
        hyperparameters: What reaches `train.py` as `--name value`.
        instance_type: Instance of the job.
        max_runtime_seconds: SageMaker stops a training after this long.
        tune_trials: 0 trains once; N starts a tuning job of N trainings, and the best of them goes on.
        tune_parallel: Trainings of a tuning job at a time.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields(
        "snapshot", "hyperparameters", "instance_type", "max_runtime_seconds", "tune_trials", "tune_parallel"
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"snapshot": "json", "hyperparameters": "json"}
    operator_extra_links = (TrainingJobLink(),)

    def __init__(
        self,
        *,
        snapshot: Any,
        hyperparameters: Mapping[str, object],
        instance_type: str,
        max_runtime_seconds: int | str,
        tune_trials: int | str = 0,
        tune_parallel: int | str = 1,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, deferrable=False, **kwargs)
        self.snapshot = snapshot
        self.hyperparameters = hyperparameters
        self.instance_type = instance_type
        self.max_runtime_seconds = max_runtime_seconds
        self.tune_trials = tune_trials
        self.tune_parallel = tune_parallel
        self._running: tuple[Job, str] | None = None
        self._killed = False

    def execute(self, context: Context) -> dict[str, object]:
        """Starts the job or finds it, follows it to its end, and returns `TrainedModel` for XCom."""
        with aws_faults("Training"):
            settings = get_settings()
            trained = self._train(context, settings)
            leave_record(context, self.hook.s3_hook.get_conn(), settings, trained)
            return trained.to_xcom()

    def on_kill(self) -> None:
        """Stops the job: nobody is left who waits for it, and it costs money."""
        self._killed = True
        if self._running is not None:
            job, name = self._running
            self.log.warning("The task was killed; stopping %s %s.", job.label.lower(), name)
            self._stop(job, name)

    def _train(self, context: Context, settings: Settings) -> TrainedModel:
        snapshot = read_claim(Snapshot, self.snapshot)
        job, self.config = self._plan(snapshot, settings)
        name = self._start_or_attach(job, snapshot.snapshot_id, settings.poll_seconds)
        TrainingJobLink.leave(context, self.hook.get_conn(), kind=job.console, job=name)
        description = self._follow(job, name, settings.poll_seconds)
        trained, behind = job.result(description, snapshot.snapshot_id)
        # OpenLineage reads data and artefact from here once the task has ended.
        self.serialized_training_data = serialize(behind)
        self.log.info("%s %s made %s.", job.label, name, trained.model_uri)
        return trained

    def _plan(self, snapshot: Snapshot, settings: Settings) -> tuple[Job, dict[str, Any]]:
        """Returns the kind of job with its request; uploads the code that the request names."""
        digest = source_digest(SOURCE)
        root = settings.home
        source_uri = f"{root}/code/{digest}/sourcedir.tar.gz"
        self._upload_source(source_uri)
        hyperparameters = dict(self.hyperparameters)
        client: Any = self.hook.get_conn()
        image = training_image(settings, client.meta.region_name, self.instance_type)
        request = training_request(
            # Tracking is no part of the name: it changes nothing of what is learned.
            job_name=training_job_name(
                snapshot.snapshot_id, digest, hyperparameters, image, self.instance_type
            ),
            snapshot=snapshot,
            hyperparameters=hyperparameters,
            source_uri=source_uri,
            output_uri=f"{root}/models",
            image=image,
            role_arn=settings.sagemaker_role_arn,
            instance_type=self.instance_type,
            max_runtime_seconds=int(self.max_runtime_seconds),
            region=client.meta.region_name,
            tracking=settings.tracking,
            environment=settings.tracking_environment,
        )
        if trials := int(self.tune_trials):
            search = tuning_request(request, trials=trials, parallel=int(self.tune_parallel))
            return TuningJob(self.hook, self.log), search
        return TrainingJob(self.hook, self.log), request

    def _upload_source(self, uri: str) -> None:
        s3 = self.hook.s3_hook
        if not object_exists(s3.get_conn(), uri):
            bucket, key = s3.parse_s3_url(uri)
            s3.load_bytes(build_source_archive(SOURCE), key, bucket, replace=True)
            self.log.info("Uploaded the training code to %s.", uri)

    def _describe(self, job: Job, name: str) -> dict[str, Any] | None:
        try:
            return job.describe(name)
        except ClientError as error:
            if is_missing(error):
                return None
            raise

    def _start_or_attach(self, job: Job, snapshot_id: str, poll_seconds: int) -> str:
        """Returns the name of the one job to follow; starts it unless it is there."""
        failures: list[str] = []
        for attempt in range(1, MAX_ATTEMPTS + 1):
            name = attempt_name(str(self.config[job.name_member]), attempt)
            description = self._describe(job, name)
            if description is None:
                self._create(job, name, failures)
                return name
            while description[job.status_member] == "Stopping":
                # Killed or stopped a moment ago: its end decides whether a new job is needed.
                time.sleep(poll_seconds)
                description = job.describe(name)
            outcome = job.outcome(description)
            if outcome.state == "running":
                self.log.info("Attaching to %s %s, which is running.", job.label.lower(), name)
                return name
            if outcome.state == "done":
                if self._has_artefacts(job.result(description, snapshot_id)[0]):
                    self.log.info("%s %s has finished before; its model is used.", job.label, name)
                    return name
                failures.append(f"{job.label} {name} finished, but its model is no longer on S3.")
            else:
                failures.append(outcome.reason)
        raise AirflowFailException(
            f"{MAX_ATTEMPTS} {job.label.lower()}s with these inputs have failed; no other is started. "
            "Change code, hyper-parameters or snapshot. " + " | ".join(failures)
        )

    def _has_artefacts(self, trained: TrainedModel) -> bool:
        s3 = self.hook.s3_hook.get_conn()
        return object_exists(s3, trained.model_uri) and object_exists(s3, trained.evaluation_uri)

    def _create(self, job: Job, name: str, failures: list[str]) -> None:
        for failure in failures:
            self.log.info("Before: %s", failure)
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
            "Started %s %s on %s, at most %s s.",
            job.label.lower(),
            name,
            self.instance_type,
            job.seconds(request),
        )

    def _follow(self, job: Job, name: str, poll_seconds: int) -> dict[str, Any]:
        """Waits for the job's end with its news in our log; returns the description of a completed job."""
        self._running = (job, name)
        limit = job.seconds(self.config)
        deadline = time.monotonic() + limit + WAIT_BEYOND_LIMIT_SECONDS
        waited = False
        while True:
            description = job.describe(name)
            outcome = job.outcome(description)
            if outcome.state == "done" and not waited:
                # It had ended before we came: its log stands in the task that waited for it.
                return description
            job.watch(name, description)
            if outcome.state != "running":
                break
            # A kill can come between the request that creates the job and its answer.
            if self._killed and description[job.status_member] == "InProgress":
                self._stop(job, name)
            if time.monotonic() > deadline:
                self._stop(job, name)
                raise AirflowFailException(
                    f"{job.label} {name} did not end within {limit} s and {WAIT_BEYOND_LIMIT_SECONDS} s "
                    "around them; it was told to stop."
                )
            time.sleep(poll_seconds)
            waited = True
        self._running = None
        if outcome.state == "done":
            return description
        time.sleep(min(poll_seconds, LAST_WORDS_SECONDS))
        job.watch(name, description)
        message = outcome.reason + job.last_words()
        raise (AirflowException if outcome.worth_retry or self._killed else AirflowFailException)(message)

    def _stop(self, job: Job, name: str) -> None:
        try:
            job.stop(name)
        except ClientError as error:
            # It has ended by itself, or was never there.
            self.log.warning("%s %s was not stopped: %s", job.label, name, explain(error))

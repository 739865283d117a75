"""Trains a model on a snapshot as a SageMaker training job."""

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
from include.operators.records import leave_record
from include.sagemaker.errors import explain, is_existing, is_missing
from include.sagemaker.logs import JobLog
from include.sagemaker.naming import MAX_ATTEMPTS, attempt_name, training_job_name
from include.sagemaker.source import build_source_archive, source_digest
from include.sagemaker.storage import object_exists
from include.sagemaker.training import trained_model, training_outcome, training_request
from include.settings import PROJECT_ROOT, Settings, get_settings

SOURCE = PROJECT_ROOT / "include" / "ml"
# The job's own limit counts from the start of training; before and after it machines are found, and
# data and model are moved.
WAIT_BEYOND_LIMIT_SECONDS = 1800
# CloudWatch shows the last words of a job a moment after its end.
LAST_WORDS_SECONDS = 5


class TrainModelOperator(SageMakerTrainingOperator):
    """Runs one training job per content, and returns its claim check.

    The job's name is a function of snapshot, code, hyper-parameters, image and instance: a retry attaches
    to the running job, and a finished one is used again. A job that failed or was stopped is followed by
    one new job, named `-2`, `-3`, …

    Args:
        snapshot: The `Snapshot` claim check, or the XCom of the task that exports it.
        hyperparameters: What reaches `train.py` as `--name value`.
        instance_type: Instance of the job.
        max_runtime_seconds: SageMaker stops the job after this long.
        **kwargs: Arguments of the provider's operator.
    """

    template_fields: Sequence[str] = aws_template_fields(
        "snapshot", "hyperparameters", "instance_type", "max_runtime_seconds"
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"snapshot": "json", "hyperparameters": "json"}

    def __init__(
        self,
        *,
        snapshot: Any,
        hyperparameters: Mapping[str, object],
        instance_type: str,
        max_runtime_seconds: int | str,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aws_conn_id", get_settings().aws_conn_id)
        super().__init__(config={}, deferrable=False, **kwargs)
        self.snapshot = snapshot
        self.hyperparameters = hyperparameters
        self.instance_type = instance_type
        self.max_runtime_seconds = max_runtime_seconds
        self._job_name: str | None = None
        self._killed = False

    def execute(self, context: Context) -> dict[str, object]:
        """Starts the job or finds it, follows it to its end, and returns `TrainedModel` for XCom."""
        with aws_faults("Training"):
            settings = get_settings()
            trained = self._train(settings)
            leave_record(context, self.hook.s3_hook.get_conn(), settings, trained)
            return trained.to_xcom()

    def on_kill(self) -> None:
        """Stops the job: nobody is left who waits for it, and it costs money."""
        self._killed = True
        if self._job_name is not None:
            self.log.warning("The task was killed; stopping training job %s.", self._job_name)
            self._stop(self._job_name)

    @property
    def _client(self) -> Any:
        return self.hook.get_conn()

    def _train(self, settings: Settings) -> TrainedModel:
        snapshot = read_claim(Snapshot, self.snapshot)
        digest = source_digest(SOURCE)
        root = f"s3://{settings.bucket}/{settings.prefix}"
        source_uri = f"{root}/code/{digest}/sourcedir.tar.gz"
        self._upload_source(source_uri)
        hyperparameters = dict(self.hyperparameters)
        self.config = training_request(
            job_name=training_job_name(
                snapshot.snapshot_id, digest, hyperparameters, settings.training_image, self.instance_type
            ),
            snapshot=snapshot,
            hyperparameters=hyperparameters,
            source_uri=source_uri,
            output_uri=f"{root}/models",
            image=settings.training_image,
            role_arn=settings.sagemaker_role_arn,
            instance_type=self.instance_type,
            max_runtime_seconds=int(self.max_runtime_seconds),
            region=self._client.meta.region_name,
        )
        name = self._start_or_attach(settings.poll_seconds)
        description = self._follow(name, settings.poll_seconds)
        trained = trained_model(description, snapshot.snapshot_id)
        # OpenLineage reads data and artefact from here once the task has ended.
        self.serialized_training_data = serialize(description)
        self.log.info("Training job %s made %s.", name, trained.model_uri)
        return trained

    def _upload_source(self, uri: str) -> None:
        s3 = self.hook.s3_hook
        if not object_exists(s3.get_conn(), uri):
            bucket, key = s3.parse_s3_url(uri)
            s3.load_bytes(build_source_archive(SOURCE), key, bucket, replace=True)
            self.log.info("Uploaded the training code to %s.", uri)

    def _describe(self, name: str) -> dict[str, Any] | None:
        try:
            description: dict[str, Any] = self.hook.describe_training_job(name)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return description

    def _start_or_attach(self, poll_seconds: int) -> str:
        """Returns the name of the one job to follow; starts it unless it is there."""
        failures: list[str] = []
        for attempt in range(1, MAX_ATTEMPTS + 1):
            name = attempt_name(str(self.config["TrainingJobName"]), attempt)
            description = self._describe(name)
            if description is None:
                self._create(name, failures)
                return name
            while description["TrainingJobStatus"] == "Stopping":
                # Killed or stopped a moment ago: its end decides whether a new job is needed.
                time.sleep(poll_seconds)
                description = self.hook.describe_training_job(name)
            outcome = training_outcome(description)
            if outcome.state == "running":
                self.log.info("Attaching to training job %s, which is running.", name)
                return name
            if outcome.state == "done":
                if self._has_artefacts(description):
                    self.log.info("Training job %s has finished before; its model is used.", name)
                    return name
                failures.append(f"Training job {name} finished, but its model is no longer on S3.")
            else:
                failures.append(outcome.reason)
        raise AirflowFailException(
            f"{MAX_ATTEMPTS} training jobs with these inputs have failed; no other is started. "
            "Change code, hyper-parameters or snapshot. " + " | ".join(failures)
        )

    def _has_artefacts(self, description: dict[str, Any]) -> bool:
        trained = trained_model(description, "")
        s3 = self.hook.s3_hook.get_conn()
        return object_exists(s3, trained.model_uri) and object_exists(s3, trained.evaluation_uri)

    def _create(self, name: str, failures: list[str]) -> None:
        for failure in failures:
            self.log.info("Before: %s", failure)
        if self._killed:
            raise AirflowException("The task was killed before it started a training job.")
        self._job_name = name
        request = {**self.config, "TrainingJobName": name}
        try:
            self.hook.create_training_job(request, wait_for_completion=False, print_log=False)
        except ClientError as error:
            if not is_existing(error):
                raise
            self.log.info("Training job %s was started a moment ago; attaching.", name)
            return
        self.log.info(
            "Started training job %s on %s, at most %s s.",
            name,
            self.instance_type,
            request["StoppingCondition"]["MaxRuntimeInSeconds"],
        )

    def _follow(self, name: str, poll_seconds: int) -> dict[str, Any]:
        """Waits for the job's end with its log in ours; returns the description of a completed job."""
        self._job_name = name
        log = JobLog(self.hook.logs_hook.get_conn(), name)
        deadline = time.monotonic() + int(self.max_runtime_seconds) + WAIT_BEYOND_LIMIT_SECONDS
        phase = ""
        while True:
            description: dict[str, Any] = self.hook.describe_training_job(name)
            outcome = training_outcome(description)
            if outcome.state == "done" and not phase:
                # It had ended before we came: its log stands in the task that waited for it.
                return description
            if phase != (phase := str(description.get("SecondaryStatus", "unknown"))):
                self.log.info("Training job %s: %s", name, phase)
            self._copy_log(log)
            if outcome.state != "running":
                break
            self._stop_where_due(name, description, deadline)
            time.sleep(poll_seconds)
        self._job_name = None
        if outcome.state == "done":
            return description
        time.sleep(min(poll_seconds, LAST_WORDS_SECONDS))
        self._copy_log(log)
        last_lines = "".join(f"\n    {line}" for line in log.last_lines)
        message = outcome.reason + (f"\nThe end of its log:{last_lines}" if last_lines else "")
        raise (AirflowException if outcome.worth_retry or self._killed else AirflowFailException)(message)

    def _stop_where_due(self, name: str, description: dict[str, Any], deadline: float) -> None:
        # A kill can come between the request that creates the job and its answer.
        if self._killed and description["TrainingJobStatus"] == "InProgress":
            self._stop(name)
        if time.monotonic() > deadline:
            self._stop(name)
            raise AirflowFailException(
                f"Training job {name} did not end within {self.max_runtime_seconds} s and "
                f"{WAIT_BEYOND_LIMIT_SECONDS} s around them; it was told to stop."
            )

    def _copy_log(self, log: JobLog) -> None:
        trouble = log.trouble
        for line in log.new_lines():
            self.log.info("%s", line)
        if log.trouble and log.trouble != trouble:
            self.log.warning("The job's log cannot be read: %s", log.trouble)

    def _stop(self, name: str) -> None:
        try:
            self._client.stop_training_job(TrainingJobName=name)
        except ClientError as error:
            # It has ended by itself, or was never there.
            self.log.warning("Training job %s was not stopped: %s", name, explain(error))

from __future__ import annotations

import logging
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from include.operators.job_following import stop_job
from include.operators.sagemaker_jobs import TrainingJob, TuningJob
from tests.operators.fake_sagemaker import refusal

pytestmark = pytest.mark.usefixtures("naps")

THROTTLED = refusal("StopTrainingJob", "ThrottlingException", "slow down")
NO_NETWORK = EndpointConnectionError(endpoint_url="https://api.sagemaker.us-east-1.amazonaws.com")
NOT_RUNNING = refusal(
    "StopTrainingJob", "ValidationException", "The request was rejected because its status is Stopped."
)
GONE = refusal("StopTrainingJob", "ResourceNotFound", "Requested resource not found.")
DENIED = refusal("StopTrainingJob", "AccessDeniedException", "no")


class Hook:
    """Refuses to stop jobs, once for each fault."""

    def __init__(self, *faults: ClientError | BotoCoreError) -> None:
        self.faults = list(faults)
        self.stopped: list[dict[str, str]] = []

    def get_conn(self) -> Hook:
        return self

    def stop_training_job(self, **request: str) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.stopped.append(request)

    stop_hyper_parameter_tuning_job = stop_training_job


@pytest.mark.parametrize("fault", [THROTTLED, NO_NETWORK], ids=["throttled", "no network"])
def test_stop_is_repeated_where_the_fault_may_pass(fault: Any) -> None:
    hook: Any = Hook(fault, fault)
    assert stop_job(TrainingJob(hook, None), "pms-1", logging.getLogger())
    assert hook.stopped == [{"TrainingJobName": "pms-1"}]


@pytest.mark.parametrize("fault", [NOT_RUNNING, GONE], ids=["not running", "gone"])
def test_job_that_does_not_run_needs_no_stop(fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    hook: Any = Hook(fault)
    assert stop_job(TrainingJob(hook, None), "pms-1", logging.getLogger())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("job", "command"),
    [
        (TrainingJob, "aws sagemaker stop-training-job --training-job-name pms-1"),
        (
            TuningJob,
            "aws sagemaker stop-hyper-parameter-tuning-job --hyper-parameter-tuning-job-name pms-1",
        ),
    ],
)
@pytest.mark.parametrize(
    ("faults", "unused"),
    [([DENIED, DENIED], 1), ([THROTTLED] * 9, 5), ([NO_NETWORK] * 9, 5)],
    ids=["refused", "throttled", "no network"],
)
def test_job_that_cannot_be_stopped_is_an_error_that_says_how(
    job: Any, command: str, faults: list[Any], unused: int, caplog: pytest.LogCaptureFixture
) -> None:
    hook: Any = Hook(*faults)
    assert not stop_job(job(hook, None), "pms-1", logging.getLogger())
    assert len(hook.faults) == unused
    [error] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "runs and is billed" in error
    assert error.endswith(command)

"""Follows a job from where it runs to its end, and stops it; says so where it goes on unwatched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from include.operators.guard import aws_faults
from include.operators.sagemaker_jobs import Job
from include.sagemaker.errors import error_code, explain, is_missing, is_permanent

# Looks in a row that may fail before another one is asked to follow instead.
PATIENCE = 10
# CloudWatch shows the last words of a job a moment after its end.
LAST_WORDS_SECONDS = 5
# The job's own limit counts from the start of training; before and after it machines are found, and
# data and model are moved.
WAIT_BEYOND_LIMIT_SECONDS = 1800
# Airflow gives a killed task a minute.
_STOP_TRIES, _STOP_PAUSE_SECONDS = 4, 3


def deadline_of(job: Job, description: Mapping[str, Any], request: Mapping[str, Any]) -> float:
    """Returns the moment after which a job is late: its own limit and what goes around it."""
    created: datetime | None = description.get("CreationTime")
    # What is there may have been started with another limit than this run's.
    limit = job.seconds({**request, **description}) + WAIT_BEYOND_LIMIT_SECONDS
    return (created.timestamp() if created else time.time()) + limit


def goes_on(job: Job, name: str, *, is_sure: bool = True) -> str:
    """Returns what a fault of ours leaves behind, and the two ways out of it.

    Args:
        job: The kind of job.
        name: Its name.
        is_sure: Off where nobody has seen whether an earlier try had started it.
    """
    known = f"{job.label} {name} goes on" if is_sure else f"If {job.label.lower()} {name} runs, it goes on"
    return f"{known} and is billed: clear this task to attach to it, or stop it: {job.stop_command(name)}"


def stop_job(job: Job, name: str, log: Any) -> bool:
    """Tells a job to stop, again where a fault may pass.

    Returns:
        Whether it ends, or has ended; where it does not, the log has an error that says how to stop it.
    """
    for left in reversed(range(_STOP_TRIES)):
        try:
            job.stop(name)
            return True
        except (ClientError, BotoCoreError) as error:
            if _has_ended(error):
                log.info("%s %s needed no stop: %s", job.label, name, explain(error))
                return True
            if not left or is_permanent(error):
                told = f"{job.label} {name} could not be stopped, runs and is billed"
                log.error("%s: %s Stop it: %s", told, explain(error), job.stop_command(name))
                return False
            log.warning("%s %s was not stopped, trying again: %s", job.label, name, explain(error))
            time.sleep(_STOP_PAUSE_SECONDS)
    raise AssertionError("The last try returns.")


def give_up(job: Job, name: str, log: Any) -> NoReturn:
    """Stops a job that is late.

    Raises:
        AirflowFailException: It was told to stop.
        AirflowException: It could not be stopped; a retry attaches to it, and tries that again.
    """
    if not stop_job(job, name, log):
        raise AirflowException(
            f"{job.label} {name} did not end in time and could not be stopped, this log says why: it still "
            f"runs and is billed. Stop it: {job.stop_command(name)}"
        )
    raise AirflowFailException(
        f"{job.label} {name} did not end in time and was told to stop: it is given the limit that it was "
        f"started with and {WAIT_BEYOND_LIMIT_SECONDS} s around it, or this task's execution_timeout."
    )


def follow(
    job: Job, name: str, *, deadline: float, poll_seconds: int, is_killed: Callable[[], bool], log: Any
) -> dict[str, Any]:
    """Waits for a job's end with its news in the log; returns its last description.

    Args:
        job: The kind of job.
        name: Its name.
        deadline: Moment (seconds since 1970) after which it is late.
        poll_seconds: Pause between two looks.
        is_killed: Whether the task was killed meanwhile.
        log: The task's.

    Raises:
        AirflowException: It cannot be looked at, or is late.
    """
    with aws_faults("Training", goes_on(job, name)):
        patience = PATIENCE
        while True:
            try:
                description = job.describe(name)
                job.watch(name, description)
            except (ClientError, BotoCoreError) as error:
                patience -= 1
                if not patience or is_permanent(error):
                    raise
                log.warning("Cannot look at %s, trying again: %s", name, explain(error))
            else:
                patience = PATIENCE
                if job.outcome(description).state != "running":
                    break
                # A kill can come between the request that creates the job and its answer.
                if is_killed() and description[job.status_member] == "InProgress":
                    stop_job(job, name, log)
            if time.time() > deadline:
                give_up(job, name, log)
            time.sleep(poll_seconds)
    time.sleep(min(poll_seconds, LAST_WORDS_SECONDS))
    try:
        job.watch(name, description)
    except (ClientError, BotoCoreError) as error:
        log.warning("The end of the log of %s is not here: %s", name, explain(error))
    return description


def _has_ended(error: ClientError | BotoCoreError) -> bool:
    """SageMaker calls it invalid to stop what does not run."""
    return isinstance(error, ClientError) and (
        is_missing(error) or error_code(error) == "ValidationException"
    )

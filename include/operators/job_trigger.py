"""Follows a SageMaker job from the triggerer, so that no worker waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk.exceptions import AirflowException
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger, TriggerEvent
from airflow.utils.state import TaskInstanceState
from botocore.exceptions import BotoCoreError, ClientError

from include.operators.job_following import LAST_WORDS_SECONDS, PATIENCE, stop_job
from include.operators.sagemaker_jobs import JOBS, Job
from include.sagemaker.errors import explain, is_permanent

ENDED, LATE, LOST = "ended", "late", "lost"


class SageMakerJobTrigger(BaseTrigger):
    """Logs a job's news and fires one event: it has ended, is late, or cannot be followed from here.

    What became of it is for the task to find out. A triggerer that takes over from another one logs the
    job's lines from the first: nobody keeps how far the other one was.

    Args:
        kind: `training` or `tuning`.
        name: Name of the job.
        deadline: Moment (seconds since 1970) after which it is late.
        poll_seconds: Pause between two looks.
        connection: Arguments of the provider's hook.
    """

    def __init__(
        self, *, kind: str, name: str, deadline: float, poll_seconds: int, connection: Mapping[str, Any]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        self.name = name
        self.deadline = deadline
        self.poll_seconds = poll_seconds
        self.connection = dict(connection)
        self._job: Job | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Returns what makes the same trigger anew."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "kind": self.kind,
            "name": self.name,
            "deadline": self.deadline,
            "poll_seconds": self.poll_seconds,
            "connection": self.connection,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follows the job to its end."""
        status, message = await self._follow()
        if status == ENDED:
            await asyncio.sleep(min(self.poll_seconds, LAST_WORDS_SECONDS))
        yield TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "status": status,
                "name": self.name,
                "deadline": self.deadline,
                "message": message,
                **await asyncio.to_thread(self._farewell, status),
            }
        )

    async def on_kill(self) -> None:
        """Stops the job, because the task was marked or cleared.

        Airflow also calls this where another triggerer has taken over, and it may come to it late, when the
        next try of a cleared task has found the job. Somebody follows it then, and it goes on.
        """
        if await asyncio.to_thread(self._is_waited_for):
            self.log.info("Another try, or triggerer, follows %s now: it goes on.", self.name)
            return
        await asyncio.to_thread(self._stop)

    async def _follow(self) -> tuple[str, str]:
        # The worker has just reached AWS: where the first look fails, this host cannot.
        patience = 1
        while True:
            try:
                running = await asyncio.to_thread(self._look)
                patience = PATIENCE
            except (ClientError, BotoCoreError) as error:
                patience -= 1
                if not patience or is_permanent(error):
                    return LOST, explain(error)
                self.log.warning("Cannot look at %s, trying again: %s", self.name, explain(error))
                running = True
            except AirflowException as error:
                return LOST, str(error)
            if not running:
                return ENDED, ""
            if time.time() > self.deadline:
                return LATE, ""
            await asyncio.sleep(self.poll_seconds)

    def _look(self) -> bool:
        """Logs what is new; returns whether the job goes on."""
        job = self._the_job()
        description = job.describe(self.name)
        job.watch(self.name, description)
        return job.outcome(description).state == "running"

    def _farewell(self, status: str) -> dict[str, Any]:
        """Returns what the task cannot know: how far the log was followed, and how it ended."""
        if self._job is None or status == LOST:
            return {"place": self._job.place if self._job else {}, "last_words": ""}
        try:
            self._look()
            return {"place": self._job.place, "last_words": self._job.last_words()}
        except (ClientError, BotoCoreError) as error:
            self.log.warning("The end of the log of %s is not here: %s", self.name, explain(error))
            return {"place": self._job.place, "last_words": ""}

    def _is_waited_for(self) -> bool:
        task = self.task_instance
        if task is None:
            return False
        try:
            states = RuntimeTaskInstance.get_task_states(
                dag_id=task.dag_id,
                task_ids=[task.task_id],
                run_ids=[task.run_id],
                map_index=task.map_index,
            )
        except Exception as error:
            # In doubt it is stopped: a retry trains again, and a job that nobody follows only costs money.
            self.log.warning("Airflow does not say whether the task still waits: %s", error)
            return False
        state = states.get(task.run_id, {}).get(task.task_id)
        return state in (TaskInstanceState.DEFERRED, TaskInstanceState.RUNNING)

    def _stop(self) -> None:
        self.log.warning("The task was killed; stopping %s %s.", self.kind, self.name)
        stop_job(self._the_job(), self.name, self.log)

    def _the_job(self) -> Job:
        if self._job is None:
            hook = SageMakerHook(**self.connection)  # type: ignore[no-untyped-call]
            self._job = JOBS[self.kind](hook, self.log)
        return self._job

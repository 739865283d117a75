"""Plays Airflow where a task defers: the trigger, made anew from what is stored of it, then the rest."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.module_loading import import_string


def stored_trigger(deferred: TaskDeferred) -> Any:
    """The trigger as a triggerer makes it, from JSON."""
    path, arguments = deferred.trigger.serialize()
    return import_string(path)(**json.loads(json.dumps(arguments)))


def event_of(trigger: Any) -> Any:
    """What a trigger fires."""

    async def first() -> Any:
        async for event in trigger.run():
            return json.loads(json.dumps(event.payload))
        return None

    return asyncio.run(first())


def run_to_end(task: BaseOperator, context: dict[str, Any] | None = None) -> Any:
    """The result of a task that may defer once."""
    context = context if context is not None else {}
    try:
        return task.execute(context)  # type: ignore[arg-type]
    except TaskDeferred as deferred:
        event = event_of(stored_trigger(deferred))
        return task.resume_execution(deferred.method_name, {"event": event}, context)  # type: ignore[arg-type]

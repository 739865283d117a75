"""Writes an override of the gate into the run's note, where whoever looks at the run sees it first.

A task cannot: its token is for Airflow's execution API, which reads notes and writes none, and the public API
wants a user's login. The scheduler, which tells listeners that a run has ended, has the run at hand.
"""

from __future__ import annotations

from typing import Any

from airflow.listeners import hookimpl

DAG_ID, GATE = "post_modern_stack", "gate.gate_model"
LONGEST_NOTE = 1000  # of Airflow's column
OVERRIDDEN, _GAP = "Gate overridden", "\n\n"


@hookimpl
def on_dag_run_success(dag_run: Any, msg: str) -> None:
    """Notes an override of a run that has succeeded."""
    note_override(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: Any, msg: str) -> None:
    """Notes an override of a run that has failed after the gate."""
    note_override(dag_run)


def note_override(dag_run: Any) -> None:
    """Adds the override's reason to the run's note, once; what a person wrote there stays whole.

    Args:
        dag_run: The scheduler's `DagRun`; it is saved with the state that it is about to get.
    """
    if dag_run.dag_id != DAG_ID:
        return
    reason = _override_reason(dag_run)
    if reason is None:
        return
    written = dag_run.note or ""
    if written.startswith(OVERRIDDEN):
        return
    # The reason is on the card, too; what a person wrote is nowhere else.
    room = LONGEST_NOTE - len(written) - len(_GAP)
    line = _cut(f"{OVERRIDDEN}, because: {reason}", room if written else LONGEST_NOTE)
    if line:
        dag_run.note = f"{line}{_GAP}{written}" if written else line


def _cut(line: str, room: int) -> str:
    if len(line) <= room:
        return line
    return f"{line[: room - 1]}…" if room > len(OVERRIDDEN) else ""


def _override_reason(dag_run: Any) -> str | None:
    from airflow.models.xcom import XComModel
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return None
    chosen = XComModel.get_many(
        run_id=dag_run.run_id, key="return_value", task_ids=GATE, dag_ids=dag_run.dag_id, limit=1
    )
    left = session.scalars(chosen).first()
    verdict = None if left is None else XComModel.deserialize_value(left)
    reason = verdict.get("override_reason") if isinstance(verdict, dict) else None
    return str(reason) if reason else None

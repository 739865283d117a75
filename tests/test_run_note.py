from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.models import Base, import_all_models
from airflow.models.dagrun import DagRun, DagRunNote
from airflow.models.xcom import XComModel
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunType
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from include import run_note
from include.run_note import DAG_ID, GATE, LONGEST_NOTE

REASON = "Agreed with the shop: <b>sale</b> starts at 8."


@pytest.fixture
def session() -> Iterator[Session]:
    """Airflow's tables, in memory."""
    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as opened:
        yield opened


def run(session: Session, verdict: Any, dag_id: str = DAG_ID, note: str | None = None) -> DagRun:
    made = DagRun(dag_id=dag_id, run_id="run", run_type=DagRunType.MANUAL, note=note)
    session.add(made)
    session.flush()
    if verdict is not None:
        where = {"dag_run_id": made.id, "dag_id": dag_id, "run_id": "run", "task_id": GATE, "map_index": -1}
        session.add(XComModel(key="return_value", value=verdict, **where))
    session.commit()
    return made


def ended(session: Session, dag_run: DagRun, state: DagRunState) -> str | None:
    """Tells the listener as the scheduler does; returns the note that is in the database then."""
    hook = {DagRunState.SUCCESS: run_note.on_dag_run_success, DagRunState.FAILED: run_note.on_dag_run_failed}
    hook[state](dag_run=dag_run, msg="")
    session.commit()
    session.expire_all()
    kept = session.get(DagRunNote, dag_run.id)
    return None if kept is None else kept.content


@pytest.mark.parametrize("state", [DagRunState.SUCCESS, DagRunState.FAILED])
@pytest.mark.parametrize("stored", [dict, json.dumps], ids=["by_the_task", "as_text"])
def test_an_override_is_in_the_run_s_note(session: Session, state: DagRunState, stored: Any) -> None:
    verdict = stored({"approved": True, "override_reason": REASON})
    assert ended(session, run(session, verdict), state) == f"Gate overridden, because: {REASON}"


@pytest.mark.parametrize(
    "verdict", [None, {"approved": True, "override_reason": None}, {"approved": False}, "text", 7], ids=str
)
def test_a_run_without_an_override_has_no_note(session: Session, verdict: Any) -> None:
    assert ended(session, run(session, verdict), DagRunState.SUCCESS) is None


def test_a_run_of_another_dag_is_none_of_ours(session: Session) -> None:
    other = run(session, {"override_reason": REASON}, dag_id="someone_elses")
    assert ended(session, other, DagRunState.SUCCESS) is None


def test_what_a_person_wrote_stays_and_nothing_is_written_twice(session: Session) -> None:
    dag_run = run(session, {"override_reason": REASON}, note="Watch this one.")
    once = ended(session, dag_run, DagRunState.FAILED)
    assert once is not None and REASON in once and once.endswith("Watch this one.")
    assert ended(session, dag_run, DagRunState.SUCCESS) == once


@pytest.mark.parametrize(
    ("reason", "note", "starts", "length"),
    [
        ("r" * 5000, None, "Gate overridden, because: rrr", LONGEST_NOTE),
        ("r" * 5000, "n" * 500, "Gate overridden, because: rrr", LONGEST_NOTE),
        (REASON, "n" * 950, "Gate overridden, because: Agreed", LONGEST_NOTE),
        (REASON, "n" * 1000, "nnn", LONGEST_NOTE),
        (REASON, "n" * 990, "nnn", 990),
    ],
    ids=["long reason", "long reason and a note", "little room", "full", "no room for a word"],
)
def test_a_note_keeps_a_persons_words_and_airflows_bound(
    session: Session, reason: str, note: str | None, starts: str, length: int
) -> None:
    dag_run = run(session, {"override_reason": reason}, note=note)
    once = ended(session, dag_run, DagRunState.SUCCESS)
    assert once is not None and len(once) == length
    assert once.startswith(starts) and once.endswith(note or "")
    assert ended(session, dag_run, DagRunState.SUCCESS) == once

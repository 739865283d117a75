"""Puts an earlier, approved model back behind the endpoint.

**What.** Chooses a version of the model package group (the approved one before the live one, or the one that
is named), deploys the very artefact that the gate judged, by the same tasks as `post_modern_stack`, asks the
endpoint for the recorded test sessions, and notes in the registry who went back, when and why. The model that
was live becomes Rejected, so that nothing goes back to it.

**Needs.** The AWS connection; the version's model, evaluation archive and verdict on S3.

**Cost.** What a deploy costs: while traffic moves, the instances of both models.

**Triage.** *choose_package* says why there is no way back, and which versions are approved. *deploy*: the
message says what is live now. *end_shadow_test* failed: machines go on costing money; clear it. To stop a
run, mark the task that runs as failed, not the run: Airflow takes the colour of a run that is marked from its
clearing-up tasks. A run of `post_modern_stack` beside this one is not stopped: a model of newer data than the
one that went live here is deployed where it passes the gate, and is meant to be. The rejected model itself
does not come back by being trained or judged anew: its entry then waits for a person. To keep every other
model out, pause `post_modern_stack` first. Clearing *choose_package* keeps its choice; for another one,
trigger anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Param, chain, dag

from include.deploy import deploy_group
from include.operators.choose_package import ChoosePackageOperator, RecordRollbackOperator
from include.settings import get_settings

settings = get_settings()


@dag(
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["deploy", "post-modern-stack"],
    doc_md=__doc__,
    render_template_as_native_obj=True,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "version": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Version",
            description="Version of the model package group to go back to, as on the page Models. Empty: the "
            "approved one before the live one.",
        ),
        "reason": Param(
            type="string",
            minLength=3,
            maxLength=300,
            title="Because",
            description="Kept in the registry, on both versions.",
        ),
        "reject_current": Param(
            True,
            type="boolean",
            title="Reject the live model",
            description="Nothing goes back to it then. Off: it stays Approved.",
        ),
    },
)
def roll_back_endpoint() -> None:
    """Wires choosing, deploying and recording."""
    choose = ChoosePackageOperator(task_id="choose_package", version="{{ params.version }}")
    chosen: Any = choose.output
    claims = {name: chosen[name] for name in ("trained_model", "verdict", "registered")}
    deploy = deploy_group(
        settings, **claims, wanted=True, allow_older=True, shadow_minutes=0, ephemeral=False
    )
    smoke: Any = deploy.get_child_by_label("smoke_test")
    record = RecordRollbackOperator(
        task_id="record_rollback",
        registered=claims["registered"],
        before=chosen["before"],
        deployed=smoke.output,
        reason="{{ params.reason }}",
        reject_current="{{ params.reject_current }}",
    )
    chain(choose, deploy, record)


roll_back_endpoint()

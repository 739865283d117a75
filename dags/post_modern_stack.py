"""Turns raw shopping events into real-time recommendations.

**What.** Raw shopping events become recommendations: dbt transforms them in the warehouse, a versioned
snapshot goes to S3, a Keras model is trained as a SageMaker job, a RecList suite decides whether it may be
deployed, the registry keeps model and verdict, and the endpoint is updated and asked to prove it.

**Needs.** Raw events (`load_shopping_events`), the warehouse and AWS connections, with DuckDB the pool
`warehouse`, with `PMS_DBT_RUNNER=cloud` the dbt Cloud connection and a job.

**Cost.** One training job (a GPU instance for minutes, at most *Training minutes*), or one for each of the
*Tuning trials*; one warehouse for the dbt run; the endpoint's instances, always on, and twice as many while
traffic moves or a shadow test runs. A retry attaches to the running job; it never starts a second one. A
training that could cost more than *US dollars at most* is refused before anything starts; marking or clearing
*train_model* stops its job.

**Triage.** *check_prerequisites* lists everything that is missing at once. *transform*: a data test failed;
its task log names the rows. *train*: the job's reason and last log lines are in the task log. *gate*: the
model was rejected, by *gate_model* (the reasons are in its log and on the card) or by a person
(*approve_model*); the live endpoint is untouched. *deploy*: the message says what is live now.
*end_shadow_test*, *delete_endpoint*: machines go on costing money; clear the task. *clean_up*: the model is
live; what was to go is tried again by the next run. To stop a run, mark the task that runs as failed, not the
run: Airflow takes the colour of a run that is marked from its clearing-up tasks.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from airflow.sdk import TaskGroup, TriggerRule, chain, dag

from include.assets import RAW_EVENTS, RAW_PRODUCTS, RAW_SEARCHES, schedule_of
from include.deploy import deploy_group
from include.operators.approve_model import ApproveModelOperator
from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.operators.clean_up import CleanUpOperator
from include.operators.export_snapshot import ExportSnapshotOperator
from include.operators.gate_model import GateModelOperator
from include.operators.register_model import RegisterModelOperator
from include.operators.train_model import TrainModelOperator
from include.run_params import run_params
from include.settings import get_settings
from include.transform import transform_group
from include.window import window_of_run

settings = get_settings()


@dag(
    schedule=schedule_of(settings.schedule),
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["post-modern-stack", "train", "deploy"],
    doc_md=__doc__,
    render_template_as_native_obj=True,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    user_defined_macros={"window": partial(window_of_run, window_days=settings.window_days)},
    params=run_params(settings),
)
def post_modern_stack() -> None:
    """Wires the five verbs of the pipeline: transform, export, train, gate, deploy."""
    chosen = {
        "start_date": "{{ window(params, dag_run, triggering_asset_events).start }}",
        "end_date": "{{ window(params, dag_run, triggering_asset_events).end }}",
        "tenant": "{{ params.tenant }}",
        "reuse_snapshot": "{{ params.reuse_snapshot }}",
    }
    training: dict[str, Any] = {
        "hyperparameters": {
            "architecture": "{{ params.architecture }}",
            "epochs": "{{ params.epochs }}",
            # Ends with the best weights so far, well before SageMaker stops the job with none.
            "max-seconds": "{{ params.training_minutes * 36 }}",
        },
        "instance_type": "{{ params.training_instance_type }}",
        "max_runtime_seconds": "{{ params.training_minutes * 60 }}",
        "instances": "{{ params.training_instances }}",
        "spot": "{{ params.spot }}",
        "max_cost": "{{ params.max_cost }}",
        "tune_trials": "{{ params.tune_trials }}",
        "tune_parallel": "{{ params.tune_parallel }}",
    }
    check = CheckPrerequisitesOperator(
        task_id="check_prerequisites",
        inlets=[RAW_EVENTS, RAW_PRODUCTS, RAW_SEARCHES],
        **chosen,
        training=training,
        deploys="{{ params.deploy and not params.ephemeral }}",
        pool=settings.warehouse_pool,
    )
    transform = transform_group(settings, check)

    with TaskGroup("export") as export:
        snapshot = ExportSnapshotOperator(
            task_id="export_snapshot",
            **chosen,
            max_sessions="{{ params.max_sessions }}",
            # Runs after a skipped transform: check_prerequisites skips it where a snapshot is used again.
            trigger_rule=TriggerRule.NONE_FAILED,
            pool=settings.warehouse_pool,
        )

    with TaskGroup("train") as train:
        trained = TrainModelOperator(task_id="train_model", snapshot=snapshot.output, **training)

    with TaskGroup("gate") as gate:
        verdict = GateModelOperator(
            task_id="gate_model",
            trained_model=trained.output,
            override_reason="{{ params.override_reason }}",
        )
        claims: dict[str, Any] = {"trained_model": trained.output, "verdict": verdict.output}
        registered = RegisterModelOperator(
            task_id="register_model",
            **claims,
            require_approval="{{ params.require_approval }}",
            # Runs after a rejection, too: the registry remembers what the gate refused.
            trigger_rule=TriggerRule.ALL_DONE,
        )
        # Follows the gate itself as well, so that a rejection stops here.
        ApproveModelOperator(
            task_id="approve_model",
            registered=registered.output,
            verdict=verdict.output,
            require_approval="{{ params.require_approval }}",
            approval_hours="{{ params.approval_hours }}",
        )

    deploy = deploy_group(
        settings,
        **claims,
        registered=registered.output,
        wanted="{{ params.deploy }}",
        allow_older="{{ params.allow_older }}",
        shadow_minutes="{{ params.shadow_minutes }}",
        ephemeral="{{ params.ephemeral }}",
    )

    clean = CleanUpOperator(task_id="clean_up", snapshot=snapshot.output)

    chain(check, transform, export, train, gate, deploy, clean)


post_modern_stack()

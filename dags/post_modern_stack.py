"""Turns raw shopping events into real-time recommendations.

**What.** Raw shopping events become recommendations: dbt transforms them in the warehouse, a versioned
snapshot goes to S3, a Keras model is trained as a SageMaker job, a RecList suite decides whether it may be
deployed, and the endpoint is updated and asked to prove it.

**Needs.** Raw events (`load_shopping_events`), the warehouse and AWS connections, with DuckDB the pool
`warehouse`, with `PMS_DBT_RUNNER=cloud` the dbt Cloud connection and a job.

**Cost.** One training job (a GPU instance for minutes, at most *Training minutes*), one always-on endpoint
instance, one warehouse for the dbt run. A retry attaches to the running job; it never starts a second one.

**Triage.** *check_prerequisites* lists everything that is missing at once. *transform*: a data test failed;
its task log names the rows. *train*: the job's reason and last log lines are in the task log. *gate*: the
model was rejected, the reasons are in the log and on the card; the live endpoint is untouched. *deploy*:
the message says what is live now.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import Param, TaskGroup, TriggerRule, chain, dag

from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.operators.deploy_model import (
    CreateEndpointConfigOperator,
    CreateModelOperator,
    DeployEndpointOperator,
    SmokeTestOperator,
)
from include.operators.export_snapshot import ExportSnapshotOperator
from include.operators.gate_model import GateModelOperator
from include.operators.train_model import TrainModelOperator
from include.settings import TENANT_PATTERN, get_settings
from include.snapshots import SNAPSHOT_ID
from include.transform import transform_group
from include.window import window_of_run

settings = get_settings()


@dag(
    schedule=settings.schedule,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["post-modern-stack", "train", "deploy"],
    doc_md=__doc__,
    render_template_as_native_obj=True,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    user_defined_macros={"window": partial(window_of_run, window_days=settings.window_days)},
    params={
        "start_date": Param(
            None,
            type=["null", "string"],
            format="date",
            title="First day",
            description=f"First event date (UTC). Empty: {settings.window_days} days before the last.",
        ),
        "end_date": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Day after the last",
            description="Events before this day (UTC) are used. Empty: the end of the run's data interval.",
        ),
        "tenant": Param(
            settings.tenant,
            type="string",
            pattern=TENANT_PATTERN,
            title="Tenant",
            description="Key of the shop to learn from and recommend to.",
        ),
        "max_sessions": Param(
            None,
            type=["null", "integer"],
            minimum=100,
            maximum=100_000_000,
            title="Sessions at most",
            description="Train on the latest N sessions of the window, for a quick try. Empty for all.",
        ),
        "reuse_snapshot": Param(
            None,
            type=["null", "string"],
            pattern=f"^{SNAPSHOT_ID}$",
            title="Reuse snapshot",
            description="Train on this snapshot of the tenant (snap-…) instead of a new export. Dates and "
            "sessions at most are ignored then, and transform is skipped.",
        ),
        "architecture": Param(
            "gru",
            enum=["gru", "attention"],
            title="Architecture",
            description="gru: recurrent, quick to train on a CPU. attention: SASRec-like.",
        ),
        "epochs": Param(
            10,
            type="integer",
            minimum=1,
            maximum=200,
            title="Epochs at most",
            description="Training stops earlier once validation MRR@20 no longer rises.",
        ),
        "training_instance_type": Param(
            settings.training_instance_type,
            type="string",
            pattern=r"^ml\.(m5|m6i|m7i|c5|c6i|c7i|g4dn|g5|g6|p3)\.(x?large|[248]xlarge|12xlarge)$",
            title="Training instance",
            description="SageMaker instance of the training job; the largest types are refused on purpose.",
        ),
        "training_minutes": Param(
            60,
            type="integer",
            minimum=1,
            maximum=1440,
            title="Training minutes at most",
            description="The job is stopped, and billing ends, after this long.",
        ),
        "deploy": Param(
            True,
            type="boolean",
            title="Deploy",
            description="Off: stop after the gate's verdict and leave the endpoint alone.",
        ),
        "override_reason": Param(
            None,
            type=["null", "string"],
            maxLength=500,
            title="Override the gate, because",
            description="Deploys a rejected model. The reason is kept in the verdict and on the card.",
        ),
    },
)
def post_modern_stack() -> None:
    """Wires the five verbs of the pipeline: transform, export, train, gate, deploy."""
    check = CheckPrerequisitesOperator(
        task_id="check_prerequisites",
        start_date="{{ window(params, dag_run).start }}",
        end_date="{{ window(params, dag_run).end }}",
        tenant="{{ params.tenant }}",
        reuse_snapshot="{{ params.reuse_snapshot }}",
        pool=settings.warehouse_pool,
    )
    transform = transform_group(settings, check)

    with TaskGroup("export") as export:
        snapshot = ExportSnapshotOperator(
            task_id="export_snapshot",
            start_date="{{ window(params, dag_run).start }}",
            end_date="{{ window(params, dag_run).end }}",
            max_sessions="{{ params.max_sessions }}",
            tenant="{{ params.tenant }}",
            reuse_snapshot="{{ params.reuse_snapshot }}",
            # Runs after a skipped transform: check_prerequisites skips it where a snapshot is used again.
            trigger_rule=TriggerRule.NONE_FAILED,
            pool=settings.warehouse_pool,
        )

    with TaskGroup("train") as train:
        trained = TrainModelOperator(
            task_id="train_model",
            snapshot=snapshot.output,
            hyperparameters={
                "architecture": "{{ params.architecture }}",
                "epochs": "{{ params.epochs }}",
                # Ends with the best weights so far, well before SageMaker stops the job with none.
                "max-seconds": "{{ params.training_minutes * 36 }}",
            },
            instance_type="{{ params.training_instance_type }}",
            max_runtime_seconds="{{ params.training_minutes * 60 }}",
        )

    with TaskGroup("gate") as gate:
        verdict = GateModelOperator(
            task_id="gate_model",
            trained_model=trained.output,
            override_reason="{{ params.override_reason }}",
        )

    with TaskGroup("deploy") as deploy:
        wanted = ShortCircuitOperator(
            task_id="deploy_wanted", python_callable=lambda wanted: wanted, op_args=["{{ params.deploy }}"]
        )
        claims: dict[str, Any] = {"trained_model": trained.output, "verdict": verdict.output}
        model = CreateModelOperator(task_id="create_model", **claims)
        config = CreateEndpointConfigOperator(task_id="create_endpoint_config", **claims)
        endpoint = DeployEndpointOperator(task_id="deploy_endpoint", **claims)
        smoke = SmokeTestOperator(task_id="smoke_test", deployed=endpoint.output, **claims)
        chain(wanted, model, config, endpoint, smoke)

    chain(check, transform, export, train, gate, deploy)


post_modern_stack()

"""What a run of the pipeline may choose: the fields of Airflow's trigger form, checked before it starts."""

from __future__ import annotations

from airflow.sdk import Param

from include.sagemaker.tuning import MAX_PARALLEL, MAX_TRIALS
from include.settings import PATTERN_END, TENANT_PATTERN, Settings
from include.snapshots import SNAPSHOT_ID


def run_params(settings: Settings) -> dict[str, Param]:
    """Returns the Params of `post_modern_stack`, with the settings as defaults."""
    return {
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
            description="Events before this day (UTC) are used. Empty: the end of the run's data interval, "
            "or, where a load triggered the run, the end of the log.",
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
            pattern=f"^{SNAPSHOT_ID}{PATTERN_END}",
            title="Reuse snapshot",
            description="Train on this snapshot of the tenant (snap-…) instead of a new export. Dates and "
            "sessions at most are ignored then, and transform is skipped.",
        ),
        "full_refresh": Param(
            False,
            type="boolean",
            title="Rebuild the marts",
            description="Drops and builds every dbt model anew from the whole log, for every tenant. New "
            "rows, rules and columns are taken up without it; another type of a column is not. Not with dbt "
            "Cloud.",
        ),
        "architecture": Param(
            "gru",
            enum=["gru", "attention"],
            title="Architecture",
            description="gru: recurrent, quick to train on a CPU. attention: SASRec-like.",
        ),
        "epochs": Param(
            6,
            type="integer",
            minimum=1,
            maximum=200,
            title="Epochs at most",
            description="Training stops earlier once validation MRR@20 no longer rises.",
        ),
        "training_instance_type": Param(
            settings.training_instance_type,
            type="string",
            pattern=r"^ml\.(m5|m6i|m7i|c5|c6i|c7i|g4dn|g5|g6|p3)\.(x?large|[248]xlarge|12xlarge)"
            + PATTERN_END,
            title="Training instance",
            description="SageMaker instance of the training job; the largest types are refused on purpose.",
        ),
        "training_minutes": Param(
            60,
            type="integer",
            minimum=1,
            maximum=1440,
            title="Training minutes at most",
            description="The job, or each tuning trial, is stopped, and billing ends, after this long.",
        ),
        "training_instances": Param(
            1,
            type="integer",
            minimum=1,
            maximum=8,
            title="Training instances",
            description="Each learns from a share of the same batches. The emulator has one.",
        ),
        "spot": Param(
            settings.training_spot,
            type="boolean",
            title="Train on spare capacity",
            description="Managed spot: cheaper, may be interrupted (it goes on from its checkpoint) and may "
            f"wait for machines, at most {settings.spot_wait_minutes} minutes in all.",
        ),
        "max_cost": Param(
            settings.max_cost,
            type=["null", "number"],
            exclusiveMinimum=0,
            title="US dollars at most",
            description="A training that could cost more at list price is refused before it starts. Empty: "
            "no limit.",
        ),
        "tune_trials": Param(
            0,
            type="integer",
            minimum=0,
            maximum=MAX_TRIALS,
            title="Tuning trials",
            description="0: train once. N: a SageMaker tuning job trains N times, with learning rate, "
            "dropout, embedding size and batch size of its choice, and the best by validation MRR@20 goes "
            "on to the gate. Each trial costs a training.",
        ),
        "tune_parallel": Param(
            2,
            type="integer",
            minimum=1,
            maximum=MAX_PARALLEL,
            title="Tuning trials at a time",
            description="Each needs an instance. Fewer at a time learn more from those before them.",
        ),
        "deploy": Param(
            True,
            type="boolean",
            title="Deploy",
            description="Off: stop after gate and registry, and leave the endpoint alone. Nothing is "
            "cleaned up then.",
        ),
        "allow_older": Param(
            False,
            type="boolean",
            title="Deploy over a newer one",
            description="Off: a model of older data than that of the live one is left in the registry. On: "
            "it goes live, even while an alarm of the endpoint rings.",
        ),
        "shadow_minutes": Param(
            0,
            type="integer",
            minimum=0,
            maximum=1440,
            title="Shadow test, minutes",
            description="N: the new model first gets a copy of the live traffic for so long, and the card "
            "compares its answers with the live model's. Costs as many machines again, and keeps every "
            "request on S3. Not with serverless.",
        ),
        "ephemeral": Param(
            False,
            type="boolean",
            title="Deploy, test, delete",
            description="The model is put on an endpoint of its own, tested and deleted: the live endpoint "
            "is left alone, and nothing that the run made goes on costing money.",
        ),
        "require_approval": Param(
            settings.require_approval,
            type="boolean",
            title="Ask a person",
            description="What the gate approves waits, under Required Actions, for somebody to say yes.",
        ),
        "approval_hours": Param(
            24,
            type="number",
            exclusiveMinimum=0,
            maximum=720,
            title="Hours to answer",
            description="Nobody's answer within this time is a no.",
        ),
        "override_reason": Param(
            None,
            type=["null", "string"],
            maxLength=500,
            title="Override the gate, because",
            description="Deploys a rejected model. The reason is kept in the verdict and on the card.",
        ),
    }

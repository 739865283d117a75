"""Deletes what the project made in SageMaker, after a dry run and a person's yes.

**What.** Lists everything that has the tag `project=post-modern-stack` (endpoints with their autoscaling,
configurations, models, running jobs, which are stopped; the versions in the registry and the files under
`PMS_BUCKET`/`PMS_PREFIX` where that is asked for), with what it costs. A person says yes under *Required
Actions*; silence is a no. Then exactly that list is deleted. What has no such tag is never touched; another
installation in the same account and region has it, too, and is on the list.

**Needs.** The AWS connection and the bucket, where the plan is kept (`tear_down/`, which stays). Pause
`post_modern_stack` first: its next run builds everything anew.

**Cost.** None; it ends costs.

**Triage.** *plan* skips where there is nothing to delete. *approve* failed: somebody said no, or nobody
answered in time. *delete* names everything that it could not delete, and why; clear it to try those again.
What has changed since the plan, and what an endpoint needs that is still there, is left and named in its
log: trigger a new run for it. Alarms and roles are
of the CloudFormation stack `include/cloud/aws.yaml`, earlier versions of files are the bucket's lifecycle's:
neither goes here.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import Param, chain, dag

from include.operators.tear_down import ApproveTearDownOperator, PlanTearDownOperator, TearDownOperator


@dag(
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["clean-up", "post-modern-stack"],
    doc_md=__doc__,
    render_template_as_native_obj=True,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "registry": Param(
            False,
            type="boolean",
            title="Registry",
            description="Also the model package group and every version in it: what was ever judged.",
        ),
        "data": Param(
            False,
            type="boolean",
            title="Files on S3",
            description="Also snapshots, models, reports and everything else under the project's prefix.",
        ),
        "hours": Param(
            1,
            type="number",
            exclusiveMinimum=0,
            maximum=168,
            title="Hours to answer",
            description="Nobody's yes within this time is a no.",
        ),
    },
)
def tear_down() -> None:
    """Wires the dry run, the question and the deletion."""
    plan = PlanTearDownOperator(task_id="plan", data="{{ params.data }}", registry="{{ params.registry }}")
    approve = ApproveTearDownOperator(task_id="approve", plan=plan.output, hours="{{ params.hours }}")
    delete = TearDownOperator(
        task_id="delete",
        plan=plan.output,
        approved=approve.output,
        # An endpoint that is being updated cannot be deleted: in all, the tries outlast an update.
        retries=8,
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(minutes=10),
    )
    chain(plan, approve, delete)


tear_down()

"""The deploy step: the endpoint serves an approved model and has answered as the gate saw it answer."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import TaskGroup, TriggerRule, chain

from include.operators.create_serving import CreateEndpointConfigOperator, CreateModelOperator
from include.operators.delete_endpoint import DeleteEndpointOperator
from include.operators.deploy_endpoint import DeployEndpointOperator
from include.operators.end_shadow_test import EndShadowTestOperator
from include.operators.shadow_test import ShadowTestOperator
from include.operators.smoke_test import SmokeTestOperator

if TYPE_CHECKING:
    from include.settings import Settings

GROUP = "deploy"


def deploy_group(
    settings: Settings,
    *,
    trained_model: Any,
    verdict: Any,
    registered: Any,
    wanted: Any,
    allow_older: Any,
    shadow_minutes: Any,
    ephemeral: Any,
) -> TaskGroup:
    """Returns the task group that puts a model behind the endpoint.

    A task must follow it: Airflow judges a run by its last tasks, and here that is the clearing up.

    Args:
        settings: Names the AWS connection.
        trained_model: The `TrainedModel` claim check, or a template of it, as all that follow.
        verdict: The `Verdict` claim check; nothing is touched unless it approves.
        registered: The `Registered` claim check; must be Approved when the endpoint is moved, and is set to
            Rejected where it answers wrongly.
        wanted: Whether to deploy at all.
        allow_older: Whether the model may take the place of one that learned from newer data.
        shadow_minutes: How long the model gets a copy of the live traffic first; 0 for no such test.
        ephemeral: Whether to test the model on an endpoint of its own instead, and to delete that.
    """
    claims = {"trained_model": trained_model, "verdict": verdict, "aws_conn_id": settings.aws_conn_id}
    # Outlasts a short want of machines, or an alarm that rings before the update, by half an hour.
    patient: dict[str, Any] = {
        "retries": 5,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
    }
    with TaskGroup(GROUP) as group:
        asked = ShortCircuitOperator(
            task_id="deploy_wanted", python_callable=lambda wanted: wanted, op_args=[wanted]
        )
        model = CreateModelOperator(task_id="create_model", **claims)
        config = CreateEndpointConfigOperator(task_id="create_endpoint_config", **claims, ephemeral=ephemeral)
        shadow = ShadowTestOperator(
            task_id="shadow_test",
            minutes=shadow_minutes,
            registered=registered,
            **claims,
            allow_older=allow_older,
            ephemeral=ephemeral,
            **patient,
        )
        endpoint = DeployEndpointOperator(
            task_id="deploy_endpoint",
            **claims,
            registered=registered,
            allow_older=allow_older,
            ephemeral=ephemeral,
            **patient,
            # Goes on after a skipped test; but where nothing is to be deployed at all, it is skipped as well.
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        )
        smoke = SmokeTestOperator(
            task_id="smoke_test", deployed=endpoint.output, registered=registered, **claims
        )
        delete = DeleteEndpointOperator(
            task_id="delete_endpoint",
            trained_model=trained_model,
            ephemeral=ephemeral,
            aws_conn_id=settings.aws_conn_id,
            # What is not deleted goes on costing money.
            retries=5,
        )
        end = EndShadowTestOperator(
            task_id="end_shadow_test", ephemeral=ephemeral, aws_conn_id=settings.aws_conn_id, retries=5
        )
        chain(asked, model, config, shadow, endpoint, smoke)
        model >> endpoint
        # Both run whatever became of the others. What they leave costs money and makes the run red; so
        # does a failed smoke test, as long as a task that is no teardown follows the group.
        smoke >> delete.as_teardown(setups=[config, endpoint], on_failure_fail_dagrun=True)
        smoke >> end.as_teardown(setups=[config], on_failure_fail_dagrun=True)
    return group

"""What every operator does at its edges: reads its claim checks, and tells Airflow which faults to retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TypeVar

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from include.contracts import Contract, PipelineError
from include.sagemaker.errors import explain, is_permanent

# Not the caller's: TriggerDagRunOperator adds it where OpenLineage is on, as it is on Astro.
_NO_PARAMS = frozenset({"openlineage"})
ClaimT = TypeVar("ClaimT", bound=Contract)


@contextmanager
def aws_faults(doing: str, left_behind: str = "") -> Iterator[None]:
    """Fails the task at once where a retry cannot mend the fault, and lets Airflow retry the others.

    Args:
        doing: What was being done, for the message.
        left_behind: Ends the message: what the fault of ours does not end.

    Raises:
        AirflowFailException: A pipeline error; credentials, permissions or a refused request.
        AirflowException: Throttling, capacity, a broken connection.
    """
    after = f" {left_behind}" if left_behind else ""
    try:
        yield
    except PipelineError as error:
        raise AirflowFailException(f"{doing}: {error}{after}") from error
    except (ClientError, BotoCoreError) as error:
        fault = AirflowFailException if is_permanent(error) else AirflowException
        raise fault(f"{doing}: {explain(error)}{after}") from error


def read_claim(kind: type[ClaimT], value: object) -> ClaimT:
    """Returns the claim check that an upstream task handed over through XCom.

    Raises:
        AirflowFailException: It is missing, or not of this kind.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise AirflowFailException(
            f"The upstream task handed over no {kind.__name__}: {error}. Clear the upstream task."
        ) from error


def refuse_unknown_params(task: BaseOperator, context: Context) -> None:
    """Refuses a run that was given a Param which its DAG has not: Airflow takes it, and it does nothing.

    Raises:
        AirflowFailException: Names them, and what may have been meant.
    """
    run = context.get("dag_run")
    given = set((run.conf or {}) if run else {}) - _NO_PARAMS
    known = set(task.dag.params) if given else set()
    if unknown := sorted(given - known):
        meant = {name: get_close_matches(name, known, n=1) for name in unknown}
        listed = ", ".join(name + (f" (meant: {near[0]}?)" if near else "") for name, near in meant.items())
        raise AirflowFailException(
            f"{task.dag.dag_id} has no such Param: {listed}. Nothing was started. It has: "
            f"{', '.join(sorted(known))}."
        )

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskAwaitingInput

from include.contracts import TrainedModel, Verdict
from include.operators.approve_model import ApprovalRefusedError, ApproveModelOperator, responder
from include.operators.register_model import RegisterModelOperator
from include.sagemaker.registry import Package, list_packages
from tests.operators.fake_sagemaker import FakeSageMaker, refusal

ADA = {"id": "ada", "name": "Ada Lovelace"}


def client() -> Any:
    return boto3.client("sagemaker", aws_access_key_id="x", aws_secret_access_key="x")


def package() -> Package:
    [found] = list_packages(client(), "shop-recommender")
    return found


def register(trained: TrainedModel, verdict: Verdict, require_approval: bool) -> dict[str, Any]:
    operator = RegisterModelOperator(
        task_id="register_model",
        trained_model=trained.to_xcom(),
        verdict=verdict.to_xcom(),
        require_approval=require_approval,
    )
    return operator.execute({})  # type: ignore[typeddict-item]


@pytest.fixture
def pending(sagemaker: FakeSageMaker, trained: TrainedModel, approval: Verdict) -> dict[str, Any]:
    """A model that waits for a person."""
    return register(trained, approval, require_approval=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The questions that were put to people."""
    questions: list[dict[str, Any]] = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **question: questions.append(question))
    return questions


def task(registered: object, verdict: object, required: object = True, hours: object = 24) -> Any:
    return ApproveModelOperator(
        task_id="approve_model",
        registered=registered,
        verdict=verdict,
        require_approval=required,
        approval_hours=hours,
    )


def execute(operator: Any) -> Any:
    return operator.execute({"task_instance": SimpleNamespace(id="ti-1"), "run_id": "run-1"})


def event(option: str, user: dict[str, str] | None, timedout: bool = False) -> dict[str, Any]:
    """What Airflow resumes the task with."""
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime(2026, 11, 24, tzinfo=UTC),
        "responded_by_user": user,
        "timedout": timedout,
    }


def test_what_the_gate_approved_passes_at_once_where_nobody_is_to_be_asked(
    sagemaker: FakeSageMaker, trained: TrainedModel, approval: Verdict, asked: list[dict[str, Any]]
) -> None:
    registered = register(trained, approval, require_approval=False)
    assert execute(task(registered, approval.to_xcom(), False)) == registered
    assert asked == [] and sagemaker.made("UpdateModelPackage") == []


@pytest.mark.parametrize("hours", [24, 0.5])
def test_a_person_is_asked_and_no_answer_is_a_no(
    pending: dict[str, Any], approval: Verdict, asked: list[dict[str, Any]], hours: float
) -> None:
    with pytest.raises(TaskAwaitingInput) as waiting:
        execute(task(pending, approval.to_xcom(), hours=hours))
    assert waiting.value.timeout == timedelta(hours=hours)
    assert waiting.value.method_name == "execute_complete"
    [put] = asked
    assert put["defaults"] == ["Reject"]
    assert put["options"] == ["Approve", "Reject"]
    assert package().approval == "PendingManualApproval"


def test_a_question_that_is_asked_again_says_nothing_that_may_have_changed(
    pending: dict[str, Any], trained: TrainedModel, approval: Verdict, asked: list[dict[str, Any]]
) -> None:
    # Airflow shows the first question's text where a task asks again.
    other = approval.model_copy(update={"metrics": {"hit_rate@20": 0.1}, "job_name": "pms-another"})
    again = register(trained.model_copy(update={"job_name": "pms-another"}), other, require_approval=True)
    for registered, verdict in ((pending, approval), (again, other)):
        with pytest.raises(TaskAwaitingInput):
            execute(task(registered, verdict.to_xcom()))
    first, second = ({key: put[key] for key in ("subject", "body", "defaults", "options")} for put in asked)
    assert first == second
    assert "Model card" in first["body"] and "Models" in first["body"]


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("recorded", ["PendingManualApproval", "Approved"])
def test_nobody_is_asked_about_what_the_gate_rejected(
    pending: dict[str, Any], approval: Verdict, asked: list[dict[str, Any]], required: bool, recorded: str
) -> None:
    # Somebody marked gate_model as success by hand.
    client().update_model_package(ModelPackageArn=pending["package_arn"], ModelApprovalStatus=recorded)
    rejected = approval.model_copy(update={"approved": False})
    with pytest.raises(AirflowFailException, match="gate did not approve"):
        execute(task(pending, rejected.to_xcom(), required))
    assert asked == []


def test_a_yes_is_recorded_with_who_said_it_and_is_not_asked_for_twice(
    pending: dict[str, Any], approval: Verdict, asked: list[dict[str, Any]]
) -> None:
    operator = task(pending, approval.to_xcom())
    answered = operator.execute_complete({"run_id": "run-1"}, event("Approve", ADA))
    assert answered == {**pending, "approval": "Approved"}
    assert package().approval == "Approved"
    assert package().approval_description == "Approved by Ada Lovelace (ada) (run run-1)"
    # A worker that died after the record: its retry finds the answer.
    assert execute(task(pending, approval.to_xcom())) == answered
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (event("Reject", ADA), "Refused by Ada Lovelace (ada)."),
        (event("Reject", None, timedout=True), "Nobody answered within 24 hours, which means no."),
        (
            {"error": "too late", "error_type": "timeout"},
            "Nobody answered within 24 hours, which means no.",
        ),
        ({"error": "nonsense", "error_type": "validation"}, "The answer could not be used: nonsense"),
    ],
    ids=["no", "no answer", "no answer, told as an error", "broken answer"],
)
def test_a_no_is_recorded_and_ends_the_run_without_a_retry(
    pending: dict[str, Any], approval: Verdict, answer: dict[str, Any], said: str
) -> None:
    with pytest.raises(ApprovalRefusedError, match="endpoint is untouched") as refused:
        task(pending, approval.to_xcom()).execute_complete({"run_id": "run-1"}, answer)
    assert isinstance(refused.value, AirflowFailException)
    assert said in str(refused.value)
    assert package().approval == "Rejected"
    assert package().approval_description == f"{said} (run run-1)"


def test_a_person_who_clears_the_task_is_asked_again(
    pending: dict[str, Any], approval: Verdict, asked: list[dict[str, Any]]
) -> None:
    with pytest.raises(ApprovalRefusedError):
        task(pending, approval.to_xcom()).execute_complete({}, event("Reject", ADA))
    with pytest.raises(TaskAwaitingInput):
        execute(task(pending, approval.to_xcom()))
    task(pending, approval.to_xcom()).execute_complete({}, event("Approve", ADA))
    assert package().approval == "Approved"


def test_what_the_registry_refuses_stops_where_nobody_is_to_be_asked(
    sagemaker: FakeSageMaker, trained: TrainedModel, approval: Verdict, asked: list[dict[str, Any]]
) -> None:
    registered = register(trained, approval, require_approval=False)
    client().update_model_package(
        ModelPackageArn=registered["package_arn"],
        ModelApprovalStatus="Rejected",
        ApprovalDescription="recall",
    )
    with pytest.raises(AirflowFailException, match=r"is registered as Rejected\s+\(recall\)"):
        execute(task(registered, approval.to_xcom(), False))
    assert asked == []


@pytest.mark.parametrize(
    ("code", "permanent"), [("ThrottlingException", False), ("AccessDeniedException", True)]
)
def test_an_answer_that_cannot_be_recorded_lets_nothing_pass(
    sagemaker: FakeSageMaker, pending: dict[str, Any], approval: Verdict, code: str, permanent: bool
) -> None:
    sagemaker.faults["UpdateModelPackage"] = refusal("UpdateModelPackage", code, "no")
    with pytest.raises(AirflowException) as failure:
        task(pending, approval.to_xcom()).execute_complete({}, event("Approve", ADA))
    assert isinstance(failure.value, AirflowFailException) is permanent
    assert package().approval == "PendingManualApproval"


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
def test_a_no_stays_a_no_where_it_cannot_be_recorded(
    sagemaker: FakeSageMaker, pending: dict[str, Any], approval: Verdict, code: str
) -> None:
    sagemaker.faults["UpdateModelPackage"] = refusal("UpdateModelPackage", code, "no")
    with pytest.raises(ApprovalRefusedError, match="Refused by Ada Lovelace"):
        task(pending, approval.to_xcom()).execute_complete({"run_id": "run-1"}, event("Reject", ADA))


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (ADA, "Ada Lovelace (ada)"),
        ({"id": "admin", "name": "admin"}, "admin"),
        ({"id": "7", "name": ""}, "7"),
        (None, "somebody"),
        ({"id": "x", "name": "line\nbreak\x1b" + "y" * 400}, "line break " + "y" * 189),
    ],
)
def test_who_answered_is_one_short_line(user: dict[str, str] | None, name: str) -> None:
    assert responder({"responded_by_user": user}) == name

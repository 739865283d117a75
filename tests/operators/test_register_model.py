from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import Registered, TrainedModel, Verdict
from include.operators import register_model
from include.operators.create_serving import wanted_model
from include.operators.register_model import RegisterModelOperator, git_revision
from include.sagemaker.registry import Package, list_packages
from include.settings import Settings
from tests.operators.fake_sagemaker import FakeSageMaker, refusal


@pytest.fixture
def revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register_model, "git_revision", lambda settings: "f" * 40)


def run(trained: object, verdict: object, require_approval: object = False) -> Registered:
    operator = RegisterModelOperator(
        task_id="register_model", trained_model=trained, verdict=verdict, require_approval=require_approval
    )
    return Registered.model_validate(operator.execute({}))  # type: ignore[typeddict-item]


def packages() -> list[Package]:
    client = boto3.client("sagemaker", aws_access_key_id="x", aws_secret_access_key="x")
    return list_packages(client, "shop-recommender")


def rejection(approval: Verdict) -> Verdict:
    failed = approval.checks[0].model_copy(update={"status": "failed"})
    return approval.model_copy(update={"approved": False, "checks": (failed,)})


@pytest.mark.usefixtures("revision")
@pytest.mark.parametrize(
    ("rejected", "require_approval", "approval_status"),
    [
        (False, False, "Approved"),
        (False, True, "PendingManualApproval"),
        (True, False, "Rejected"),
        (True, True, "Rejected"),
    ],
)
def test_a_verdict_is_registered_as_what_it_says(
    sagemaker: FakeSageMaker,
    settings: Settings,
    trained: TrainedModel,
    approval: Verdict,
    rejected: bool,
    require_approval: bool,
    approval_status: str,
) -> None:
    sagemaker.jobs[trained.job_name] = [
        sagemaker.job(trained.job_name, {"HyperParameters": {"architecture": '"gru"'}})
    ]
    verdict = rejection(approval) if rejected else approval
    registered = run(trained.to_xcom(), verdict.to_xcom(), require_approval)
    assert registered == Registered(
        package_arn=registered.package_arn,
        group_name="shop-recommender",
        version=1,
        approval=approval_status,  # type: ignore[arg-type]
        job_name=trained.job_name,
        snapshot_id=trained.snapshot_id,
    )
    [package] = packages()
    assert (package.arn, package.approval) == (registered.package_arn, approval_status)
    assert package.model_uri == trained.model_uri
    assert package.model_name == wanted_model(trained, settings, "us-east-1")["ModelName"]
    [created] = sagemaker.made("CreateModelPackage")
    told = created["CustomerMetadataProperties"]
    assert (told["hyperparameter/architecture"], told["git_revision"]) == ("gru", "f" * 40)


@pytest.mark.usefixtures("revision", "sagemaker")
def test_a_second_try_finds_the_package_with_what_was_answered_since(
    trained: TrainedModel, approval: Verdict
) -> None:
    first = run(trained.to_xcom(), approval.to_xcom(), True)
    boto3.client("sagemaker", aws_access_key_id="x", aws_secret_access_key="x").update_model_package(
        ModelPackageArn=first.package_arn, ModelApprovalStatus="Approved"
    )
    again = run(trained.to_xcom(), approval.to_xcom(), True)
    assert (again.package_arn, again.approval) == (first.package_arn, "Approved")
    assert len(packages()) == 1


@pytest.mark.usefixtures("revision", "sagemaker")
def test_a_training_job_that_is_gone_is_no_reason_to_forget_its_model(
    trained: TrainedModel, approval: Verdict
) -> None:
    assert run(trained.to_xcom(), approval.to_xcom()).version == 1


@pytest.mark.usefixtures("sagemaker")
@pytest.mark.parametrize("what", ["another model", "not a verdict"])
def test_a_verdict_that_does_not_fit_is_refused(trained: TrainedModel, approval: Verdict, what: str) -> None:
    other: Any = {"job_name": "pms-other"} if what == "another model" else {"checks": "none"}
    with pytest.raises(AirflowFailException, match="clear|Clear"):
        run(trained.to_xcom(), {**approval.to_xcom(), **other})
    assert packages() == []


@pytest.mark.usefixtures("revision")
@pytest.mark.parametrize(
    ("operation", "code", "permanent"),
    [
        ("CreateModelPackage", "ThrottlingException", False),
        ("CreateModelPackage", "ConflictException", False),
        ("CreateModelPackage", "AccessDeniedException", True),
        ("DescribeTrainingJob", "ThrottlingException", False),
    ],
)
def test_a_fault_of_aws_is_retried_where_that_can_mend_it(
    sagemaker: FakeSageMaker,
    trained: TrainedModel,
    approval: Verdict,
    operation: str,
    code: str,
    permanent: bool,
) -> None:
    sagemaker.faults[operation] = refusal(operation, code, "no")
    with pytest.raises(AirflowException) as failure:
        run(trained.to_xcom(), approval.to_xcom())
    assert isinstance(failure.value, AirflowFailException) is permanent
    assert run(trained.to_xcom(), approval.to_xcom()).version == 1


def test_the_revision_is_the_settings_or_gits(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_revision(settings.model_copy(update={"git_revision": "v1.2"})) == "v1.2"
    monkeypatch.setattr(register_model, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision(settings) is None
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "first"], ["tag", "v1"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    clean = git_revision(settings)
    assert clean is not None and len(clean) == 40
    (tmp_path / "file").write_text("1")
    subprocess.run(["git", "add", "file"], cwd=tmp_path, check=True)
    assert git_revision(settings) == f"{clean}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(settings) is None

"""The pipeline's own operators, with what the roles of `include/cloud/aws.yaml` allow and no more."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import ClientError

from include.contracts import Deployment, Registered, Snapshot, TrainedModel
from include.operators import train_model
from include.operators.check_prerequisites import _check_aws
from include.operators.create_serving import CreateEndpointConfigOperator, CreateModelOperator
from include.operators.deploy_endpoint import DeployEndpointOperator
from include.operators.register_model import RegisterModelOperator
from include.operators.smoke_test import SmokeTestOperator
from include.operators.train_model import TrainModelOperator
from include.settings import get_settings
from include.snapshots import list_snapshots, remove_strays
from tests.local.guarded import AIRFLOW, SAGEMAKER, Guarded, guarding
from tests.operators.conftest import LOADER, approving

BUCKET = "post-modern-stack"
SNAPSHOT = Snapshot(
    snapshot_id="snap-0123456789abcdef",
    uri=f"s3://{BUCKET}/shop/snapshots/snap-0123456789abcdef/",
    manifest_sha256="0" * 64,
    train_sessions=80,
    validation_sessions=10,
    test_sessions=10,
    products=5,
    start_date="2026-01-01",
    end_date="2026-02-01",
)
SCRIPT = """
    import json, os, pathlib
    pathlib.Path(os.environ["SM_MODEL_DIR"], "weights").write_text("1")
    folder = pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"], "evaluation")
    folder.mkdir(parents=True)
    (folder / "smoke.json").write_text(json.dumps([{"session": ["x"], "skus": ["a", "b"]}]))
    print("trained")
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarding(tmp_path_factory.mktemp("guarded")) as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("PMS_POLL_SECONDS", "1")
    monkeypatch.setenv("PMS_BAKE_SECONDS", "1")
    # Reading SageMaker's model of 5 MB anew for every client is most of a test's time.
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    monkeypatch.setattr(train_model, "SOURCE", tmp_path)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def as_role(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has Airflow's AWS connection use a role."""

    def use(role: str) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", guarded.connect(role))

    return use


@pytest.fixture(autouse=True)
def data(guarded: Guarded) -> None:
    guarded.client("s3").put_object(Bucket=BUCKET, Key="shop/snapshots/snap-0123456789abcdef/rows", Body=b"x")


def train() -> TrainedModel:
    operator = TrainModelOperator(
        task_id="train",
        snapshot=SNAPSHOT.to_xcom(),
        hyperparameters={"epochs": 1},
        instance_type="ml.m5.large",
        max_runtime_seconds=60,
    )
    operator.deferrable = False
    return TrainedModel.model_validate(operator.execute({}))  # type: ignore[typeddict-item]


def register(trained: TrainedModel) -> Registered:
    operator = RegisterModelOperator(
        task_id="register", trained_model=trained.to_xcom(), verdict=approving(trained).to_xcom()
    )
    return Registered.model_validate(operator.execute({}))  # type: ignore[typeddict-item]


def deploy(trained: TrainedModel, registered: Registered) -> Deployment:
    claims = {"trained_model": trained.to_xcom(), "verdict": approving(trained).to_xcom()}
    for kind in (CreateModelOperator, CreateEndpointConfigOperator):
        kind(task_id="make", **claims).execute({})  # type: ignore[typeddict-item]
    claims["registered"] = registered.to_xcom()
    moved = DeployEndpointOperator(task_id="deploy", **claims).execute({})  # type: ignore[typeddict-item]
    smoke = SmokeTestOperator(task_id="smoke", deployed=moved, **claims)
    return Deployment.model_validate(smoke.execute({}))  # type: ignore[typeddict-item]


def test_the_pipeline_runs_with_what_its_role_allows(
    guarded: Guarded, as_role: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_role(AIRFLOW)
    _check_aws(get_settings(), None, deploys=True)
    s3 = guarded.client_as(AIRFLOW, "s3")
    s3.put_object(Bucket=BUCKET, Key="shop/snapshots/snap-0123456789abcdef/stray", Body=b"x")
    assert remove_strays(s3, SNAPSHOT.uri, {"rows"}) == 1
    assert list_snapshots(s3, BUCKET, "shop") == []
    trained = train()
    registered = register(trained)
    first = deploy(trained, registered)
    monkeypatch.setenv("PMS_ENDPOINT_INSTANCE_TYPE", "ml.m5.xlarge")
    get_settings.cache_clear()
    second = deploy(trained, registered)
    assert second.replaced == first.endpoint_config_name and second.smoke_cases == 1


def test_what_watches_and_scales_the_endpoint_is_allowed(guarded: Guarded) -> None:
    names = list(get_settings().alarm_names)
    alarms = guarded.client_as(AIRFLOW, "cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
    assert sorted(alarm["AlarmName"] for alarm in alarms) == sorted(names)
    scaling = guarded.client_as(AIRFLOW, "application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/shop-recommender/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=2)
    assert len(scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]) == 1
    scaling.deregister_scalable_target(**target)
    with pytest.raises(ClientError, match="AccessDenied"):
        scaling.register_scalable_target(**{**target, "ServiceNamespace": "dynamodb"}, MinCapacity=1)


def test_a_job_may_read_data_and_write_models_and_nothing_else(guarded: Guarded) -> None:
    s3 = guarded.client_as(SAGEMAKER, "s3")
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="shop/snapshots/")["KeyCount"] >= 1
    assert (
        s3.get_object(Bucket=BUCKET, Key="shop/snapshots/snap-0123456789abcdef/rows")["Body"].read() == b"x"
    )
    for key in ("shop/models/pms-1/output/model.tar.gz", "shop/captured/shop-recommender/AllTraffic/1.jsonl"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    for key in ("shop/snapshots/snap-0123456789abcdef/rows", "shop/reports/x/verdict.json", "elsewhere"):
        with pytest.raises(ClientError, match=r"AccessDenied.*s3:PutObject"):
            s3.put_object(Bucket=BUCKET, Key=key, Body=b"forged")
    with pytest.raises(ClientError, match=r"AccessDenied.*sagemaker:UpdateEndpoint"):
        guarded.client_as(SAGEMAKER, "sagemaker").update_endpoint(
            EndpointName="shop-recommender", EndpointConfigName="pms-1"
        )


def test_what_another_endpoint_serves_may_be_seen_and_nothing_be_done_to_it(guarded: Guarded) -> None:
    client = guarded.client_as(AIRFLOW, "sagemaker")
    for ask in (
        lambda: client.describe_endpoint(EndpointName="theirs"),
        lambda: client.describe_endpoint_config(EndpointConfigName="theirs"),
    ):
        with pytest.raises(ClientError, match="Could not find"):
            ask()
    for deny in (
        lambda: client.delete_endpoint(EndpointName="theirs"),
        lambda: client.delete_endpoint_config(EndpointConfigName="theirs"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            deny()


def test_another_bucket_is_denied_to_both(guarded: Guarded) -> None:
    guarded.client("s3").create_bucket(Bucket="somebody-elses")
    guarded.client("s3").put_object(Bucket="somebody-elses", Key="shop/x", Body=b"secret")
    for role in (AIRFLOW, SAGEMAKER):
        s3 = guarded.client_as(role, "s3")
        for ask in (
            lambda s3=s3: s3.list_objects_v2(Bucket="somebody-elses"),
            lambda s3=s3: s3.get_object(Bucket="somebody-elses", Key="shop/x"),
            lambda s3=s3: s3.put_object(Bucket="somebody-elses", Key="shop/y", Body=b""),
            lambda s3=s3: s3.delete_object(Bucket=BUCKET, Key="elsewhere"),
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                ask()


@pytest.mark.parametrize(
    ("statement", "denied"),
    [
        ("RunJobs", "sagemaker:DescribeTrainingJob"),
        ("UseObjects", "s3:PutObject|HeadObject"),
        ("PassTheExecutionRoleToSageMakerAlone", "iam:PassRole"),
    ],
)
def test_without_a_statement_no_job_is_started_and_the_message_names_what_is_missing(
    guarded: Guarded, as_role: Any, statement: str, denied: str, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(f"print({statement!r})")
    as_role(guarded.role_without(statement))
    before = guarded.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    with pytest.raises(AirflowFailException, match=denied):
        train()
    assert guarded.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == before


@pytest.mark.parametrize(
    ("statement", "denied"),
    [
        ("KeepRegistry", "sagemaker:DescribeModelPackageGroup"),
        ("MakeModels", "sagemaker:DescribeModel"),
        ("ServeModels", "sagemaker:(Create|Update)Endpoint"),
    ],
)
def test_without_a_statement_the_deploy_fails_at_once_and_says_why(
    guarded: Guarded, as_role: Any, statement: str, denied: str
) -> None:
    as_role(AIRFLOW)
    trained = train()
    registered = register(trained)
    as_role(guarded.role_without(statement))
    with pytest.raises(AirflowFailException, match=denied):
        if statement == "KeepRegistry":
            register(trained)
        else:
            deploy(trained, registered)


def test_no_other_role_can_be_passed_to_sagemaker(
    guarded: Guarded, as_role: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("print('with more rights')")
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}}]}
    arn = guarded.client("iam").create_role(RoleName="admin", AssumeRolePolicyDocument=json.dumps(trust))
    monkeypatch.setenv("PMS_SAGEMAKER_ROLE_ARN", arn["Role"]["Arn"])
    get_settings.cache_clear()
    as_role(AIRFLOW)
    with pytest.raises(AirflowFailException, match=r"iam:PassRole on resource: \S+:role/admin"):
        train()

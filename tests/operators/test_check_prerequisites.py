from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, chain
from airflow.sdk.exceptions import AirflowException, AirflowFailException, DownstreamTasksSkipped
from botocore.exceptions import EndpointConnectionError

from include import snapshots
from include.operators import check_prerequisites
from include.operators.check_prerequisites import CheckPrerequisitesOperator
from include.sagemaker.shadow import SHADOW_OF
from include.settings import Settings, get_settings
from include.warehouse.base import ConnectionInfo
from include.warehouse.connect import open_warehouse
from include.warehouse.dialect import Statement
from tests.operators.deploying import ENDPOINT, in_service
from tests.operators.fake_sagemaker import FakeSageMaker

LOADED = (
    "insert into raw.loads (etl_id, tenant, source, loaded_at, report) values ('e', 'demo-shop', 'folder', "
    """now()::timestamp, '{"first_event_date": "2021-01-15", "last_event_date": "2021-01-15"}')"""
)


class TaskInstance:
    """Keeps what the task leaves for Airflow to remember."""

    dag_id, task_id, run_id = "post_modern_stack", "check_prerequisites", "manual__1"

    def __init__(self) -> None:
        self.map_index = -1
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def check(
    start: str = "2021-01-01",
    end: str = "2021-02-01",
    tenant: str | None = None,
    reuse_snapshot: str | None = None,
    training: dict[str, Any] | None = None,
    deploys: bool = True,
) -> Any:
    """Runs the task before a transform group of two tasks and an export."""
    with DAG("shop", schedule=None):
        task = CheckPrerequisitesOperator(
            task_id="check_prerequisites",
            start_date=start,
            end_date=end,
            tenant=tenant,
            reuse_snapshot=reuse_snapshot,
            training=training,
            deploys=deploys,
        )
        names = ("transform.sessions", "transform.docs", "export.export_snapshot")
        chain(task, *(EmptyOperator(task_id=name) for name in names))
    return task.execute({"ti": TaskInstance()})  # type: ignore[arg-type, typeddict-item]


def skipped(**options: Any) -> set[str]:
    """Returns the tasks that the check skips."""
    with pytest.raises(DownstreamTasksSkipped) as caught:
        check(**options)
    return set(caught.value.tasks)


def a_snapshot(s3: Any, settings: Settings, tenant: str = "demo-shop") -> str:
    name = "snap-0123456789abcdef"
    uri = snapshots.snapshot_uri(settings.bucket, settings.prefix, name)
    manifest = snapshots.Manifest(
        snapshot_id=name,
        tenant=tenant,
        interval=snapshots.Interval(start="2021-01-01", end="2021-02-01"),
        split=snapshots.Split(validation_start="2021-01-20T00:00:00Z", test_start="2021-01-25T00:00:00Z"),
        counts={},
        files=(),
        sql_sha256="",
        dbt_manifest_sha256="",
        high_water_mark="",
        profile={},
    )
    snapshots.publish(s3, uri, manifest)
    return name


@pytest.fixture
def set_up(aws: Any, alarms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place in which nothing is missing; returns the DuckDB file."""
    file = tmp_path / "warehouse.duckdb"
    connection = {"conn_type": "duckdb", "host": str(file)}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(connection))
    python = tmp_path / "python"
    python.touch(mode=0o755)
    monkeypatch.setenv("PMS_ML_PYTHON", str(python))
    get_settings.cache_clear()
    with open_warehouse(ConnectionInfo("duckdb", host=str(file)), "shop") as warehouse:
        warehouse.create_raw_tables()
        warehouse.execute(Statement(LOADED))
    return file


def test_nothing_is_missing(set_up: Path) -> None:
    assert check() == {"start_date": "2021-01-01", "end_date": "2021-02-01"}


def test_shadow_that_was_left_on_is_told(
    set_up: Path, sagemaker: FakeSageMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    client = boto3.client("sagemaker", aws_access_key_id="x", aws_secret_access_key="x")
    for name, tags in {"pms-test": [{"Key": SHADOW_OF, "Value": "pms-before"}], "pms-before": []}.items():
        client.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[{"VariantName": "AllTraffic", "ModelName": "m"}],
            Tags=tags,
        )
    sagemaker.endpoints[ENDPOINT] = [in_service("pms-before")]
    check()
    assert "shadow" not in capsys.readouterr().out
    sagemaker.endpoints[ENDPOINT] = [in_service("pms-test")]
    check()
    told = capsys.readouterr().out
    assert "shadow test pms-test" in told
    assert f"--endpoint-name {ENDPOINT} --endpoint-config-name pms-before" in told


@pytest.mark.parametrize(("limit", "refused"), [(1.5, False), (1.4, True), (None, False)])
def test_training_that_could_cost_too_much_is_refused_first_of_all(
    set_up: Path, limit: float | None, refused: bool
) -> None:
    training = {
        "hyperparameters": {},
        "instance_type": "ml.g5.xlarge",
        "max_runtime_seconds": 3600,
        "max_cost": limit,
    }
    if not refused:
        check(training=training)
        return
    with pytest.raises(AirflowFailException, match="cost 1.41 US dollars, and 1.4 are .* nothing is billed"):
        check(training=training)


def test_machine_of_the_run_is_looked_up_and_not_the_settings(
    set_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"hyperparameters": {}, "instance_type": "ml.enormous", "max_runtime_seconds": 3600}
    with pytest.raises(AirflowFailException, match="training instance: .* no instance type 'ml.enormous'"):
        check(training=training)
    monkeypatch.setenv("PMS_TRAINING_INSTANCE_TYPE", "ml.enormous")
    get_settings.cache_clear()
    check(training={**training, "instance_type": "ml.m5.large"})


def test_airflows_own_start_date_is_left_alone() -> None:
    task = CheckPrerequisitesOperator(task_id="check", start_date="2021-01-01", end_date="2021-02-01")
    assert (task.start_date, task.end_date) == (None, None)


def test_missing_bucket_is_created(set_up: Path, aws: Any) -> None:
    aws.delete_bucket(Bucket="post-modern-stack")
    check()
    aws.head_bucket(Bucket="post-modern-stack")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2021-02-01", "2021-01-01", "must be before"),
        ("2021-02-01", "2021-02-01", "must be before"),
        ("yesterday", "2021-02-01", "must be a date"),
        ("2021-02-30", "2021-03-01", "not a day of the calendar"),
    ],
)
def test_unusable_window_is_refused(set_up: Path, start: str, end: str, message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        check(start, end)


def test_snapshot_that_is_used_again_needs_no_warehouse_and_no_transform(
    set_up: Path, aws: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = a_snapshot(aws, settings)
    set_up.unlink()
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT")
    assert skipped(reuse_snapshot=name) == {"transform.sessions", "transform.docs"}


@pytest.mark.parametrize(
    ("name", "tenant", "said"),
    [
        (None, "another-shop", "of tenant 'another-shop'"),
        ("snap-ffffffffffffffff", "demo-shop", "There is no snapshot"),
        ("snap-1'; drop", "demo-shop", "no snapshot folder"),
    ],
)
def test_snapshot_that_cannot_be_used_again_is_said_at_once(
    set_up: Path, aws: Any, settings: Settings, name: str | None, tenant: str, said: str
) -> None:
    there = a_snapshot(aws, settings, tenant)
    with pytest.raises(AirflowFailException, match=said):
        check(reuse_snapshot=name or there)


def test_missing_thing_outweighs_a_window_without_events(
    set_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMS_ML_PYTHON", "/nowhere/python")
    get_settings.cache_clear()
    with pytest.raises(AirflowFailException, match="make setup"):
        check("2022-01-01", "2022-02-01")


@pytest.mark.parametrize("tenant", ["another-shop", "x' or '1'='1"])
def test_run_may_be_about_another_tenant(set_up: Path, tenant: str) -> None:
    with pytest.raises(AirflowFailException, match="no events of tenant"):
        check(tenant=tenant)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AIRFLOW_CONN_WAREHOUSE_DEFAULT": None}, "no connection 'warehouse_default'"),
        ({"AIRFLOW_CONN_AWS_DEFAULT": None}, "no connection 'aws_default'"),
        ({"AIRFLOW_CONN_WAREHOUSE_DEFAULT": '{"conn_type": "postgres"}'}, "make them agree"),
        ({"PMS_TENANT": "another-shop"}, "no events of tenant 'another-shop'"),
        ({"PMS_TRAINING_INSTANCE_TYPE": "ml.enormous"}, "no instance type 'ml.enormous'"),
        ({"PMS_ENDPOINT_INSTANCE_TYPE": "m5.large"}, "PMS_ENDPOINT_INSTANCE_TYPE"),
        ({"PMS_TRACKING": "mlflow"}, "address in PMS_MLFLOW_TRACKING_URI"),
        ({"PMS_TRACKING": "mlflow", "PMS_MLFLOW_TRACKING_URI": ""}, "address in PMS_MLFLOW_TRACKING_URI"),
        ({"PMS_ML_PYTHON": "/nowhere/python"}, "make setup"),
    ],
)
def test_each_missing_thing_is_named(
    set_up: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None], message: str
) -> None:
    for name, value in change.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    with pytest.raises(AirflowFailException, match=message):
        check()


DBT_CLOUD = {"conn_type": "dbt_cloud", "login": "11", "password": "dbtc_not-to-be-seen"}


@pytest.mark.parametrize(
    ("connection", "job", "messages"),
    [
        (None, None, ["no connection 'dbt_cloud_default'", "PMS_DBT_CLOUD_JOB_ID"]),
        (DBT_CLOUD, None, ["PMS_DBT_CLOUD_JOB_ID"]),
        (DBT_CLOUD | {"login": "my-account"}, "22", ["account's number"]),
        (DBT_CLOUD | {"password": None}, "22", ["API token"]),
        (DBT_CLOUD | {"conn_type": "http"}, "22", ["'http'"]),
    ],
    ids=["nothing", "no job", "account by name", "no token", "other type"],
)
def test_what_dbt_cloud_lacks_is_listed(
    set_up: Path,
    monkeypatch: pytest.MonkeyPatch,
    connection: dict[str, Any] | None,
    job: str | None,
    messages: list[str],
) -> None:
    monkeypatch.setenv("PMS_DBT_RUNNER", "cloud")
    if connection:
        monkeypatch.setenv("AIRFLOW_CONN_DBT_CLOUD_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("PMS_DBT_CLOUD_JOB_ID", job or "")
    get_settings.cache_clear()
    with pytest.raises(AirflowFailException, match="PMS_DBT_RUNNER") as failure:
        check()
    for message in messages:
        assert message in str(failure.value)
    assert DBT_CLOUD["password"] not in str(failure.value)


@pytest.fixture
def dbt_cloud(set_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of dbt Cloud and the connection to run it."""
    monkeypatch.setenv("PMS_DBT_RUNNER", "cloud")
    monkeypatch.setenv("AIRFLOW_CONN_DBT_CLOUD_DEFAULT", json.dumps(DBT_CLOUD))
    monkeypatch.setenv("PMS_DBT_CLOUD_JOB_ID", "22")
    get_settings.cache_clear()


def test_dbt_cloud_with_connection_and_job_lacks_nothing(
    dbt_cloud: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing but the warehouse's own check asks a Snowflake account, which is not there.
    monkeypatch.setattr(check_prerequisites, "check_warehouse", lambda *_: [])
    monkeypatch.setenv("PMS_WAREHOUSE", "snowflake")
    get_settings.cache_clear()
    check()


def test_dbt_cloud_cannot_reach_a_duckdb_file(dbt_cloud: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMS_ML_PYTHON", "/nowhere/python")
    get_settings.cache_clear()
    with pytest.raises(AirflowFailException, match="PMS_WAREHOUSE 'duckdb' is a file") as failure:
        check()
    assert "make setup" in str(failure.value), "with the other problems"


def test_dbt_cloud_does_not_matter_to_a_snapshot_that_is_used_again(
    dbt_cloud: None, aws: Any, settings: Settings
) -> None:
    assert skipped(reuse_snapshot=a_snapshot(aws, settings)) == {"transform.sessions", "transform.docs"}


def test_all_that_is_missing_is_named_at_once(set_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up.unlink()
    monkeypatch.setenv("PMS_ML_PYTHON", "/nowhere/python")
    monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT")
    get_settings.cache_clear()
    with pytest.raises(AirflowFailException) as failure:
        check("x", "y")
    for part in ("1. ", "a date", "load_shopping_events first", "'aws_default'", "4. ", "make setup"):
        assert part in str(failure.value)


def test_fault_that_may_pass_is_retried(set_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:5055")

    monkeypatch.setattr(check_prerequisites, "_check_aws", unreachable)
    with pytest.raises(AirflowException, match="For now") as failure:
        check()
    assert not isinstance(failure.value, AirflowFailException)


@pytest.mark.parametrize("deploys", [True, False])
def test_alarms_of_a_deploy_are_looked_for_before_anything_is_trained(
    set_up: Path, alarms: Any, deploys: bool
) -> None:
    alarms.delete_alarms(AlarmNames=["shop-recommender-5xx"])
    if deploys:
        with pytest.raises(AirflowFailException, match=r"No alarm shop-recommender-5xx.*aws\.yaml"):
            check()
    else:
        check(deploys=False)

"""What the operators' tests share: AWS without AWS, and a clock that does not wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import boto3
import botocore.session
import pytest
from moto import mock_aws

from include.contracts import Check, Snapshot, TrainedModel, Verdict
from include.operators.create_serving import wanted_config
from include.settings import Settings, get_settings
from tests.operators.fake_sagemaker import FakeSageMaker

LOADER = lru_cache(maxsize=None)(botocore.session.create_loader)


def approving(trained: TrainedModel) -> Verdict:
    """Returns the gate's verdict on a model that passed."""
    check = Check(
        name="hit_rate@20",
        status="passed",
        value=0.5,
        comparison=">=",
        bound=0.2,
        sample_size=1000,
        interval=(0.47, 0.53),
        reason="hit_rate@20 is 0.5, at least 0.2 is wanted",
    )
    return Verdict(
        approved=True,
        job_name=trained.job_name,
        snapshot_id=trained.snapshot_id,
        rules_version=1,
        checks=(check,),
        metrics={"hit_rate@20": 0.5},
        baselines={"popularity": {"hit_rate@20": 0.1}},
        report_uri="s3://post-modern-stack/shop/reports/x/report.json",
    )


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Fresh settings with a short poll."""
    monkeypatch.setenv("PMS_POLL_SECONDS", "1")
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Any]:
    """S3, STS and CloudWatch in this process, with the bucket; yields an S3 client."""
    connection = '{"conn_type": "aws", "login": "x", "password": "x", "extra": {"region_name": "us-east-1"}}'
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # Reading SageMaker's model of 5 MB anew for every client is most of a test's time.
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)
    with mock_aws():
        s3 = boto3.client("s3", aws_access_key_id="x", aws_secret_access_key="x")
        s3.create_bucket(Bucket=settings.bucket)
        yield s3


@pytest.fixture
def sagemaker(aws: Any, monkeypatch: pytest.MonkeyPatch) -> FakeSageMaker:
    """A scripted SageMaker behind every boto3 client of this process."""
    fake = FakeSageMaker()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def alarms(aws: Any, settings: Settings) -> Any:
    """The alarms that watch an update, all quiet; returns a CloudWatch client."""
    cloudwatch = boto3.client("cloudwatch", aws_access_key_id="x", aws_secret_access_key="x")
    for name in settings.alarm_names:
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/SageMaker",
            MetricName="Invocation5XXErrors",
            Statistic="Average",
            Period=60,
            EvaluationPeriods=1,
            Threshold=0.05,
            ComparisonOperator="GreaterThanThreshold",
        )
    return cloudwatch


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits; the pauses asked for are kept, and the clock jumps over them."""
    taken: list[float] = []
    monotonic, now, pause = time.monotonic, time.time, asyncio.sleep

    async def nap(seconds: float) -> None:
        taken.append(seconds)
        await pause(0)

    monkeypatch.setattr(time, "sleep", taken.append)
    monkeypatch.setattr(asyncio, "sleep", nap)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + sum(taken))
    monkeypatch.setattr(time, "time", lambda: now() + sum(taken))
    return taken


@pytest.fixture
def snapshot() -> Snapshot:
    return Snapshot(
        snapshot_id="snap-0123456789ab",
        uri="s3://post-modern-stack/shop/snapshots/snap-0123456789ab/",
        manifest_sha256="0" * 64,
        train_sessions=80,
        validation_sessions=10,
        test_sessions=10,
        products=5,
        start_date="2026-01-01",
        end_date="2026-02-01",
    )


@pytest.fixture
def trained() -> TrainedModel:
    job = "pms-0123456789ab"
    return TrainedModel(
        job_name=job,
        job_arn=f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{job}",
        snapshot_id="snap-0123456789ab",
        model_uri=f"s3://post-modern-stack/shop/models/{job}/output/model.tar.gz",
        evaluation_uri=f"s3://post-modern-stack/shop/models/{job}/output/output.tar.gz",
        billable_seconds=42,
    )


@pytest.fixture
def approval(trained: TrainedModel) -> Verdict:
    return approving(trained)


@pytest.fixture
def claims(trained: TrainedModel, approval: Verdict) -> dict[str, Any]:
    """What the gate hands to the deploy group."""
    return {"trained_model": trained.to_xcom(), "verdict": approval.to_xcom()}


@pytest.fixture
def wanted(trained: TrainedModel, settings: Settings) -> str:
    """Name of the endpoint configuration that a deploy of the model makes."""
    return str(wanted_config(trained, settings, "us-east-1")["EndpointConfigName"])

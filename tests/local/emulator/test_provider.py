"""The Amazon provider's own operators, against the emulator, as the DAG uses them."""

from __future__ import annotations

import json
from typing import Any

import botocore.session
import pytest
from airflow.exceptions import AirflowException
from airflow.providers.amazon.aws.hooks.sagemaker import Position, SageMakerHook
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerEndpointConfigOperator,
    SageMakerEndpointOperator,
    SageMakerModelOperator,
    SageMakerTrainingOperator,
    SageMakerTuningOperator,
)
from botocore.exceptions import WaiterError

from tests.local.cloud import BUCKET, ROLE, Cloud, tar_of
from tests.local.emulator.training.test_tuning import tuning_request
from tests.operators.conftest import LOADER

WRITES_A_MODEL = """
    import os, pathlib
    print("training on it")
    pathlib.Path(os.environ["SM_MODEL_DIR"], "behaviour").write_text("trained")
"""


@pytest.fixture(autouse=True)
def connection(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "conn_type": "aws",
        "login": "test",
        "password": "test",
        "extra": {"endpoint_url": cloud.url, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(told))
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)


def _train(cloud: Cloud, script: str, **changes: Any) -> SageMakerTrainingOperator:
    request = cloud.job_request(script, **changes)
    return SageMakerTrainingOperator(task_id="train", config=request, check_interval=1, print_log=False)


def test_from_a_script_to_an_answer(cloud: Cloud) -> None:
    trained = _train(cloud, WRITES_A_MODEL).execute({})["Training"]
    assert trained["TrainingJobStatus"] == "Completed"
    model, config, endpoint = cloud.name("model"), cloud.name("config"), cloud.name("endpoint")
    container = {"Image": "i:1", "ModelDataUrl": trained["ModelArtifacts"]["S3ModelArtifacts"]}
    SageMakerModelOperator(
        task_id="model",
        config={"ModelName": model, "ExecutionRoleArn": ROLE, "PrimaryContainer": container},
    ).execute({})
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": model,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }
    SageMakerEndpointConfigOperator(
        task_id="config", config={"EndpointConfigName": config, "ProductionVariants": [variant]}
    ).execute({})
    wanted = {"EndpointName": endpoint, "EndpointConfigName": config}
    SageMakerEndpointOperator(
        task_id="create", operation="create", config=dict(wanted), check_interval=1
    ).execute({})
    assert cloud.invoke(endpoint)["model"] == "trained"

    # `create` of what exists becomes an update.
    wanted["EndpointConfigName"] = cloud.config("next")
    SageMakerEndpointOperator(
        task_id="again", operation="create", config=dict(wanted), check_interval=1
    ).execute({})
    assert cloud.invoke(endpoint)["model"] == "next"
    assert cloud.settled(endpoint)["EndpointConfigName"] == wanted["EndpointConfigName"]


def test_the_providers_own_search_ends_with_a_best_trial(cloud: Cloud) -> None:
    place = cloud.put("searched/rows", b"x").removesuffix("rows")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": place}}
    channels = {"InputDataConfig": [{"ChannelName": "snapshot", "DataSource": source}]}
    limits = {"MaxNumberOfTrainingJobs": 2}
    request = tuning_request(cloud, "print('mrr=0.5')", limits=limits, definition=channels)
    told = SageMakerTuningOperator(task_id="tune", config=request, check_interval=1).execute({})["Tuning"]
    assert told["HyperParameterTuningJobStatus"] == "Completed"
    assert told["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 0.5


def test_the_hook_reads_the_jobs_lines(cloud: Cloud) -> None:
    job = cloud.run_job(WRITES_A_MODEL)["TrainingJobName"]
    hook, group = SageMakerHook(), "/aws/sagemaker/TrainingJobs"
    streams = cloud.client("logs").describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")
    names = [stream["logStreamName"] for stream in streams["logStreams"]]
    positions = {name: Position(timestamp=0, skip=0) for name in names}
    events = [event for _, event in hook.multi_stream_iter(group, names, positions) if event]
    assert [event["message"] for event in events] == ["training on it"]


def test_a_failed_job_fails_the_task_with_its_reason(cloud: Cloud) -> None:
    with pytest.raises(AirflowException, match=r"AlgorithmError(?s:.*)no such column"):
        _train(cloud, "raise SystemExit('no such column')").execute({})


def test_a_job_over_its_time_is_not_taken_for_a_success(cloud: Cloud) -> None:
    operator = _train(cloud, "import time; time.sleep(60)", StoppingCondition={"MaxRuntimeInSeconds": 1})
    try:
        status = operator.execute({})["Training"]["TrainingJobStatus"]
    except AirflowException:
        status = "raised"
    assert status in ("Stopped", "raised")


def test_an_endpoint_that_fails_fails_the_task(cloud: Cloud) -> None:
    wanted = {"EndpointName": cloud.name("endpoint"), "EndpointConfigName": cloud.config("crash")}
    operator = SageMakerEndpointOperator(
        task_id="create", operation="create", config=wanted, check_interval=1
    )
    with pytest.raises(WaiterError, match="Failed"):
        operator.execute({})


def test_an_existing_job_name_gets_a_timestamp_from_the_provider(cloud: Cloud) -> None:
    request = cloud.job_request("pass")
    first = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    second = SageMakerTrainingOperator(task_id="train", config=request, check_interval=1, print_log=False)
    assert second.execute({})["Training"]["TrainingJobName"].startswith(f"{first}-")
    cloud.finished(first)


def test_the_artefact_a_model_names_must_be_there(cloud: Cloud) -> None:
    cloud.put("other/model.tar.gz", tar_of({"behaviour": "x"}))
    config = {
        "ModelName": cloud.name("model"),
        "ExecutionRoleArn": ROLE,
        "PrimaryContainer": {"Image": "i:1", "ModelDataUrl": f"s3://{BUCKET}/other/none.tar.gz"},
    }
    with pytest.raises(Exception, match="Could not find model data"):
        SageMakerModelOperator(task_id="model", config=config).execute({})

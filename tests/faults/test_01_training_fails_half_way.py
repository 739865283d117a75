"""Fault 1: the script fails half way. The task tells why, nothing is registered, the shop notices nothing."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include.operators.register_model import RegisterModelOperator
from include.settings import get_settings
from tests.faults.trainings import Training, jobs_of
from tests.local.cloud import Cloud
from tests.operators.deferral import run_to_end

SCRIPT = """
    import sys
    for epoch in range(1, 31):
        print(f"epoch={epoch}/30 loss=5.1", flush=True)
    sys.exit("the disk is full")
"""


def test_reason_and_log_are_told_and_nothing_else_changes(cloud: Cloud, training: Training) -> None:
    endpoint = cloud.endpoint("well")
    before = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    task = training(SCRIPT)
    with pytest.raises(AirflowFailException) as failure:
        run_to_end(task)
    told = str(failure.value)
    assert "failed: AlgorithmError: ExecuteUserScriptError, exit code: 1" in told
    reason, log = told.split("The end of its log:")
    assert "the disk is full" in reason
    assert "epoch=30/30 loss=5.1" in log and "the disk is full" in log and "epoch=1/30" not in log
    assert [job["TrainingJobStatus"] for job in jobs_of(cloud, task)] == ["Failed"]

    # The registry runs whatever came before it, with what a failed task hands over.
    with pytest.raises(AirflowSkipException):
        RegisterModelOperator(task_id="register", trained_model=None, verdict=None).execute({})  # type: ignore[arg-type]
    groups = cloud.sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"]
    assert get_settings().model_package_group not in [group["ModelPackageGroupName"] for group in groups]
    assert cloud.sagemaker.describe_endpoint(EndpointName=endpoint) | {"ResponseMetadata": None} == (
        before | {"ResponseMetadata": None}
    )
    assert cloud.invoke(endpoint)["model"] == "well"

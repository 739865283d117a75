from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from include.local import aws_template
from include.settings import Settings
from tests.local.cloud import Cloud


@pytest.fixture(scope="module")
def outputs(cloud: Cloud) -> dict[str, str]:
    return aws_template.deploy(cloud.url, aws_template.parameters(Settings()))


def _alarms(cloud: Cloud) -> dict[str, Any]:
    listed = cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    return {alarm["AlarmName"]: alarm for alarm in listed}


def test_template_passes_cfn_lint() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, aws_template.TEMPLATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_outputs_are_the_settings_that_the_pipeline_takes(outputs: dict[str, str]) -> None:
    told = {name.removeprefix("Pms"): value for name, value in outputs.items() if name.startswith("Pms")}
    settings = Settings()
    wanted = {
        "Bucket": settings.bucket,
        "Prefix": f"{settings.prefix}/",
        "SagemakerRoleArn": settings.sagemaker_role_arn,
        "EndpointName": settings.endpoint_name,
        "ModelPackageGroup": settings.model_package_group,
    }
    assert told == wanted
    assert Settings(prefix=told["Prefix"]).prefix == settings.prefix


def test_alarms_have_the_names_that_the_deploy_asks_for(cloud: Cloud, outputs: dict[str, str]) -> None:
    alarms = _alarms(cloud)
    assert set(alarms) == set(Settings().alarm_names)
    for alarm in alarms.values():
        assert alarm["Namespace"] == "AWS/SageMaker"
        assert {d["Name"]: d["Value"] for d in alarm["Dimensions"]} == {
            "EndpointName": "shop-recommender",
            "VariantName": "AllTraffic",
        }
        assert alarm["TreatMissingData"] == "notBreaching"
    assert alarms["shop-recommender-latency"]["ExtendedStatistic"] == "p99"


def test_deploy_again_changes_what_is_different_and_nothing_else(
    cloud: Cloud, outputs: dict[str, str]
) -> None:
    bucket = outputs["PmsBucket"]
    cloud.s3.put_object(Bucket=bucket, Key="shop/kept", Body=b"kept")
    given = aws_template.parameters(Settings())
    assert aws_template.deploy(cloud.url, given) == outputs
    assert cloud.s3.get_object(Bucket=bucket, Key="shop/kept")["Body"].read() == b"kept"
    aws_template.deploy(cloud.url, given | {"LatencyMicroseconds": "250000"})
    assert _alarms(cloud)["shop-recommender-latency"]["Threshold"] == 250000
    aws_template.deploy(cloud.url, given)


def test_bucket_that_is_there_already_is_taken_over(cloud: Cloud) -> None:
    cloud.s3.create_bucket(Bucket="found-on-disk")
    cloud.s3.put_object(Bucket="found-on-disk", Key="shop/kept", Body=b"kept")
    given = {"BucketName": "found-on-disk", "EndpointName": "other", "ProjectName": "other"}
    client = cloud.client("cloudformation")
    client.create_stack(
        StackName="other",
        TemplateBody=aws_template.TEMPLATE.read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    assert cloud.s3.get_object(Bucket="found-on-disk", Key="shop/kept")["Body"].read() == b"kept"
    rules = cloud.s3.get_bucket_encryption(Bucket="found-on-disk")["ServerSideEncryptionConfiguration"][
        "Rules"
    ]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    client.delete_stack(StackName="other")
    assert "other-5xx" not in _alarms(cloud)

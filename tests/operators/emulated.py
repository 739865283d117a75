"""An emulator for operators' tests: its connection, and what the project would have made in it."""

from __future__ import annotations

import json
from typing import Any

import botocore.session
import pytest

from include.settings import Settings, get_settings
from include.tags import tags
from tests.local.cloud import BUCKET, ROLE, Cloud, tar_of
from tests.operators.conftest import LOADER


def connect(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Settings:
    """Points the AWS connection and the settings at the emulator."""
    told = {
        "conn_type": "aws",
        "login": "test",
        "password": "test",
        "extra": {"endpoint_url": cloud.url, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(told))
    # Reading SageMaker's model of 5 MB anew for every client is most of a test's time.
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)
    for name, value in {"bucket": BUCKET, "poll_seconds": 1, **settings}.items():
        monkeypatch.setenv(f"PMS_{name.upper()}", str(value))
    get_settings.cache_clear()
    return get_settings()


def make_model(cloud: Cloud, name: str, behaviour: str = "fine", **changes: Any) -> str:
    """Creates a model and a configuration of it, tagged as the project's unless told otherwise."""
    told = changes.pop("tags", tags(training_job="pms-job", snapshot_id=f"snap-{name}"))
    key = changes.pop("key", f"shop/models/{name}/output/model.tar.gz")
    uri = cloud.put(key, tar_of({"behaviour": behaviour}))
    cloud.sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "registry/serving:1", "ModelDataUrl": uri},
        Tags=told,
    )
    return make_config(cloud, f"{name}-config", name, tags=told)


def make_config(cloud: Cloud, name: str, model: str, **changes: Any) -> str:
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": model,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        "InitialVariantWeight": 1,
    }
    told = changes.pop("tags", tags())
    cloud.sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[variant], Tags=told, **changes
    )
    return name


def make_endpoint(cloud: Cloud, name: str, config: str, told: list[dict[str, str]] | None = None) -> str:
    cloud.sagemaker.create_endpoint(
        EndpointName=name, EndpointConfigName=config, Tags=tags() if told is None else told
    )
    assert cloud.settled(name)["EndpointStatus"] == "InService"
    return name


def names(cloud: Cloud) -> dict[str, set[str]]:
    """What there is."""
    client = cloud.sagemaker
    return {
        "endpoints": {one["EndpointName"] for one in client.list_endpoints()["Endpoints"]},
        "configs": {one["EndpointConfigName"] for one in client.list_endpoint_configs()["EndpointConfigs"]},
        "models": {one["ModelName"] for one in client.list_models()["Models"]},
    }


def wipe(cloud: Cloud) -> None:
    """Removes everything, so that the next test begins anew."""
    client, there = cloud.sagemaker, names(cloud)
    for name in there["endpoints"]:
        client.delete_endpoint(EndpointName=name)
    for name in there["configs"]:
        client.delete_endpoint_config(EndpointConfigName=name)
    for name in there["models"]:
        client.delete_model(ModelName=name)
    for group in client.list_model_package_groups()["ModelPackageGroupSummaryList"]:
        name = group["ModelPackageGroupName"]
        for version in client.list_model_packages(ModelPackageGroupName=name)["ModelPackageSummaryList"]:
            client.delete_model_package(ModelPackageName=version["ModelPackageArn"])
        client.delete_model_package_group(ModelPackageGroupName=name)
    for page in cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            cloud.s3.delete_object(Bucket=BUCKET, Key=entry["Key"])

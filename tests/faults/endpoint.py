"""A live endpoint of the emulator for faults that happen while customers are served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import botocore.session
import pytest

from include.contracts import TrainedModel, Verdict
from include.local import aws_template
from include.operators.create_serving import CreateEndpointConfigOperator, CreateModelOperator
from include.settings import get_settings
from tests.local.cloud import Cloud, tar_of
from tests.operators.conftest import LOADER
from tests.operators.deploying import ENDPOINT, choose, execute


@contextmanager
def deployable(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Iterator[None]:
    """Has the operators deploy on the emulator, with the alarms of `aws.yaml`; the endpoint ends with it."""
    extra = {"region_name": "us-east-1", "endpoint_url": cloud.url}
    connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)
    choose(monkeypatch, **{"poll_seconds": 1, "bake_seconds": 1, **settings})
    aws_template.deploy(cloud.url, aws_template.parameters(get_settings()))
    try:
        yield
    finally:
        cloud.sagemaker.delete_endpoint(EndpointName=ENDPOINT)
        get_settings.cache_clear()


def claims_of(
    cloud: Cloud, trained: TrainedModel, approval: Verdict, behaviour: str, data_until: str
) -> dict[str, Any]:
    """What the gate hands over of a model that behaves so, with model and configuration created."""
    job = cloud.name("pms-job")
    uri = cloud.put(f"models/{job}/output/model.tar.gz", tar_of({"behaviour": behaviour}))
    model = trained.model_copy(update={"job_name": job, "model_uri": uri, "data_until": data_until})
    verdict = approval.model_copy(update={"job_name": job})
    claims = {"trained_model": model.to_xcom(), "verdict": verdict.to_xcom()}
    execute(CreateModelOperator, claims)
    execute(CreateEndpointConfigOperator, claims)
    return claims

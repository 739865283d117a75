from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from include.contracts import TrainedModel
from include.operators.create_serving import CreateEndpointConfigOperator, CreateModelOperator
from include.operators.deploy_endpoint import DeployEndpointOperator
from tests.operators.deploying import execute
from tests.operators.fake_sagemaker import FakeSageMaker

pytestmark = pytest.mark.usefixtures("naps", "sagemaker")


@pytest.mark.parametrize(
    "kind",
    [CreateModelOperator, CreateEndpointConfigOperator, DeployEndpointOperator],
    ids=lambda k: k.__name__,
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"approved": False}, "did not approve"),
        ({"job_name": "pms-another"}, "verdict is about pms-another"),
        ({"approved": None}, "no Verdict"),
    ],
)
def test_unapproved_model_changes_nothing(
    sagemaker: FakeSageMaker, claims: dict[str, Any], kind: Any, change: dict[str, Any], message: str
) -> None:
    claims["verdict"] = {**claims["verdict"], **change}
    with pytest.raises(AirflowFailException, match=message):
        execute(kind, claims, **({"registered": None} if kind is DeployEndpointOperator else {}))
    assert sagemaker.calls == []


@pytest.mark.parametrize(
    ("kind", "operation"),
    [(CreateModelOperator, "CreateModel"), (CreateEndpointConfigOperator, "CreateEndpointConfig")],
)
def test_model_and_config_are_created_once(
    sagemaker: FakeSageMaker, claims: dict[str, Any], kind: Any, operation: str
) -> None:
    assert execute(kind, claims) == execute(kind, claims)
    assert len(sagemaker.made(operation)) == 1


def test_model_and_config_fit_together(
    sagemaker: FakeSageMaker, claims: dict[str, Any], trained: TrainedModel
) -> None:
    model = execute(CreateModelOperator, claims)["model_name"]
    config = execute(CreateEndpointConfigOperator, claims)["endpoint_config_name"]
    assert sagemaker.models[model]["PrimaryContainer"]["ModelDataUrl"] == trained.model_uri
    assert sagemaker.configs[config]["ProductionVariants"][0]["ModelName"] == model


def test_name_taken_by_other_content_is_refused(sagemaker: FakeSageMaker, claims: dict[str, Any]) -> None:
    name = execute(CreateModelOperator, claims)["model_name"]
    sagemaker.models[name]["PrimaryContainer"] = {"Image": "other", "ModelDataUrl": "s3://other/m.tar.gz"}
    with pytest.raises(AirflowFailException, match="exists with other content"):
        execute(CreateModelOperator, claims)


def test_configuration_of_an_ephemeral_endpoint_captures_nothing(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    lasting = execute(CreateEndpointConfigOperator, claims)["endpoint_config_name"]
    own = execute(CreateEndpointConfigOperator, claims, ephemeral=True)["endpoint_config_name"]
    assert "DataCaptureConfig" in sagemaker.configs[lasting]
    assert "DataCaptureConfig" not in sagemaker.configs[own]


def test_configuration_that_another_tool_made_is_told_how_new_its_model_is(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    claims["trained_model"]["data_until"] = "2026-02-01"
    name = execute(CreateEndpointConfigOperator, claims)["endpoint_config_name"]
    tags = sagemaker.configs[name].pop("Tags")
    assert {"Key": "data_until", "Value": "2026-02-01"} in tags
    assert execute(CreateEndpointConfigOperator, claims)["endpoint_config_name"] == name
    assert sagemaker.configs[name]["Tags"] == tags
    execute(CreateEndpointConfigOperator, claims)
    assert len(sagemaker.made("AddTags")) == 1

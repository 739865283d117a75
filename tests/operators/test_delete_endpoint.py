from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from include.operators.delete_endpoint import DeleteEndpointOperator
from tests.operators.deploying import ENDPOINT, deploy, execute, in_service
from tests.operators.fake_sagemaker import FakeSageMaker, refusal

pytestmark = pytest.mark.usefixtures("naps", "sagemaker")


def delete(claims: dict[str, Any], *, ephemeral: bool = True) -> None:
    execute(DeleteEndpointOperator, {"trained_model": claims["trained_model"]}, ephemeral=ephemeral)


@pytest.mark.parametrize("status", ["InService", "Failed"])
def test_endpoint_of_the_runs_own_is_deleted_whatever_became_of_it(
    sagemaker: FakeSageMaker, claims: dict[str, Any], status: str
) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    name = deploy(claims, ephemeral=True).endpoint_name
    sagemaker.endpoints[name] = [in_service("cfg", EndpointName=name, EndpointStatus=status)]
    delete(claims)
    delete(claims)
    assert list(sagemaker.endpoints) == [ENDPOINT]
    assert len(sagemaker.made("DeleteEndpoint")) == 1


def test_lasting_endpoint_is_never_deleted(sagemaker: FakeSageMaker, claims: dict[str, Any]) -> None:
    sagemaker.endpoints[ENDPOINT] = [in_service("cfg-old")]
    with pytest.raises(AirflowSkipException):
        delete(claims, ephemeral=False)
    delete(claims)
    assert sagemaker.made("DeleteEndpoint") == []


def test_endpoint_that_is_still_being_made_is_asked_again(
    sagemaker: FakeSageMaker, claims: dict[str, Any]
) -> None:
    deploy(claims, ephemeral=True)
    said = "Cannot delete in-progress endpoint"
    sagemaker.faults["DeleteEndpoint"] = refusal("DeleteEndpoint", "ValidationException", said, 400)
    delete(claims)
    assert sagemaker.endpoints == {}


def test_endpoint_that_stays_is_told_and_tried_again(
    sagemaker: FakeSageMaker, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(claims, ephemeral=True)
    monkeypatch.setattr(sagemaker, "_DeleteEndpoint", lambda **_: {})
    with pytest.raises(AirflowException, match="costs money"):
        delete(claims)

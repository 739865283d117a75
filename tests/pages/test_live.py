from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.pages.live import live_model
from tests.operators.fake_sagemaker import refusal


class SageMaker:
    """Answers with these descriptions; an error among them is raised."""

    def __init__(self, endpoint: Any, config: Any = None, model: Any = None) -> None:
        self.answers = {"endpoint": endpoint, "endpoint_config": config, "model": model}

    def __getattr__(self, name: str) -> Any:
        answer = self.answers[name.removeprefix("describe_")]

        def call(**_: str) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


ENDPOINT = {"EndpointConfigName": "config", "EndpointStatus": "InService"}
CONFIG = {"ProductionVariants": [{"ModelName": "model"}]}
GONE = refusal("Describe", "ValidationException", "Could not find it.")


@pytest.mark.parametrize(
    ("sagemaker", "uri"),
    [
        (SageMaker(ENDPOINT, CONFIG, {"PrimaryContainer": {"ModelDataUrl": "s3://b/m"}}), "s3://b/m"),
        (SageMaker(ENDPOINT, CONFIG, {"Containers": [{"ModelDataUrl": "s3://b/m"}]}), "s3://b/m"),
        (SageMaker(ENDPOINT, CONFIG, {"PrimaryContainer": {}}), None),
        (SageMaker(ENDPOINT, CONFIG, GONE), None),
        (SageMaker(ENDPOINT, GONE), None),
        (SageMaker(ENDPOINT, {"ProductionVariants": [{}]}), None),
    ],
    ids=["ours", "a pipeline", "without files", "model deleted", "config deleted", "components"],
)
def test_endpoint_leads_to_its_models_files(sagemaker: SageMaker, uri: str | None) -> None:
    live = live_model(sagemaker, "shop")
    assert live is not None and live.model_uri == uri


def test_no_endpoint_nothing_live() -> None:
    assert live_model(SageMaker(GONE), "shop") is None


def test_a_refusal_is_no_answer() -> None:
    with pytest.raises(ClientError):
        live_model(SageMaker(refusal("DescribeEndpoint", "AccessDeniedException", "no")), "shop")

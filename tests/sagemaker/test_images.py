from __future__ import annotations

import pytest

from include.contracts import SettingsError
from include.sagemaker.images import find_image, serving_image, training_image
from include.settings import Settings

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("region", "instance", "expected"),
    [
        (
            "us-east-1",
            "ml.g5.xlarge",
            "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.21-gpu",
        ),
        (
            "eu-south-1",
            "ml.m5.large",
            "692866216735.dkr.ecr.eu-south-1.amazonaws.com/tensorflow-training:2.21-cpu",
        ),
        (
            "cn-north-1",
            "ml.p3.2xlarge",
            "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/tensorflow-training:2.21-gpu",
        ),
    ],
)
def test_image_fits_region_and_processor(region: str, instance: str, expected: str) -> None:
    assert training_image(SETTINGS, region, instance) == f"{expected}-py312"


def test_endpoint_gets_the_image_of_its_instance_and_serverless_none_of_a_gpu() -> None:
    on_gpu = SETTINGS.model_copy(update={"endpoint_instance_type": "ml.g5.xlarge"})
    assert ":2.20-gpu" in serving_image(on_gpu, "us-east-1")
    assert ":2.20-cpu" in serving_image(on_gpu.model_copy(update={"endpoint_serverless": True}), "us-east-1")


def test_image_of_the_settings_wins() -> None:
    own = SETTINGS.model_copy(update={"training_image": "mine:1", "serving_image": "mine:2"})
    assert training_image(own, None, "ml.g5.xlarge") == "mine:1"
    assert serving_image(own, None) == "mine:2"


def test_unknown_version_and_region_say_what_to_set() -> None:
    with pytest.raises(SettingsError, match=r"2\.18, 2\.19, 2\.21, not 1\.15.*PMS_TRAINING_IMAGE"):
        find_image("training", "1.15", "us-east-1", "ml.m5.large")
    with pytest.raises(SettingsError, match="'moon-1'.*PMS_SERVING_IMAGE"):
        find_image("inference", "2.20", "moon-1", "ml.m5.large")

"""AWS's own images of TensorFlow, by region, version and processor.

The catalogue is a file that `make lock` writes from the SageMaker SDK: no process of Airflow's imports it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from include.contracts import SettingsError
from include.settings import Settings

IMAGES_FILE = Path(__file__).with_name("images.yaml")
_GPU = re.compile(r"ml\.[gp]\d")


@lru_cache(maxsize=1)
def _catalogue() -> dict[str, Any]:
    known: dict[str, Any] = yaml.safe_load(IMAGES_FILE.read_text(encoding="utf-8"))
    return known


def find_image(
    scope: Literal["training", "inference"], version: str, region: str | None, instance_type: str
) -> str:
    """Returns the address of AWS's image.

    Args:
        scope: What the container does.
        version: Of TensorFlow, as `2.21`.
        region: Region of the job or endpoint.
        instance_type: Instance that it runs on; tells whether the image needs a GPU's libraries.

    Raises:
        SettingsError: The catalogue has no such version, or not in that region.
    """
    versions = _catalogue()[scope]
    setting = {"training": "PMS_TRAINING", "inference": "PMS_SERVING"}[scope]
    if version not in versions:
        raise SettingsError(
            f"{setting}_FRAMEWORK_VERSION: AWS's images for {scope} known here are of TensorFlow "
            f"{', '.join(versions)}, not {version}. Choose one of them, or name an image in {setting}_IMAGE."
        )
    registry = versions[version]["registries"].get(region)
    if registry is None:
        raise SettingsError(
            f"No region {region!r} with AWS's image of TensorFlow {version} for {scope} is known here: "
            f"name an image in {setting}_IMAGE."
        )
    processor = "gpu" if _GPU.match(instance_type) else "cpu"
    return f"{registry}/{versions[version]['names'][processor]}"


def training_image(settings: Settings, region: str | None, instance_type: str) -> str:
    """Returns the image of training jobs: the setting's, or AWS's own."""
    return settings.training_image or find_image(
        "training", settings.training_framework_version, region, instance_type
    )


def serving_image(settings: Settings, region: str | None) -> str:
    """Returns the image of the endpoint: the setting's, or AWS's own."""
    # Serverless endpoints have no GPU.
    instance = "ml.m5.large" if settings.endpoint_serverless else settings.endpoint_instance_type
    return settings.serving_image or find_image(
        "inference", settings.serving_framework_version, region, instance
    )

"""Writes `include/sagemaker/images.yaml` from the SageMaker SDK's catalogue; `make lock` runs it.

Runs in the ML environment, where the SDK is: importing it costs seconds, and breaks Airflow's S3 logs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).resolve().parents[1] / "sagemaker" / "images.yaml"
NEWEST = 3  # versions of each scope that are kept
# One instance type of each processor stands for all of them.
PROCESSORS = {"cpu": "ml.m5.large", "gpu": "ml.g5.xlarge"}
_HEAD = """\
# AWS's Deep Learning Containers of TensorFlow: where the images of a region lie, and what they are called.
# Written by `make lock` from the SageMaker SDK's own catalogue; not to be edited.
"""


def _uri(scope: str, version: str, python: str | None, region: str, instance: str) -> str:
    from sagemaker.core import image_uris

    uri: str = image_uris.retrieve(
        "tensorflow", region, version=version, py_version=python, instance_type=instance, image_scope=scope
    )
    return uri


def catalogue() -> dict[str, Any]:
    """Returns the newest versions of each scope, as `include.sagemaker.images` reads them."""
    from sagemaker.core import image_uris

    known = image_uris.config_for_framework("tensorflow")
    found: dict[str, Any] = {}
    # The SDK reads botocore's file of all regions for every address, which takes longer than all the rest.
    hosts: dict[tuple[str, str], str] = {}
    for scope in ("training", "inference"):
        found[scope] = {}
        for full, entry in list(known[scope]["versions"].items())[-NEWEST:]:
            version = ".".join(full.split(".")[:2])
            python = (entry.get("py_versions") or [None])[-1]

            names = {
                processor: _uri(scope, version, python, "us-east-1", type_)
                for processor, type_ in PROCESSORS.items()
            }
            accounts = dict(sorted(entry["registries"].items()))
            for region, account in accounts.items():
                if (region, account) not in hosts:
                    uri = _uri(scope, version, python, region, PROCESSORS["cpu"])
                    hosts[region, account] = uri.partition("/")[0]
            found[scope][version] = {
                "names": {processor: name.partition("/")[2] for processor, name in names.items()},
                "registries": {region: hosts[region, account] for region, account in accounts.items()},
            }
    return found


def main() -> int:
    """Writes the file."""
    TARGET.write_text(_HEAD + yaml.safe_dump(catalogue(), sort_keys=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

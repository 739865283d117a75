"""The model registry: a SageMaker model package group, one version for each verdict of the gate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, cast

from botocore.exceptions import ClientError

from include.contracts import Approval
from include.sagemaker.errors import is_missing

# The newest ones; each costs a call to describe it.
MOST_PACKAGES = 100
METRIC = "metric/"
OVERRIDDEN = "Deployed against the gate, because: "


@dataclass(frozen=True)
class Package:
    """One version of the group: a model with what was decided about it.

    A version that somebody else put there has no job, snapshot or metrics.

    Attributes:
        created: When it was registered, with a time zone.
        approval: SageMaker's approval status: what was decided last.
        model_uri: The `model.tar.gz`.
        model_name: The SageMaker model that a deploy makes of it.
        metrics: The verdict's headline metrics.
        card_uri: `s3://…/card.html`.
        override_reason: Why it was approved against the gate.
        approval_description: Who approved or refused it by hand, or that nobody answered.
    """

    arn: str
    version: int
    created: datetime
    approval: Approval
    job_name: str | None = None
    snapshot_id: str | None = None
    model_uri: str | None = None
    model_name: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    card_uri: str | None = None
    override_reason: str | None = None
    approval_description: str | None = None


def list_packages(client: Any, group: str, limit: int = MOST_PACKAGES) -> list[Package]:
    """Returns the group's newest packages, newest first; none where there is no such group.

    Args:
        client: boto3 SageMaker client.
        group: Name of the model package group.
        limit: Most packages to return.
    """
    return list(islice(_packages(client, group), limit))


def find_package(client: Any, group: str, model_uri: str) -> Package | None:
    """Returns the newest package of a `model.tar.gz`, None where it is not among the newest.

    Arguments as those of `list_packages`.
    """
    return next((package for package in list_packages(client, group) if package.model_uri == model_uri), None)


def read_package(description: Mapping[str, Any]) -> Package:
    """Reads a DescribeModelPackage answer."""
    told: Mapping[str, str] = description.get("CustomerMetadataProperties", {})
    containers = description.get("InferenceSpecification", {}).get("Containers") or [{}]
    said = str(description.get("ModelPackageDescription", ""))
    return Package(
        arn=str(description["ModelPackageArn"]),
        version=int(description["ModelPackageVersion"]),
        created=description["CreationTime"],
        approval=cast(Approval, description.get("ModelApprovalStatus", "PendingManualApproval")),
        job_name=told.get("training_job"),
        snapshot_id=told.get("snapshot_id"),
        model_uri=containers[0].get("ModelDataUrl"),
        model_name=told.get("model_name"),
        metrics=_metrics(told),
        card_uri=told.get("card_uri"),
        override_reason=said.removeprefix(OVERRIDDEN) if said.startswith(OVERRIDDEN) else None,
        approval_description=description.get("ApprovalDescription") or None,
    )


def _packages(client: Any, group: str) -> Iterator[Package]:
    pages = client.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group, SortBy="CreationTime", SortOrder="Descending"
    )
    try:
        for page in pages:
            for entry in page["ModelPackageSummaryList"]:
                yield read_package(client.describe_model_package(ModelPackageName=entry["ModelPackageArn"]))
    except ClientError as error:
        # A group that nothing was ever registered in does not exist yet.
        if not is_missing(error):
            raise


def _metrics(told: Mapping[str, str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, text in told.items():
        if name.startswith(METRIC):
            try:
                value = float(text)
            except ValueError:
                continue  # somebody edited it by hand
            if math.isfinite(value):
                values[name.removeprefix(METRIC)] = value
    return values

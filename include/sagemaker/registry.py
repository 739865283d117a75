"""The model registry: a SageMaker model package group, one version for each verdict of the gate."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, cast

from botocore.exceptions import ClientError

from include.contracts import Approval
from include.sagemaker.errors import is_existing, is_missing
from include.tags import tags

# The newest ones; each costs a call to describe it.
MOST_PACKAGES = 100
METRIC, HYPERPARAMETER = "metric/", "hyperparameter/"
OVERRULED = "overridden"
OVERRIDDEN = "Approved against the gate, because: "
MOST_TEXT = 1024  # SageMaker's own limit


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
        entry: Identity of the verdict; the same verdict is registered once.
        job_arn: The training job.
        report_uri: `s3://…/report.json`; the verdict lies beside it.
        data_until: As in `TrainedModel`.
        trained_at: As in `TrainedModel`.
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
    entry: str | None = None
    job_arn: str | None = None
    report_uri: str | None = None
    data_until: str | None = None
    trained_at: str | None = None


def ensure_group(client: Any, group: str, others: Mapping[str, str] | None = None) -> None:
    """Creates the model package group unless it exists.

    Args:
        client: boto3 SageMaker client.
        group: Name of the model package group.
        others: Tags that everything the project makes gets besides its own.
    """
    try:
        client.describe_model_package_group(ModelPackageGroupName=group)
    except ClientError as error:
        if not is_missing(error):
            raise
        try:
            client.create_model_package_group(
                ModelPackageGroupName=group,
                ModelPackageGroupDescription="Every model that the gate judged, with its verdict.",
                Tags=tags(others),
            )
        except ClientError as refused:
            if not is_existing(refused):
                raise


def register(client: Any, request: Mapping[str, Any]) -> tuple[Package, bool]:
    """Registers a model unless its verdict has been registered before.

    The client token keeps two tries at a time from making two; the search keeps a later one from it. A model
    that somebody took back, by an answer, a smoke test or a roll-back, is not Approved by being judged anew,
    however often: its new entries wait for a person.

    Args:
        client: boto3 SageMaker client.
        request: Of `package_request`.

    Returns:
        The package, and whether this call made it.
    """
    job = request["ModelPackageDescription"].partition(":")[0]
    same_job = list(
        _packages(
            client,
            request["ModelPackageGroupName"],
            lambda entry: str(entry.get("ModelPackageDescription", "")).startswith(f"{job}:"),
        )
    )
    for package in same_job:
        if package.entry == request["ClientToken"]:
            return package, False
    uri = request["InferenceSpecification"]["Containers"][0]["ModelDataUrl"]
    taken_back = _taken_back(package for package in same_job if package.model_uri == uri)
    if taken_back and request["ModelApprovalStatus"] == "Approved":
        request = {**request, "ModelApprovalStatus": "PendingManualApproval"}
        arn = client.create_model_package(**request)["ModelPackageArn"]
        said = f"The same model was taken back as version {taken_back.version}: "
        record_approval(client, arn, "PendingManualApproval", f"{said}{taken_back.approval_description}")
    else:
        arn = client.create_model_package(**request)["ModelPackageArn"]
    return describe_package(client, arn), True


def _taken_back(same_model: Iterable[Package]) -> Package | None:
    """Returns the entry with which a model was taken back, unless it was Approved since.

    What waits for a person, and what the gate refused, takes nothing back and gives nothing back.

    Args:
        same_model: The model's entries, newest first.
    """
    for package in same_model:
        if package.approval == "Approved":
            return None
        if package.approval == "Rejected" and package.approval_description:
            return package
    return None


def describe_package(client: Any, arn: str) -> Package:
    """Returns one package as it is now."""
    return read_package(client.describe_model_package(ModelPackageName=arn))


def record_approval(client: Any, arn: str, approval: Approval, said: str) -> None:
    """Records a person's answer.

    Args:
        client: boto3 SageMaker client.
        arn: The package.
        approval: The answer.
        said: Who gave it, or that nobody did.
    """
    client.update_model_package(
        ModelPackageArn=arn, ModelApprovalStatus=approval, ApprovalDescription=clean_text(said)
    )


def record_card(client: Any, arn: str, card_uri: str) -> None:
    """Names a newer card of a model.

    Args:
        client: boto3 SageMaker client.
        arn: The package.
        card_uri: `s3://…/card.html`.
    """
    client.update_model_package(ModelPackageArn=arn, CustomerMetadataProperties={"card_uri": card_uri})


def list_packages(
    client: Any, group: str, limit: int = MOST_PACKAGES, before: int | None = None
) -> list[Package]:
    """Returns the group's newest packages, newest first; none where there is no such group.

    Args:
        client: boto3 SageMaker client.
        group: Name of the model package group.
        limit: Most packages to return.
        before: Only versions older than this one; the others are not described.
    """

    def is_older(entry: Mapping[str, Any]) -> bool:
        return before is None or int(entry["ModelPackageVersion"]) < before

    return list(islice(_packages(client, group, is_older), limit))


def read_package(description: Mapping[str, Any]) -> Package:
    """Reads a DescribeModelPackage answer."""
    told: Mapping[str, str] = description.get("CustomerMetadataProperties", {})
    containers = description.get("InferenceSpecification", {}).get("Containers") or [{}]
    quality = description.get("ModelMetrics", {}).get("ModelQuality", {}).get("Statistics", {})
    _, overridden, reason = str(description.get("ModelPackageDescription", "")).partition(OVERRIDDEN)
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
        override_reason=reason if overridden and told.get("decision") == OVERRULED else None,
        approval_description=description.get("ApprovalDescription") or None,
        entry=told.get("entry"),
        job_arn=description.get("MetadataProperties", {}).get("GeneratedBy"),
        report_uri=quality.get("S3Uri"),
        data_until=told.get("data_until"),
        trained_at=told.get("trained_at"),
    )


def clean_text(text: str, most: int = MOST_TEXT) -> str:
    """Returns text as the registry's descriptions take it: one line, bounded, without control characters."""
    printable = "".join(" " if unicodedata.category(mark)[0] == "C" else mark for mark in text)
    return " ".join(printable.split())[:most]


def _packages(
    client: Any, group: str, wanted: Callable[[Mapping[str, Any]], bool] = lambda entry: True
) -> Iterator[Package]:
    """Yields the packages whose list entry is wanted, newest first."""
    pages = client.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group, SortBy="CreationTime", SortOrder="Descending"
    )
    try:
        for page in pages:
            for entry in page["ModelPackageSummaryList"]:
                if wanted(entry) and (found := _described(client, entry["ModelPackageArn"])):
                    yield found
    except ClientError as error:
        # A group that nothing was ever registered in does not exist yet.
        if not is_missing(error):
            raise


def _described(client: Any, arn: str) -> Package | None:
    """Returns a package of a list; None where it was deleted since."""
    try:
        return describe_package(client, arn)
    except ClientError as error:
        if is_missing(error):
            return None
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

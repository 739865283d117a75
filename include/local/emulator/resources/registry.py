"""The model registry: groups of model packages, each package a version of its group."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from botocore.model import StructureShape

from include.local.emulator.resources.store import Resource, Store, now
from include.local.emulator.wire.errors import AwsError, validation_error
from include.local.emulator.wire.shapes import operation, pick

_ARN = re.compile(r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:\d{12}:[a-z-]*/")
_PENDING = "PendingManualApproval"
# What UpdateModelPackage replaces as it is; the customer's properties are merged.
_REPLACED = (
    "ModelApprovalStatus",
    "ApprovalDescription",
    "InferenceSpecification",
    "ModelCard",
    "ModelLifeCycle",
    "ModelPackageRegistrationType",
    "SourceUri",
)


@dataclass
class Group(Resource):
    """A model package group."""

    kind: ClassVar[str] = "model-package-group"
    label: ClassVar[str] = "model package group"

    # A number is never given twice, so that a version's ARN means one model for ever.
    versions: int = 0


@dataclass
class Package(Resource):
    """A version of a group; its name is `group/version`."""

    kind: ClassVar[str] = "model-package"
    label: ClassVar[str] = "model package"

    changed: datetime | None = None

    @property
    def group(self) -> str:
        """Name of its group."""
        return self.name.rpartition("/")[0]

    @property
    def version(self) -> int:
        """Number within the group, from 1."""
        return int(self.name.rpartition("/")[2])

    @property
    def approval(self) -> str:
        """Approval status."""
        return str(self.request.get("ModelApprovalStatus", _PENDING))


class Registry:
    """The registry of one emulator.

    Args:
        state: Where the resources' files lie; None: it is kept in memory only.
    """

    def __init__(self, state: Path | None = None) -> None:
        self.groups: Store[Group] = Store(Group, state)
        self.packages: Store[Package] = Store(Package, state)
        self._lock = threading.RLock()

    def create_group(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateModelPackageGroup."""
        group = Group(request["ModelPackageGroupName"], region, request)
        self.groups.add(group)
        return {"ModelPackageGroupArn": group.arn}

    def describe_group(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeModelPackageGroup."""
        group = self._group(region, request)
        return {**_pick("DescribeModelPackageGroup", group.request), **_group_state(group), "CreatedBy": {}}

    def list_groups(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListModelPackageGroups."""
        return self.groups.page(region, request, "ModelPackageGroupSummaryList", _group_state)

    def delete_group(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteModelPackageGroup."""
        with self._lock:
            group = self._group(region, request)
            if any(package.group == group.name and package.region == region for package in self.packages):
                raise AwsError("ConflictException", f"Model package group {group.arn} is not empty.")
            self.groups.remove(region, group.name)
        return {}

    def create(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateModelPackage. The same token is the same package."""
        if "ModelPackageName" in request or "ModelPackageGroupName" not in request:
            raise validation_error("The local emulator has packages of a group only: give its name alone.")
        if "Tags" in request:
            raise validation_error("Tags are not allowed on versioned model packages: tag the group.")
        with self._lock:
            group = self._group(region, request)
            token = request.get("ClientToken")
            for package in self.packages if token else ():
                if (package.region, package.group) == (region, group.name) and (
                    package.request.get("ClientToken") == token
                ):
                    return {"ModelPackageArn": package.arn}
            with group.lock:
                group.versions += 1
            made = Package(f"{group.name}/{group.versions}", region, dict(request))
            self.packages.add(made)
        return {"ModelPackageArn": made.arn}

    def describe(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeModelPackage.

        As SageMaker, and against its own model, it gives a version no `ModelPackageName`.
        """
        package = self.packages.get(region, _name(request["ModelPackageName"]))
        changed = {"LastModifiedTime": package.changed} if package.changed else {}
        return {
            **_pick("DescribeModelPackage", package.request),
            **_package_state(package),
            **changed,
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "CertifyForMarketplace": package.request.get("CertifyForMarketplace", False),
        }

    def list_packages(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListModelPackages. Without a group and a type SageMaker lists those of no group: none."""
        group = self._group(region, request).name if "ModelPackageGroupName" in request else None
        if group is None and request.get("ModelPackageType", "Unversioned") == "Unversioned":
            return {"ModelPackageSummaryList": []}
        approval = request.get("ModelApprovalStatus")
        return self.packages.page(
            region,
            request,
            "ModelPackageSummaryList",
            _summary,
            lambda package: group in (None, package.group) and approval in (None, package.approval),
        )

    def update(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """UpdateModelPackage."""
        if "AdditionalInferenceSpecificationsToAdd" in request:
            raise validation_error("The local emulator does not have AdditionalInferenceSpecificationsToAdd.")
        with self._lock:
            package = self.packages.get(region, _name(request["ModelPackageArn"]))
            told = {
                **package.request.get("CustomerMetadataProperties", {}),
                **request.get("CustomerMetadataProperties", {}),
            }
            for key in request.get("CustomerMetadataPropertiesToRemove", ()):
                told.pop(key, None)
            changes = {name: request[name] for name in _REPLACED if name in request}
            with package.lock:
                package.request = {**package.request, **changes, "CustomerMetadataProperties": told or None}
                package.changed = now()
        return {"ModelPackageArn": package.arn}

    def delete(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteModelPackage."""
        self.packages.remove(region, _name(request["ModelPackageName"]))
        return {}

    def _group(self, region: str, request: Mapping[str, Any]) -> Group:
        name = _name(request["ModelPackageGroupName"])
        try:
            return self.groups.get(region, name)
        except AwsError as error:
            missing = Group(name, region, {}).arn
            raise validation_error(f"ModelPackageGroup {missing} does not exist.") from error


def _name(arn_or_name: str) -> str:
    return _ARN.sub("", arn_or_name, count=1)


def _group_state(group: Group) -> dict[str, Any]:
    described = group.request.get("ModelPackageGroupDescription")
    return {
        "ModelPackageGroupName": group.name,
        "ModelPackageGroupArn": group.arn,
        "ModelPackageGroupStatus": "Completed",
        "CreationTime": group.created,
        **({} if described is None else {"ModelPackageGroupDescription": described}),
    }


def _package_state(package: Package) -> dict[str, Any]:
    return {
        "ModelPackageGroupName": package.group,
        "ModelPackageVersion": package.version,
        "ModelPackageArn": package.arn,
        "ModelPackageStatus": "Completed",
        "ModelApprovalStatus": package.approval,
        "CreationTime": package.created,
    }


def _summary(package: Package) -> dict[str, Any]:
    described = package.request.get("ModelPackageDescription")
    return {
        **_package_state(package),
        **({} if described is None else {"ModelPackageDescription": described}),
    }


def _pick(name: str, request: Mapping[str, Any]) -> dict[str, Any]:
    shape = operation(name).output_shape
    assert isinstance(shape, StructureShape)
    return pick(shape, request)

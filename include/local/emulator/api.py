"""Which SageMaker operation is answered by what: jobs, models, registry and endpoints by us."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from moto.core.utils import camelcase_to_underscores
from moto.sagemaker.responses import SageMakerResponse

from include.local.emulator.endpoints.operations import Endpoints
from include.local.emulator.resources.models import Models
from include.local.emulator.resources.registry import Registry
from include.local.emulator.resources.store import Resource, find_by_arn
from include.local.emulator.training.jobs import TrainingJobs
from include.local.emulator.training.tuning import TuningJobs
from include.local.emulator.wire.errors import AwsError
from include.local.emulator.wire.shapes import check_request, operation, to_wire

Handler = Callable[[str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class SageMaker:
    """The SageMaker API of one emulator."""

    jobs: TrainingJobs
    tunings: TuningJobs
    models: Models
    endpoints: Endpoints
    registry: Registry

    def answer(self, name: str, region: str, request: object) -> dict[str, Any] | None:
        """Answers an operation.

        Args:
            name: Operation, such as `CreateTrainingJob`.
            region: Region of the caller.
            request: The decoded request.

        Returns:
            The answer in JSON types, or None where moto is to answer the (valid) request.

        Raises:
            AwsError: As AWS answers what is unknown or wrong.
        """
        cleaned = check_request(name, request)
        if name in _TAG_OPERATIONS:
            resource = self._find(cleaned["ResourceArn"])
            return None if resource is None else _TAG_OPERATIONS[name](resource, cleaned)
        handler = self._handlers().get(name)
        if handler is not None:
            answer: dict[str, Any] = to_wire(handler(region, cleaned))
            return answer
        if not hasattr(SageMakerResponse, camelcase_to_underscores(name)):
            raise AwsError(
                "UnknownOperationException", f"The local emulator does not have {operation(name).name}."
            )
        return None

    def _handlers(self) -> dict[str, Handler]:
        return {
            "CreateTrainingJob": self.jobs.create,
            "DescribeTrainingJob": self.jobs.describe,
            "StopTrainingJob": self.jobs.stop,
            "DeleteTrainingJob": self.jobs.delete,
            "ListTrainingJobs": self.jobs.list_jobs,
            "CreateHyperParameterTuningJob": self.tunings.create,
            "DescribeHyperParameterTuningJob": self.tunings.describe,
            "StopHyperParameterTuningJob": self.tunings.stop,
            "DeleteHyperParameterTuningJob": self.tunings.delete,
            "ListHyperParameterTuningJobs": self.tunings.list_jobs,
            "ListTrainingJobsForHyperParameterTuningJob": self.tunings.list_trials,
            "CreateModel": self.models.create_model,
            "DescribeModel": self.models.describe_model,
            "DeleteModel": self.models.delete_model,
            "ListModels": self.models.list_models,
            "CreateEndpointConfig": self.models.create_config,
            "DescribeEndpointConfig": self.models.describe_config,
            "DeleteEndpointConfig": self.models.delete_config,
            "ListEndpointConfigs": self.models.list_configs,
            "CreateEndpoint": self.endpoints.create,
            "DescribeEndpoint": self.endpoints.describe,
            "UpdateEndpoint": self.endpoints.update,
            "UpdateEndpointWeightsAndCapacities": self.endpoints.resize,
            "DeleteEndpoint": self.endpoints.delete,
            "ListEndpoints": self.endpoints.list_endpoints,
            "CreateModelPackageGroup": self.registry.create_group,
            "DescribeModelPackageGroup": self.registry.describe_group,
            "DeleteModelPackageGroup": self.registry.delete_group,
            "ListModelPackageGroups": self.registry.list_groups,
            "CreateModelPackage": self.registry.create,
            "DescribeModelPackage": self.registry.describe,
            "UpdateModelPackage": self.registry.update,
            "DeleteModelPackage": self.registry.delete,
            "ListModelPackages": self.registry.list_packages,
        }

    def _find(self, arn: str) -> Resource | None:
        stores: tuple[Iterable[Resource], ...] = (
            self.jobs.store,
            self.tunings.store,
            self.models.models,
            self.models.configs,
            self.endpoints.store,
            self.registry.groups,
        )
        return find_by_arn(stores, arn)


def _add_tags(resource: Resource, request: dict[str, Any]) -> dict[str, Any]:
    with resource.lock:
        resource.tags.update({tag["Key"]: tag["Value"] for tag in request["Tags"]})
    return _list_tags(resource, request)


def _delete_tags(resource: Resource, request: dict[str, Any]) -> dict[str, Any]:
    with resource.lock:
        for key in request["TagKeys"]:
            resource.tags.pop(key, None)
    return {}


def _list_tags(resource: Resource, request: dict[str, Any]) -> dict[str, Any]:
    return {"Tags": [{"Key": key, "Value": value} for key, value in sorted(resource.tags.items())]}


_TAG_OPERATIONS: dict[str, Callable[[Resource, dict[str, Any]], dict[str, Any]]] = {
    "AddTags": _add_tags,
    "DeleteTags": _delete_tags,
    "ListTags": _list_tags,
}

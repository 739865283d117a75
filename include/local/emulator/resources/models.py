"""Models and endpoint configs: names for an artefact and for how to serve it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from botocore.model import StructureShape

from include.local.emulator.machine import storage
from include.local.emulator.resources.store import Resource, Store
from include.local.emulator.wire.errors import validation_error
from include.local.emulator.wire.shapes import operation, pick


@dataclass
class Model(Resource):
    """An artefact and its container."""

    kind: ClassVar[str] = "model"
    label: ClassVar[str] = "model"

    @property
    def container(self) -> dict[str, Any]:
        """The container that serves."""
        primary: dict[str, Any] = self.request.get("PrimaryContainer") or self.request["Containers"][0]
        return primary

    @property
    def data_uri(self) -> str:
        """Address of `model.tar.gz`."""
        return _data_uri(self.container)


@dataclass
class EndpointConfig(Resource):
    """How many of which instances serve which models."""

    kind: ClassVar[str] = "endpoint-config"
    label: ClassVar[str] = "endpoint configuration"

    @property
    def variants(self) -> list[dict[str, Any]]:
        """The production variants."""
        variants: list[dict[str, Any]] = self.request["ProductionVariants"]
        return variants

    @property
    def shadows(self) -> list[dict[str, Any]]:
        """The shadow variants: none, or one."""
        shadows: list[dict[str, Any]] = self.request.get("ShadowProductionVariants", [])
        return shadows

    @property
    def variants_by_member(self) -> dict[str, list[dict[str, Any]]]:
        """Every kind of variants that it has, by the API's name for the kind."""
        found = {"ProductionVariants": self.variants, "ShadowProductionVariants": self.shadows}
        return {member: variants for member, variants in found.items() if variants}


class Models:
    """The operations on models and endpoint configs.

    Args:
        url: Address of the emulator.
        state: Where the resources' files lie.
    """

    def __init__(self, url: str, state: Path | None = None) -> None:
        self._url = url
        self.models = Store(Model, state)
        self.configs = Store(EndpointConfig, state)

    def create_model(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateModel."""
        if ("PrimaryContainer" in request) == ("Containers" in request):
            raise validation_error("You must provide exactly one of PrimaryContainer and Containers.")
        if "ExecutionRoleArn" not in request:
            raise validation_error("ExecutionRoleArn is required.")
        if len(request.get("Containers", [{}])) != 1:
            raise validation_error("The local emulator serves models of one container.")
        model = Model(request["ModelName"], region, request)
        if not storage.exists(storage.client("s3", self._url, region), model.data_uri):
            raise validation_error(f"Could not find model data at {model.data_uri}.")
        self.models.add(model)
        return {"ModelArn": model.arn}

    def describe_model(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeModel."""
        model = self.models.get(region, request["ModelName"])
        return {**_echo("DescribeModel", model), "ModelArn": model.arn}

    def delete_model(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteModel."""
        self.models.remove(region, request["ModelName"])
        return {}

    def list_models(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListModels."""
        return self.models.page(
            region,
            request,
            "Models",
            lambda item: {"ModelName": item.name, "ModelArn": item.arn, "CreationTime": item.created},
        )

    def create_config(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """CreateEndpointConfig."""
        self._check_variants(region, request)
        config = EndpointConfig(request["EndpointConfigName"], region, request)
        self.configs.add(config)
        return {"EndpointConfigArn": config.arn}

    def _check_variants(self, region: str, request: dict[str, Any]) -> None:
        production, shadows = request["ProductionVariants"], request.get("ShadowProductionVariants", [])
        variants = [*production, *shadows]
        names = [variant["VariantName"] for variant in variants]
        if len(set(names)) < len(names):
            raise validation_error("Variant names must be unique.")
        for variant in variants:
            if "ModelName" not in variant:
                raise validation_error("ModelName is required in each production variant.")
            if ("InstanceType" in variant) == ("ServerlessConfig" in variant):
                raise validation_error("A variant needs exactly one of InstanceType and ServerlessConfig.")
        if shadows and (len(production), len(shadows)) != (1, 1):
            raise validation_error(
                "ShadowProductionVariants takes one shadow variant, beside exactly one production variant."
            )
        used = [self.models.get(region, variant["ModelName"]) for variant in variants]
        if any("ServerlessConfig" in variant for variant in variants):
            _check_serverless(request, variants, used)

    def describe_config(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeEndpointConfig."""
        config = self.configs.get(region, request["EndpointConfigName"])
        return {**_echo("DescribeEndpointConfig", config), "EndpointConfigArn": config.arn}

    def delete_config(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteEndpointConfig."""
        self.configs.remove(region, request["EndpointConfigName"])
        return {}

    def list_configs(self, region: str, request: dict[str, Any]) -> dict[str, Any]:
        """ListEndpointConfigs."""
        return self.configs.page(
            region,
            request,
            "EndpointConfigs",
            lambda item: {
                "EndpointConfigName": item.name,
                "EndpointConfigArn": item.arn,
                "CreationTime": item.created,
            },
        )


def _check_serverless(request: dict[str, Any], variants: list[dict[str, Any]], used: list[Model]) -> None:
    """Refuses what serverless inference does not have."""
    if len(variants) > 1:
        raise validation_error("An endpoint configuration with ServerlessConfig has exactly one variant.")
    if "InitialInstanceCount" in variants[0]:
        raise validation_error("InitialInstanceCount cannot be specified with ServerlessConfig.")
    for member in ("DataCaptureConfig", "AsyncInferenceConfig", "VpcConfig"):
        if member in request:
            raise validation_error(f"{member} is not supported for serverless endpoints.")
    for member in ("VpcConfig", "EnableNetworkIsolation"):
        if any(model.request.get(member) for model in used):
            raise validation_error(f"Models with {member} are not supported for serverless endpoints.")


def _data_uri(container: dict[str, Any]) -> str:
    if uri := container.get("ModelDataUrl"):
        return str(uri)
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    if source.get("CompressionType") == "Gzip" and source.get("S3DataType") == "S3Object":
        return str(source["S3Uri"])
    raise validation_error(
        "The local emulator serves a model.tar.gz: give ModelDataUrl, or a gzip S3Object as ModelDataSource."
    )


def _echo(name: str, item: Resource) -> dict[str, Any]:
    shape = operation(name).output_shape
    assert isinstance(shape, StructureShape)
    return {**pick(shape, item.request), "CreationTime": item.created}

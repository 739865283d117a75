"""SageMaker's control plane as a script: each look at a job or endpoint shows its next state."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.client
import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.validate import ParamValidator

from include.local.emulator.resources.registry import Registry
from include.local.emulator.wire.errors import AwsError
from include.local.emulator.wire.shapes import check_request
from tests.operators.airflow_role import assert_allowed

ACCOUNT = "arn:aws:sagemaker:us-east-1:123456789012"
MORNING = datetime(2026, 11, 24, 8, tzinfo=UTC)
SERVICES = {"sagemaker", "sagemaker-runtime"}


def refusal(operation: str, code: str, message: str, status: int = 400) -> ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


def trial(score: float | None, status: str = "Completed", **changes: Any) -> dict[str, Any]:
    """The summary of a trial that ran for a minute and told its score, or None."""
    metric = {"Type": "Maximize", "MetricName": "validation:final_mrr@20", "Value": score}
    return {
        "TrainingJobStatus": status,
        "CreationTime": MORNING,
        "TrainingStartTime": MORNING,
        "TrainingEndTime": MORNING + timedelta(seconds=60),
        "TunedHyperParameters": {"learning-rate": f"{score or 0.1}", "batch-size": '"64"'},
        **({"FinalHyperParameterTuningJobObjectiveMetric": metric} if score is not None else {}),
        "ObjectiveStatus": "Failed" if score is None else "Succeeded",
        **changes,
    }


class FakeSageMaker:
    """Takes the calls of real boto3 clients; other services go on to whoever had them before.

    Attributes:
        calls: Name and request of every call that changes something, besides the registry.
        entries: The same of the registry.
        jobs: Job name to its descriptions still to be shown; the last one stays.
        endpoints: The same for endpoints.
        next_job: Descriptions that a new job goes through.
        tunings: Tuning job name to its descriptions still to be shown; the last one stays.
        next_tuning: Descriptions that a new tuning job goes through.
        trials: Summaries of the trials of a new tuning job, without their names.
        after_update: Endpoint descriptions that an update or create leads to, given the configuration.
        faults: Operation to the error that its next call raises.
        answer: Body of InvokeEndpoint, given the request.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.registry = Registry()
        self.jobs: dict[str, list[dict[str, Any]]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, list[dict[str, Any]]] = {}
        self.next_job: list[dict[str, Any]] = [{"TrainingJobStatus": "InProgress"}, {}]
        self.tunings: dict[str, list[dict[str, Any]]] = {}
        self.next_tuning: list[dict[str, Any]] = [{"HyperParameterTuningJobStatus": "InProgress"}, {}]
        self.summaries: dict[str, list[dict[str, Any]]] = {}
        self.trials: list[dict[str, Any]] = [trial(0.21), trial(0.25), trial(0.19)]
        self.after_update: Callable[[str], list[dict[str, Any]]] = lambda config: [
            {"EndpointStatus": "Updating"},
            {"EndpointStatus": "InService", "EndpointConfigName": config},
        ]
        self.faults: dict[str, ClientError] = {}
        self.answer: Callable[[dict[str, Any]], bytes] = lambda request: b"{}"

    def made(self, operation: str) -> list[dict[str, Any]]:
        return [request for name, request in self.calls + self.entries if name == operation]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        passed_on = botocore.client.BaseClient._make_api_call  # type: ignore[attr-defined]

        def call(client: Any, operation: str, request: dict[str, Any]) -> Any:
            if client.meta.service_model.service_name not in SERVICES:
                return passed_on(client, operation, request)
            shape = client.meta.service_model.operation_model(operation).input_shape
            report = ParamValidator().validate(request, shape)
            assert not report.has_errors(), report.generate_report()
            assert_allowed(client.meta.service_model.service_name, operation)
            if operation in self.faults:
                raise self.faults.pop(operation)
            if not operation.startswith(("Describe", "List")):
                (self.entries if "ModelPackage" in operation else self.calls).append((operation, request))
            registered = {
                "CreateModelPackageGroup": self.registry.create_group,
                "DescribeModelPackageGroup": self.registry.describe_group,
                "CreateModelPackage": self.registry.create,
                "DescribeModelPackage": self.registry.describe,
                "UpdateModelPackage": self.registry.update,
                "ListModelPackages": self.registry.list_packages,
            }.get(operation)
            if registered is None:
                answer = getattr(self, f"_{operation}")(**request)
            else:
                try:
                    answer = registered("us-east-1", check_request(operation, request))
                except AwsError as error:
                    raise refusal(operation, error.code, error.message, error.status) from error
            return {**answer, "ResponseMetadata": {"HTTPStatusCode": 200}}

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)

    def _next(self, operation: str, shown: list[dict[str, Any]] | None, kind: str, name: str) -> Any:
        if not shown:
            raise refusal(operation, "ValidationException", f'Could not find {kind} "{name}".')
        return shown.pop(0) if len(shown) > 1 else shown[0]

    def job(self, name: str, request: dict[str, Any], **state: Any) -> dict[str, Any]:
        output = request.get("OutputDataConfig", {"S3OutputPath": "s3://post-modern-stack/shop/models"})
        described = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "TrainingJobName": name,
            "TrainingJobArn": f"{ACCOUNT}:training-job/{name}",
            "TrainingJobStatus": "Completed",
            "OutputDataConfig": output,
            "ModelArtifacts": {"S3ModelArtifacts": f"{output['S3OutputPath']}/{name}/output/model.tar.gz"},
            "BillableTimeInSeconds": 42,
            **state,
        }
        return {"SecondaryStatus": described["TrainingJobStatus"], **described}

    def _CreateTrainingJob(self, TrainingJobName: str, **request: Any) -> dict[str, Any]:
        if TrainingJobName in self.jobs:
            raise refusal("CreateTrainingJob", "ResourceInUse", "Training job names must be unique.")
        self.jobs[TrainingJobName] = [self.job(TrainingJobName, request, **state) for state in self.next_job]
        return {"TrainingJobArn": f"{ACCOUNT}:training-job/{TrainingJobName}"}

    def _DescribeTrainingJob(self, TrainingJobName: str) -> dict[str, Any]:
        shown = self.jobs.get(TrainingJobName)
        return self._next("DescribeTrainingJob", shown, "training job", TrainingJobName)

    def _StopTrainingJob(self, TrainingJobName: str) -> dict[str, Any]:
        last = self.jobs[TrainingJobName][-1]
        stopped = {"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped"}
        self.jobs[TrainingJobName] = [{**last, **stopped}]
        return {}

    def tuning(self, name: str, request: dict[str, Any], **state: Any) -> dict[str, Any]:
        scored = [trial for trial in self.summaries[name] if trial["ObjectiveStatus"] == "Succeeded"]
        metric = "FinalHyperParameterTuningJobObjectiveMetric"
        best = max(scored, key=lambda trial: trial[metric]["Value"], default=None)
        return {
            **{key: value for key, value in request.items() if key != "Tags"},
            "HyperParameterTuningJobName": name,
            "HyperParameterTuningJobArn": f"{ACCOUNT}:hyper-parameter-tuning-job/{name}",
            "HyperParameterTuningJobStatus": "Completed",
            **({} if best is None else {"BestTrainingJob": best}),
            **state,
        }

    def _CreateHyperParameterTuningJob(
        self, HyperParameterTuningJobName: str, **request: Any
    ) -> dict[str, Any]:
        name = HyperParameterTuningJobName
        if name in self.tunings:
            raise refusal("CreateHyperParameterTuningJob", "ResourceInUse", "Names must be unique.")
        self.summaries[name] = [
            {"TrainingJobName": made, "TrainingJobArn": f"{ACCOUNT}:training-job/{made}", **summary}
            for number, summary in enumerate(self.trials, 1)
            for made in [f"{name}-{number:03d}-0a1b2c3d"]
        ]
        self.tunings[name] = [self.tuning(name, request, **state) for state in self.next_tuning]
        definition = request["TrainingJobDefinition"]
        for summary in self.summaries[name]:
            status = summary["TrainingJobStatus"]
            described = self.job(summary["TrainingJobName"], definition, TrainingJobStatus=status)
            self.jobs[summary["TrainingJobName"]] = [described]
        return {"HyperParameterTuningJobArn": f"{ACCOUNT}:hyper-parameter-tuning-job/{name}"}

    def _DescribeHyperParameterTuningJob(self, HyperParameterTuningJobName: str) -> dict[str, Any]:
        if HyperParameterTuningJobName not in self.tunings:
            said = f"Amazon SageMaker can't find a tuning job called {HyperParameterTuningJobName}."
            raise refusal("DescribeHyperParameterTuningJob", "ResourceNotFound", said)
        return self._next("", self.tunings[HyperParameterTuningJobName], "", "")

    def _ListTrainingJobsForHyperParameterTuningJob(
        self, HyperParameterTuningJobName: str, **_: Any
    ) -> dict[str, Any]:
        return {"TrainingJobSummaries": self.summaries[HyperParameterTuningJobName]}

    def _StopHyperParameterTuningJob(self, HyperParameterTuningJobName: str) -> dict[str, Any]:
        last = self.tunings[HyperParameterTuningJobName][-1]
        self.tunings[HyperParameterTuningJobName] = [{**last, "HyperParameterTuningJobStatus": "Stopped"}]
        return {}

    def _CreateModel(self, ModelName: str, **request: Any) -> dict[str, Any]:
        if ModelName in self.models:
            raise refusal("CreateModel", "ValidationException", "Cannot create already existing model")
        arn = f"{ACCOUNT}:model/{ModelName}"
        self.models[ModelName] = {"ModelName": ModelName, "ModelArn": arn, **request}
        return {"ModelArn": f"{ACCOUNT}:model/{ModelName}"}

    def _DescribeModel(self, ModelName: str) -> dict[str, Any]:
        found = self.models.get(ModelName)
        return self._next("DescribeModel", [found] if found else None, "model", ModelName)

    def _ListTags(self, ResourceArn: str) -> dict[str, Any]:
        made = {thing["ModelArn"]: thing for thing in self.models.values()}
        made |= {
            thing["EndpointConfigArn"]: thing
            for thing in self.configs.values()
            if "EndpointConfigArn" in thing
        }
        tags = [made[ResourceArn].get("Tags", [])] if ResourceArn in made else []
        return {"Tags": tags[0] if tags else []}

    def _AddTags(self, ResourceArn: str, Tags: list[dict[str, str]]) -> dict[str, Any]:
        [thing] = [one for one in self.configs.values() if one.get("EndpointConfigArn") == ResourceArn]
        new = {tag["Key"] for tag in Tags}
        thing["Tags"] = [tag for tag in thing.get("Tags", []) if tag["Key"] not in new] + Tags
        return {"Tags": thing["Tags"]}

    def _CreateEndpointConfig(self, EndpointConfigName: str, **request: Any) -> dict[str, Any]:
        if EndpointConfigName in self.configs:
            raise refusal("CreateEndpointConfig", "ValidationException", "Cannot create already existing …")
        arn = f"{ACCOUNT}:endpoint-config/{EndpointConfigName}"
        named = {"EndpointConfigName": EndpointConfigName, "EndpointConfigArn": arn}
        self.configs[EndpointConfigName] = {**named, **request}
        return {"EndpointConfigArn": arn}

    def _DescribeEndpointConfig(self, EndpointConfigName: str) -> dict[str, Any]:
        found = self.configs.get(EndpointConfigName)
        shown = [found] if found else None
        return self._next("DescribeEndpointConfig", shown, "endpoint configuration", EndpointConfigName)

    def _DescribeEndpoint(self, EndpointName: str) -> dict[str, Any]:
        return self._next("DescribeEndpoint", self.endpoints.get(EndpointName), "endpoint", EndpointName)

    def _CreateEndpoint(self, EndpointName: str, EndpointConfigName: str, **_: Any) -> dict[str, Any]:
        return self._UpdateEndpoint(EndpointName, EndpointConfigName)

    def _DeleteEndpoint(self, EndpointName: str) -> dict[str, Any]:
        self._DescribeEndpoint(EndpointName)
        del self.endpoints[EndpointName]
        return {}

    def _UpdateEndpoint(self, EndpointName: str, EndpointConfigName: str, **_: Any) -> dict[str, Any]:
        changed = MORNING + timedelta(minutes=len(self.calls))
        before = self.endpoints.get(EndpointName, [{}])[-1].get("EndpointConfigName", EndpointConfigName)
        self.endpoints[EndpointName] = [
            {
                "EndpointName": EndpointName,
                "EndpointConfigName": before,
                "LastModifiedTime": changed,
                **state,
            }
            for state in self.after_update(EndpointConfigName)
        ]
        return {"EndpointArn": f"{ACCOUNT}:endpoint/{EndpointName}"}

    def _InvokeEndpoint(self, **request: Any) -> dict[str, Any]:
        body = self.answer(request)
        return {"Body": StreamingBody(io.BytesIO(body), len(body)), "ContentType": "application/json"}


class TaskStore:
    """The task's store as a dictionary; hand the same one to two tries to play a retry."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

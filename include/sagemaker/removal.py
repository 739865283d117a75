"""Deletes what a plan lists, and only as it was when it was planned."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from include.sagemaker.errors import explain, is_busy, is_missing, is_permanent
from include.sagemaker.inventory import InUse, existing, files_of_model, in_use, models_of, seen
from include.sagemaker.storage import delete_objects, parse_s3_uri
from include.sagemaker.tear_down import ORDER, Clients, Kind, Plan, Thing, files_in, packages_in

WAIT_SECONDS = 900
DELETED, GONE = "deleted", "gone already"
ANEW, NEEDED = "it was made anew since the plan", "an endpoint still needs it"
log = logging.getLogger(__name__)


class NotYetError(Exception):
    """Something takes longer than this walk waits; another one finds it done."""


@dataclass
class Outcome:
    """What became of a plan.

    Attributes:
        deleted: What this call deleted or stopped, as `kind name`.
        gone: What was not there any more.
        left: What has changed since the plan, with the change.
        failed: What could not be deleted, with the reason.
        worth_retry: Whether another try may delete some of the latter.
    """

    deleted: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    worth_retry: bool = False


class Removal:
    """One walk through a plan; it goes on after a failure, and may be walked again.

    Args:
        clients: Of the account and region.
        plan: What was agreed to.
        poll_seconds: Pause between two looks at endpoints that are being deleted.
    """

    def __init__(self, clients: Clients, plan: Plan, poll_seconds: float) -> None:
        self._clients = clients
        self._client = clients.sagemaker
        self._plan = plan
        self._poll_seconds = poll_seconds

    def run(self) -> Outcome:
        """Deletes, in the plan's order."""
        outcome = Outcome()
        for kind in ORDER:
            for thing in self._plan.of(kind):
                self._remove(thing, outcome)
        return outcome

    def _remove(self, thing: Thing, outcome: Outcome) -> None:
        name = f"{thing.kind} {thing.name}"
        removers: Mapping[Kind, Callable[[Thing], str]] = {
            "tuning_job": self._stop_search,
            "training_job": self._stop_job,
            "endpoint": self._endpoint,
            "scalable_target": self._scalable_target,
            "endpoint_config": self._config,
            "model": self._model,
            "model_package": self._package,
            "model_package_group": self._group,
            "objects": self._files,
        }
        try:
            became = removers[thing.kind](thing)
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and is_missing(error):
                became = GONE
            else:
                outcome.failed[name] = explain(error)
                busy = isinstance(error, ClientError) and is_busy(error)
                outcome.worth_retry |= busy or not is_permanent(error)
                return
        except NotYetError as error:
            outcome.failed[name] = str(error)
            outcome.worth_retry = True
            return
        if became == DELETED:
            outcome.deleted.append(name)
        elif became == GONE:
            outcome.gone.append(name)
        else:
            outcome.left[name] = became

    def _stop_search(self, thing: Thing) -> str:
        told = self._client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=thing.name)
        if told["HyperParameterTuningJobStatus"] != "InProgress" or _is_another(thing, told):
            return GONE
        self._client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=thing.name)
        return DELETED

    def _stop_job(self, thing: Thing) -> str:
        told = self._client.describe_training_job(TrainingJobName=thing.name)
        if told["TrainingJobStatus"] != "InProgress" or _is_another(thing, told):
            return GONE
        self._client.stop_training_job(TrainingJobName=thing.name)
        return DELETED

    def _endpoint(self, thing: Thing) -> str:
        told = self._client.describe_endpoint(EndpointName=thing.name)
        if _is_another(thing, told):
            return ANEW
        if told["EndpointConfigName"] != thing.state:
            return f"it is on {told['EndpointConfigName']} now, and was on {thing.state}"
        self._client.delete_endpoint(EndpointName=thing.name)
        return DELETED

    def _scalable_target(self, thing: Thing) -> str:
        endpoint = thing.name.split("/")[0]
        # One that could not be deleted goes on answering, with as many machines as it takes.
        if self._status(endpoint) not in {None, "Deleting"}:
            return f"endpoint {endpoint} is still there"
        self._clients.scaling.deregister_scalable_target(
            ServiceNamespace="sagemaker", ResourceId=f"endpoint/{thing.name}", ScalableDimension=thing.state
        )
        return DELETED

    def _status(self, endpoint: str) -> str | None:
        told = existing(lambda: self._client.describe_endpoint(EndpointName=endpoint))
        return None if told is None else str(told["EndpointStatus"])

    @cached_property
    def _deadline(self) -> float:
        return time.monotonic() + WAIT_SECONDS

    @cached_property
    def _survivors(self) -> list[str]:
        """The planned endpoints that are there once all that are being deleted are gone."""
        endpoints = [thing.name for thing in self._plan.of("endpoint")]
        while "Deleting" in (found := {name: self._status(name) for name in endpoints}).values():
            if time.monotonic() > self._deadline:
                raise NotYetError(f"An endpoint is still being deleted after {WAIT_SECONDS} s.")
            time.sleep(self._poll_seconds)
        return [name for name, status in found.items() if status is not None]

    @cached_property
    def _in_use(self) -> InUse:
        """What the endpoints need that are still there; of others' what may be looked at."""
        if self._survivors:
            log.warning("Still there: %s.", ", ".join(self._survivors))
        return in_use(self._client)

    @cached_property
    def _artefacts(self) -> set[str]:
        """The files on S3 that the models of all endpoints were made from."""
        models = (seen(partial(self._client.describe_model, ModelName=name)) for name in self._in_use.models)
        return set().union(*(files_of_model(model or {}) for model in models))

    def _config(self, thing: Thing) -> str:
        if thing.name in self._in_use.configs:
            return "an endpoint is on it"
        told = self._client.describe_endpoint_config(EndpointConfigName=thing.name)
        if _is_another(thing, told):
            return ANEW
        # A shadow test, or an update that fails, goes back to it.
        if models_of(told) & self._in_use.models:
            return "an endpoint serves its model"
        self._client.delete_endpoint_config(EndpointConfigName=thing.name)
        return DELETED

    def _model(self, thing: Thing) -> str:
        if thing.name in self._in_use.models:
            return "an endpoint serves it"
        if _is_another(thing, self._client.describe_model(ModelName=thing.name)):
            return ANEW
        self._client.delete_model(ModelName=thing.name)
        return DELETED

    def _package(self, thing: Thing) -> str:
        told = self._client.describe_model_package(ModelPackageName=thing.name)
        if _is_another(thing, told):
            return ANEW
        containers = {"Containers": told.get("InferenceSpecification", {}).get("Containers", [])}
        if self._survivors or files_of_model(containers) & self._artefacts:
            return NEEDED
        self._client.delete_model_package(ModelPackageName=thing.name)
        return DELETED

    def _group(self, thing: Thing) -> str:
        told = self._client.describe_model_package_group(ModelPackageGroupName=thing.name)
        if _is_another(thing, told):
            return ANEW
        if any(True for _ in packages_in(self._client, thing.name)):
            return "it holds versions that were registered since the plan, or were not deleted"
        self._client.delete_model_package_group(ModelPackageGroupName=thing.name)
        return DELETED

    def _files(self, thing: Thing) -> str:
        if self._survivors or any(uri.startswith(f"{thing.name}/") for uri in self._artefacts):
            return NEEDED
        s3, (bucket, _) = self._clients.s3, parse_s3_uri(thing.name)
        made = datetime.fromisoformat(self._plan.made)
        old: list[str] = []
        later = 0
        for key, moment, _size in files_in(s3, thing.name):
            if moment <= made:
                old.append(key)
            else:
                later += 1
        delete_objects(s3, bucket, old)
        if later:
            return f"{later:,} files were written since the plan; the other {len(old):,} are deleted"
        return DELETED if old else GONE


def _is_another(planned: Thing, told: Mapping[str, Any]) -> bool:
    """Tells whether a thing of the planned one's name was made at another time."""
    created: datetime = told["CreationTime"]
    apart = created.astimezone(UTC) - datetime.fromisoformat(planned.created)
    return abs(apart.total_seconds()) >= 1

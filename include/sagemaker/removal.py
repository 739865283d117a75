"""Deletes what a plan lists, and only as it was when it was planned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from include.sagemaker.errors import explain, is_busy, is_missing, is_permanent
from include.sagemaker.inventory import configs_in_use, existing, models_of
from include.sagemaker.storage import parse_s3_uri
from include.sagemaker.tear_down import ORDER, Clients, Kind, Plan, Thing, files_in, packages_in

WAIT_SECONDS = 900
_AT_A_TIME = 1000  # DeleteObjects' own limit
DELETED, GONE = "deleted", "gone already"


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
            "scalable_target": self._scalable_target,
            "endpoint": self._endpoint,
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

    def _scalable_target(self, thing: Thing) -> str:
        endpoint = thing.name.split("/")[0]
        for planned in self._plan.of("endpoint"):
            if planned.name == endpoint and (changed := self._change_of(planned)):
                return changed
        self._clients.scaling.deregister_scalable_target(
            ServiceNamespace="sagemaker", ResourceId=f"endpoint/{thing.name}", ScalableDimension=thing.state
        )
        return DELETED

    def _endpoint(self, thing: Thing) -> str:
        if changed := self._change_of(thing):
            return changed
        self._client.delete_endpoint(EndpointName=thing.name)
        return DELETED

    def _change_of(self, planned: Thing) -> str:
        """Returns how an endpoint has changed since the plan; empty where it has not, or is gone."""
        told = existing(lambda: self._client.describe_endpoint(EndpointName=planned.name))
        if told is None:
            return ""
        if _is_another(planned, told):
            return "it was made anew since the plan"
        if told["EndpointConfigName"] != planned.state:
            return f"it is on {told['EndpointConfigName']} now, and was on {planned.state}"
        return ""

    @cached_property
    def _in_use(self) -> dict[str, set[str]]:
        """The configurations of the endpoints that are still there, with their models."""
        deadline = time.monotonic() + WAIT_SECONDS
        while any(self._is_being_deleted(thing.name) for thing in self._plan.of("endpoint")):
            if time.monotonic() > deadline:
                raise NotYetError(f"An endpoint is still being deleted after {WAIT_SECONDS} s.")
            time.sleep(self._poll_seconds)
        found: dict[str, set[str]] = {}
        for name in configs_in_use(self._client):
            config = existing(partial(self._client.describe_endpoint_config, EndpointConfigName=name))
            found[name] = models_of(config or {})
        return found

    def _is_being_deleted(self, endpoint: str) -> bool:
        told = existing(lambda: self._client.describe_endpoint(EndpointName=endpoint))
        return told is not None and told["EndpointStatus"] == "Deleting"

    def _config(self, thing: Thing) -> str:
        if thing.name in self._in_use:
            return "an endpoint is on it"
        told = self._client.describe_endpoint_config(EndpointConfigName=thing.name)
        if _is_another(thing, told):
            return "it was made anew since the plan"
        self._client.delete_endpoint_config(EndpointConfigName=thing.name)
        return DELETED

    def _model(self, thing: Thing) -> str:
        if any(thing.name in models for models in self._in_use.values()):
            return "an endpoint serves it"
        if _is_another(thing, self._client.describe_model(ModelName=thing.name)):
            return "it was made anew since the plan"
        self._client.delete_model(ModelName=thing.name)
        return DELETED

    def _package(self, thing: Thing) -> str:
        self._client.delete_model_package(ModelPackageName=thing.name)
        return DELETED

    def _group(self, thing: Thing) -> str:
        if any(True for _ in packages_in(self._client, thing.name)):
            return "it holds versions that were registered since the plan, or could not be deleted"
        self._client.delete_model_package_group(ModelPackageGroupName=thing.name)
        return DELETED

    def _files(self, thing: Thing) -> str:
        s3, (bucket, _) = self._clients.s3, parse_s3_uri(thing.name)
        made = datetime.fromisoformat(self._plan.made)
        old: list[str] = []
        later = 0
        for key, moment, _size in files_in(s3, thing.name):
            if moment <= made:
                old.append(key)
            else:
                later += 1
        for start in range(0, len(old), _AT_A_TIME):
            keys = [{"Key": key} for key in old[start : start + _AT_A_TIME]]
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if refused := answer.get("Errors"):
                raise NotYetError(f"S3 did not delete {refused[0]['Key']}: {refused[0].get('Message', '')}")
        if later:
            return f"{later:,} files were written since the plan; the other {len(old):,} are deleted"
        return DELETED if old else GONE


def _is_another(planned: Thing, told: Mapping[str, Any]) -> bool:
    """Tells whether a thing of the planned one's name was made at another time."""
    created: datetime = told["CreationTime"]
    apart = created.astimezone(UTC) - datetime.fromisoformat(planned.created)
    return abs(apart.total_seconds()) >= 1

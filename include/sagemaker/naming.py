"""Names that are functions of content: the same inputs find the same job, model and configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

PREFIX = "pms"
# Jobs of the same inputs that may fail by themselves, and those of them all, stopped ones included: a name
# with two digits more still fits a tuning job.
MAX_ATTEMPTS, MAX_NAMES = 5, 99


def content_name(**content: object) -> str:
    """Returns `pms-<12 hex>` of JSON-ready content; the order of keywords does not matter."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{PREFIX}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def training_job_name(
    snapshot_id: str,
    code_sha: str,
    hyperparameters: Mapping[str, object],
    image: str,
    instance_type: str,
    instances: int = 1,
) -> str:
    """Returns the name of the job that trains this code on this snapshot.

    What changes nothing of what is learned is no part of it: spare capacity, network, key, tags, time.
    Values of hyper-parameters count by their text, as `train.py` gets them: 10 and "10" are one job.
    """
    return content_name(
        kind="training-job",
        snapshot_id=snapshot_id,
        code_sha=code_sha,
        hyperparameters={name: str(value) for name, value in hyperparameters.items() if value is not None},
        image=image,
        instance_type=instance_type,
        # As it was before there could be several, so that finished jobs are found again.
        **({} if instances == 1 else {"instances": instances}),
    )


def tuning_job_name(training_job: str, search: Mapping[str, object]) -> str:
    """Returns the name of the job that searches for the best variant of a training job.

    It leaves room for an attempt's number: SageMaker takes 32 characters, and names trials `<name>-001-…`.

    Args:
        training_job: Name of the job that would train once, with what is not searched.
        search: What is searched, how and how long, as in the request.
    """
    return content_name(kind="tuning-job", training_job=training_job, search=dict(search))


def attempt_name(job_name: str, attempt: int) -> str:
    """Returns the job name of an attempt, counted from 1; the first is the name itself.

    SageMaker never frees a job's name, so a job that failed is followed by `-2`, `-3`, …
    """
    return job_name if attempt == 1 else f"{job_name}-{attempt}"


def model_name(
    job_name: str,
    image: str,
    model_uri: str,
    environment: Mapping[str, str],
    role_arn: str,
    network: Mapping[str, object] | None = None,
) -> str:
    """Returns the name of the SageMaker model that serves a job's artefact."""
    return content_name(
        kind="model",
        job_name=job_name,
        image=image,
        model_uri=model_uri,
        environment=dict(environment),
        role_arn=role_arn,
        **({"network": dict(network)} if network else {}),
    )


def endpoint_config_name(content: Mapping[str, object]) -> str:
    """Returns the name of an endpoint configuration.

    Args:
        content: All that CreateEndpointConfig is asked for, besides name and tags.
    """
    return content_name(kind="endpoint-config", content=dict(content))


def ephemeral_endpoint_name(endpoint: str, job_name: str, run_id: str) -> str:
    """Returns the name of the endpoint on which one run tests one model; it begins as the lasting one's."""
    digest = content_name(kind="ephemeral-endpoint", job_name=job_name, run_id=run_id)[len(PREFIX) + 1 :]
    return f"{endpoint}-{digest}"

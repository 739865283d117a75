"""What the registry is told of a model and its verdict: the CreateModelPackage request."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from itertools import islice
from typing import Any

from include.contracts import Approval, TrainedModel, Verdict
from include.sagemaker.naming import content_name
from include.sagemaker.registry import HYPERPARAMETER, METRIC, OVERRIDDEN, OVERRULED, clean_text

# SageMaker's own limits.
MOST_FACTS, MOST_KEY, MOST_VALUE = 50, 128, 256
_FACT_MARKS = frozenset("_.:/=+-@")
# Rules of `rules.yaml` on the clock: whether they warn depends on how busy the gate's worker was.
TIMED = "answers_in_time"
_SUBMIT_DIRECTORY = "sagemaker_submit_directory"


def entry_of(group: str, trained: TrainedModel, verdict: Verdict, model_name: str) -> str:
    """Returns the identity of a verdict in a group.

    Everything that a person's answer rests on is part of it: another measure, another live model or another
    warning is another entry, which is asked about anew. What the gate times anew on every run is none of it,
    so that a gate that is cleared and comes to the same end is the same entry.
    """
    warned = {check.name for check in verdict.checks if check.status == "warned"}
    return content_name(
        kind="model-package",
        group=group,
        model_uri=trained.model_uri,
        model_name=model_name,
        report_uri=verdict.report_uri,
        rules_version=verdict.rules_version,
        approved=verdict.approved,
        override_reason=verdict.override_reason,
        failures=sorted(check.name for check in verdict.failures),
        warned=sorted(name for name in warned if not name.startswith(TIMED)),
        metrics=_metrics(verdict),
        champion=verdict.champion and verdict.champion.model_uri,
    )


def package_request(
    group: str,
    trained: TrainedModel,
    verdict: Verdict,
    *,
    image: str,
    model_name: str,
    require_approval: bool,
    job: Mapping[str, Any],
    git_revision: str | None = None,
) -> dict[str, Any]:
    """Returns the CreateModelPackage request that keeps a model with its verdict.

    Args:
        group: Name of the model package group.
        trained: The model.
        verdict: The gate's decision about it.
        image: Serving image.
        model_name: The SageMaker model that a deploy makes of it.
        require_approval: Whether a person decides over what the gate approves.
        job: Description of the training job; empty where it is gone.
        git_revision: Revision of the project, where it is known.
    """
    entry = entry_of(group, trained, verdict, model_name)
    given = _given(job.get("HyperParameters", {}))
    champion = verdict.champion
    facts: dict[str, object] = {
        "entry": entry,
        "training_job": trained.job_name,
        "snapshot_id": trained.snapshot_id,
        "model_name": model_name,
        "data_until": trained.data_until,
        "trained_at": trained.trained_at,
        "decision": _decision(verdict),
        "rules_version": verdict.rules_version,
        "card_uri": verdict.card_uri,
        "git_revision": git_revision,
        "source_uri": given.pop(_SUBMIT_DIRECTORY, None),
        "instance_type": job.get("ResourceConfig", {}).get("InstanceType"),
        "tuning_job": trained.tuning and trained.tuning.job_name,
        "champion": champion and (champion.job_name or champion.model_name),
        **{f"{METRIC}{name}": text for name, text in _metrics(verdict).items()},
        **{f"{HYPERPARAMETER}{name}": value for name, value in given.items()},
    }
    return {
        "ModelPackageGroupName": group,
        "ModelPackageDescription": clean_text(f"{trained.job_name}: {_said(verdict)}"),
        "InferenceSpecification": {
            "Containers": [{"Image": image, "ModelDataUrl": trained.model_uri}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        "ModelApprovalStatus": first_approval(verdict, require_approval),
        "MetadataProperties": {
            "GeneratedBy": trained.job_arn,
            **({"CommitId": git_revision} if git_revision else {}),
        },
        "ModelMetrics": {
            "ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": verdict.report_uri}}
        },
        "CustomerMetadataProperties": _facts(facts),
        "ClientToken": entry,
    }


def first_approval(verdict: Verdict, require_approval: bool) -> Approval:
    """Returns what a model is registered as: the gate's word, or pending where a person has the last one."""
    if not verdict.approved:
        return "Rejected"
    return "PendingManualApproval" if require_approval else "Approved"


def _metrics(verdict: Verdict) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in verdict.metrics.items()}


def _decision(verdict: Verdict) -> str:
    if verdict.override_reason:
        return OVERRULED
    return "approved" if verdict.approved else "rejected"


def _said(verdict: Verdict) -> str:
    if verdict.override_reason:
        return f"{OVERRIDDEN}{verdict.override_reason}"
    if verdict.approved:
        return "no rule of the gate failed."
    return "failed " + ", ".join(check.name for check in verdict.failures)


def _given(hyperparameters: Mapping[str, str]) -> dict[str, str]:
    """Returns hyper-parameters as text: script mode has every value as JSON."""
    values: dict[str, str] = {}
    for name, text in hyperparameters.items():
        try:
            value = json.loads(text)
        except ValueError:
            value = text  # of a job that another tool made
        if name == _SUBMIT_DIRECTORY or not name.startswith(("sagemaker_", "_")):
            values[name] = str(value)
    return values


def _facts(facts: Mapping[str, object]) -> dict[str, str]:
    """Returns what fits of the facts, the first ones first; report and verdict have them all."""
    texts = {key: str(value) for key, value in facts.items() if value is not None}
    fitting = {k: v for k, v in texts.items() if _fits(k, MOST_KEY) and _fits(v, MOST_VALUE)}
    return dict(islice(fitting.items(), MOST_FACTS))


def _fits(text: str, most: int) -> bool:
    letters = all(mark in _FACT_MARKS or unicodedata.category(mark)[0] in "LNZ" for mark in text)
    return 0 < len(text) <= most and letters

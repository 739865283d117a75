"""A shadow test: the configuration that copies live traffic to a challenger, and what came of it.

SageMaker answers from the production variant alone; the shadow variant's answers go nowhere but into data
capture and CloudWatch. An endpoint has at most one shadow variant, and then one production variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from include.contracts import ShadowVariant, TrainedModel
from include.sagemaker.disks import has_own_disk
from include.sagemaker.endpoint import CAPTURED, data_capture, production_variant, project_tags
from include.sagemaker.naming import endpoint_config_name
from include.sagemaker.scaling import wants_scaling
from include.settings import Settings

SHADOW = "Shadow"
# Tag of a shadow test's configuration: the one that was live before.
SHADOW_OF = "shadow_of"
# Within `captured/`, so that the role may write there and the bucket forgets it.
FOLDER = f"{CAPTURED}/shadow"
# The share of errors beyond the live model's own above which a challenger does not go live, where they are
# at least so many: fewer may be any machine's bad moment.
MOST_ERRORS = 0.01
FEWEST_ERRORS = 5
# Of how new the live model is, and where it is from: whoever asks the endpoint's configuration means it.
_KEPT_TAGS = ("training_job", "snapshot_id", "data_until", "trained_at")
_KEPT = ("KmsKeyId", "ExecutionRoleArn", "VpcConfig", "EnableNetworkIsolation")
_PERIOD_SECONDS = 60


def why_not(live: Mapping[str, Any], settings: Settings) -> str | None:
    """Returns why SageMaker can copy no traffic of a live configuration; None where it can.

    Args:
        live: Its description.
        settings: Machines of the challenger.
    """
    variants = live.get("ProductionVariants", [])
    if len(variants) != 1 or live.get("AsyncInferenceConfig"):
        return "what is live is not one variant that answers at once"
    if variants[0].get("ServerlessConfig"):
        return "what is live is serverless"
    if not variants[0].get("ModelName"):
        return "what is live names no model"
    if live.get("ShadowProductionVariants"):
        return "what is live has a shadow of its own"
    if live.get("ExplainerConfig"):
        return "what is live explains its answers"
    if live.get("KmsKeyId") and has_own_disk(settings.endpoint_instance_type):
        machine = settings.endpoint_instance_type
        return f"what is live has a key for its disks, and SageMaker takes none for those of {machine}"
    return None


def shadow_config_request(
    live: Mapping[str, Any],
    live_tags: Iterable[Mapping[str, str]],
    trained: TrainedModel,
    model: str,
    settings: Settings,
) -> dict[str, Any]:
    """Returns the CreateEndpointConfig request of a shadow test, named after its content.

    Customers are served as before: the production variant is the live one. All requests and both answers
    are captured, which replaces the live configuration's own capture for as long.

    Args:
        live: Description of the live configuration; `why_not` has nothing against it.
        live_tags: Its tags.
        trained: The challenger.
        model: SageMaker's model of it.
        settings: Machines of the challenger, place on S3 and tags.
    """
    [production] = live["ProductionVariants"]
    # As much weight as the production variant has: SageMaker copies that share of the requests, all.
    weight = {"InitialVariantWeight": production.get("InitialVariantWeight", 1.0)}
    machines = {"InitialInstanceCount": _machines(production, settings)}
    content = {
        "ProductionVariants": [dict(production)],
        "ShadowProductionVariants": [
            {**production_variant(model, settings), **weight, **machines, "VariantName": SHADOW}
        ],
        "DataCaptureConfig": data_capture(settings, 100, FOLDER),
        **{name: live[name] for name in _KEPT if live.get(name)},
    }
    told = {tag["Key"]: tag["Value"] for tag in live_tags}
    kept = {name: told.get(name) for name in _KEPT_TAGS}
    before = str(live["EndpointConfigName"])
    origin = {SHADOW_OF: before, "shadow_job": trained.job_name}
    return {
        # What it copies of is all that one knows of where to go back to: two that differ in nothing else,
        # such as their own capture, are two tests.
        "EndpointConfigName": endpoint_config_name({**content, SHADOW_OF: before}),
        **content,
        "Tags": project_tags(settings, **kept, **origin),
    }


def _machines(production: Mapping[str, Any], settings: Settings) -> int:
    """Returns as many machines as may answer the live traffic: autoscaling gives a shadow none besides."""
    most = settings.endpoint_max_instances if wants_scaling(settings) else 1
    return max(settings.endpoint_instance_count, most, int(production.get("InitialInstanceCount", 1)))


def shadow_of(tags: Iterable[Mapping[str, str]]) -> str | None:
    """Returns the configuration that was live before a shadow test, by the tags of the test's own."""
    return next((tag["Value"] for tag in tags if tag["Key"] == SHADOW_OF), None)


def measure(cloudwatch: Any, endpoint: str, variant: str, start: datetime, end: datetime) -> ShadowVariant:
    """Returns what CloudWatch counted of a variant.

    CloudWatch begins with the whole minute, so that up to a minute of the live variant's requests from before
    is counted with them.

    Args:
        cloudwatch: boto3 CloudWatch client.
        endpoint: Name of the endpoint.
        variant: Name of the variant.
        start: Begin of the test.
        end: End of it.
    """
    asked = {
        "requests": ("Invocations", "Sum"),
        "model_errors": ("InvocationModelErrors", "Sum"),
        "server_errors": ("Invocation5XXErrors", "Sum"),
        "latency": ("ModelLatency", "Sum"),
        "answers": ("ModelLatency", "SampleCount"),
        "slowest": ("ModelLatency", "Maximum"),
    }
    dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
    queries = [
        {
            "Id": name,
            "MetricStat": {
                "Metric": {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": dimensions},
                "Period": _PERIOD_SECONDS,
                "Stat": statistic,
            },
        }
        for name, (metric, statistic) in asked.items()
    ]
    found: dict[str, list[float]] = {name: [] for name in asked}
    pages = cloudwatch.get_paginator("get_metric_data")
    for page in pages.paginate(MetricDataQueries=queries, StartTime=start, EndTime=end):
        for result in page["MetricDataResults"]:
            found[result["Id"]] += result["Values"]
    answers, slowest = sum(found["answers"]), found["slowest"]
    return ShadowVariant(
        requests=round(sum(found["requests"])),
        # A model that does not answer at all may be in either.
        errors=round(max(sum(found["model_errors"]), sum(found["server_errors"]))),
        latency_ms=sum(found["latency"]) / answers / 1000 if answers else None,
        slowest_ms=max(slowest) / 1000 if slowest else None,
    )


def judge(live: ShadowVariant, challenger: ShadowVariant) -> tuple[bool, str]:
    """Decides whether a challenger may go live, and says why.

    What customers ask wrongly is an error of both, hence the difference. Other answers than the live model's
    are what a new model is for: the gate has judged them, and the card shows them.
    """
    if not challenger.requests:
        if live.requests:
            seen = f"None of the live model's {live.requests:,} requests was seen at the new one"
            return True, f"{seen}: nothing was compared."
        return True, "No request came during the test: nothing was compared."
    # Of as many requests as the challenger got.
    copied = min(1.0, challenger.requests / live.requests) if live.requests else 1.0
    extra = challenger.errors - live.errors * copied
    told = (
        f"{challenger.errors:,} of {challenger.requests:,} copied requests failed, {live.errors:,} of "
        f"{live.requests:,} of the live model"
    )
    if extra / challenger.requests <= MOST_ERRORS:
        return True, f"{told}."
    if extra < FEWEST_ERRORS and challenger.errors < challenger.requests:
        return True, f"{told}: too few to hold against it."
    return False, f"{told}: more than {MOST_ERRORS:.0%} above it."

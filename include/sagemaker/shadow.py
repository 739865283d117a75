"""A shadow test: the configuration that copies live traffic to a challenger, and what came of it.

SageMaker answers from the production variant alone; the shadow variant's answers go nowhere but into data
capture and CloudWatch. An endpoint has at most one shadow variant, and then one production variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from include.contracts import ShadowVariant, TrainedModel
from include.sagemaker.endpoint import CAPTURED, data_capture, production_variant, project_tags
from include.sagemaker.naming import endpoint_config_name
from include.settings import Settings

SHADOW = "Shadow"
# Tag of a shadow test's configuration: the one that was live before.
SHADOW_OF = "shadow_of"
# Within `captured/`, so that the role may write there and the bucket forgets it.
FOLDER = f"{CAPTURED}/shadow"
# The share of errors above which, and above the live model's own, a challenger does not go live.
MOST_ERRORS = 0.01
# Of how new the live model is, and where it is from: whoever asks the endpoint's configuration means it.
_KEPT_TAGS = ("training_job", "snapshot_id", "data_until", "trained_at")
_KEPT = ("KmsKeyId", "ExecutionRoleArn", "VpcConfig", "EnableNetworkIsolation")
_PERIOD_SECONDS = 60


def why_not(live: Mapping[str, Any]) -> str | None:
    """Returns why SageMaker can copy no traffic of a live configuration; None where it can.

    Args:
        live: Its description.
    """
    variants = live.get("ProductionVariants", [])
    if len(variants) != 1 or live.get("AsyncInferenceConfig"):
        return "what is live is not one variant that answers at once"
    if variants[0].get("ServerlessConfig"):
        return "what is live is serverless"
    if not variants[0].get("ModelName"):
        return "what is live names no model"
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
    content = {
        "ProductionVariants": [dict(production)],
        "ShadowProductionVariants": [
            {**production_variant(model, settings), **weight, "VariantName": SHADOW}
        ],
        "DataCaptureConfig": data_capture(settings, 100, FOLDER),
        **{name: live[name] for name in _KEPT if live.get(name)},
    }
    told = {tag["Key"]: tag["Value"] for tag in live_tags}
    kept = {name: told.get(name) for name in _KEPT_TAGS}
    origin = {SHADOW_OF: str(live["EndpointConfigName"]), "shadow_job": trained.job_name}
    return {
        "EndpointConfigName": endpoint_config_name(content),
        **content,
        "Tags": project_tags(settings, **kept, **origin),
    }


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
        return True, "No request came during the test: nothing was compared."
    more = challenger.error_share - live.error_share
    told = (
        f"{challenger.errors:,} of {challenger.requests:,} copied requests failed, {live.errors:,} of "
        f"{live.requests:,} of the live model"
    )
    if more > MOST_ERRORS:
        return False, f"{told}: more than {MOST_ERRORS:.0%} above it."
    return True, f"{told}."

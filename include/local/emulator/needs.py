"""What a request needs of IAM: which actions, on which resources, under which conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote
from xml.etree import ElementTree

from include.local.emulator.resources.store import ACCOUNT_ID
from include.local.emulator.wire import calls
from include.local.emulator.wire.errors import AwsError

PASS_ROLE = "iam:PassRole"
SAGEMAKER = "sagemaker.amazonaws.com"
_ANY = "*"

_KINDS = {
    "TrainingJobName": "training-job",
    "HyperParameterTuningJobName": "hyper-parameter-tuning-job",
    "ModelName": "model",
    "EndpointConfigName": "endpoint-config",
    "EndpointName": "endpoint",
    "ModelPackageGroupName": "model-package-group",
    "ModelPackageName": "model-package",
    "ResourceArn": "",
}
# The other lists are of everything.
_LISTS_OF_ONE = {"ListTags", "ListTrainingJobsForHyperParameterTuningJob"}
_S3_ACTIONS = {
    "CompleteMultipartUpload": "PutObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListBuckets": "ListAllMyBuckets",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListParts": "ListMultipartUploadParts",
    "UploadPart": "PutObject",
    "UploadPartCopy": "PutObject",
}


@dataclass(frozen=True)
class Need:
    """One thing that the caller has to be allowed.

    Attributes:
        action: As policies have it, such as `sagemaker:CreateTrainingJob`.
        resource: ARN of what it is done to, `*` where the action knows no resource.
        context: Condition keys and their values.
    """

    action: str
    resource: str = _ANY
    context: Mapping[str, str] = field(default_factory=dict)


def needs_of(environ: dict[str, Any], operation: str, region: str) -> Iterator[Need]:
    """Yields all that a request needs.

    Args:
        environ: The request.
        operation: Its operation, as `calls.operation_of` names it.
        region: Region of the caller.
    """
    service, _, action = operation.rpartition(":")
    if operation == calls.INVOKE:
        yield Need("sagemaker:InvokeEndpoint", _arn(region, "endpoint", environ["PATH_INFO"].split("/")[2]))
    elif not service:
        yield from _sagemaker(action, calls.decoded(environ), region)
    elif service == "s3":
        yield from _s3(environ, action)
    elif operation == "sts:AssumeRole":
        yield Need(operation, parse_qs(calls.peek(environ).decode())["RoleArn"][0])
    elif operation != "sts:GetCallerIdentity":  # which nobody can be denied
        request = calls.decoded(environ) if "HTTP_X_AMZ_TARGET" in environ else {}
        for resource in _others(service, request, region):
            yield Need(operation, resource, _context(service, request))


def _sagemaker(action: str, request: dict[str, Any], region: str) -> Iterator[Need]:
    resources = [_arn(region, kind, str(request[name])) for name, kind in _KINDS.items() if name in request]
    if action.startswith("List") and action not in _LISTS_OF_ONE:
        resources = []
    if action == "CreateModelPackage":
        # Its number is not known yet.
        resources.append(_arn(region, "model-package", f"{request.get('ModelPackageGroupName')}/*"))
    for resource in resources or [_ANY]:
        yield Need(f"sagemaker:{action}", resource)
        if action.startswith("Create") and request.get("Tags"):
            yield Need("sagemaker:AddTags", resource)
    for part in (request, request.get("TrainingJobDefinition") or {}):
        for name in ("RoleArn", "ExecutionRoleArn"):
            if name in part:
                yield Need(PASS_ROLE, str(part[name]), {"iam:PassedToService": SAGEMAKER})


def _arn(region: str, kind: str, name: str) -> str:
    return name if name.startswith("arn:") else f"arn:aws:sagemaker:{region}:{ACCOUNT_ID}:{kind}/{name}"


def _s3(environ: dict[str, Any], operation: str) -> Iterator[Need]:
    bucket, key = calls.s3_target(environ)
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    action = f"s3:{_S3_ACTIONS.get(operation, operation)}"
    context = {"s3:prefix": query["prefix"]} if "prefix" in query else {}
    if operation == "DeleteObjects":
        yield from (Need(action, f"arn:aws:s3:::{bucket}/{key}") for key in _keys(calls.peek(environ)))
        return
    where = f"{bucket}/{key}" if key else bucket
    yield Need(action, f"arn:aws:s3:::{where}" if where else _ANY, context)
    if source := environ.get("HTTP_X_AMZ_COPY_SOURCE"):
        yield Need("s3:GetObject", f"arn:aws:s3:::{unquote(source).lstrip('/')}")


def _keys(body: bytes) -> Iterator[str]:
    """Yields the keys that DeleteObjects names.

    Raises:
        AwsError: `MalformedXML`, it cannot be told which.
    """
    try:
        named = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise AwsError("MalformedXML", f"The XML you provided was not well-formed: {error}") from error
    for entry in named.iterfind("{*}Object/{*}Key"):
        yield entry.text or ""


def _others(service: str, request: dict[str, Any], region: str) -> list[str]:
    """Returns the resources of requests to CloudWatch and its logs; every other one is about all there is."""
    if service == "logs" and "logGroupName" in request:
        stream = request.get("logStreamName", "")
        group = f"arn:aws:logs:{region}:{ACCOUNT_ID}:log-group:{request['logGroupName']}"
        return [f"{group}:log-stream:{stream}"]
    if service == "cloudwatch":
        names = [request["AlarmName"]] if "AlarmName" in request else request.get("AlarmNames", [])
        return [f"arn:aws:cloudwatch:{region}:{ACCOUNT_ID}:alarm:{name}" for name in names] or [_ANY]
    return [_ANY]


def _context(service: str, request: dict[str, Any]) -> dict[str, str]:
    if service == "application-autoscaling" and "ServiceNamespace" in request:
        return {"application-autoscaling:service-namespace": request["ServiceNamespace"]}
    return {}

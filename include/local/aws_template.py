"""Deploys `include/cloud/aws.yaml` on the emulator: a laptop's bucket, roles and alarms are AWS's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from include.local.emulator.machine import storage
from include.settings import Settings

TEMPLATE = Path(__file__).resolve().parent.parent / "cloud" / "aws.yaml"
STACK_NAME = "post-modern-stack"


def parameters(settings: Settings) -> dict[str, str]:
    """Returns the template's parameters that are settings."""
    return {
        "BucketName": settings.bucket,
        "Prefix": f"{settings.prefix}/" if settings.prefix else "",
        "EndpointName": settings.endpoint_name,
        "ModelPackageGroup": settings.model_package_group,
    }


def deploy(aws_url: str, given: dict[str, str], region: str = "us-east-1") -> dict[str, str]:
    """Creates the stack or brings it up to date; safe to repeat.

    Args:
        aws_url: Address of the emulator.
        given: Parameters of the template; the others keep their defaults.
        region: Region of the stack.

    Returns:
        The stack's outputs.

    Raises:
        ClientError: CloudFormation refused the template.
    """
    client = storage.client("cloudformation", aws_url, region)
    request: dict[str, Any] = {
        "StackName": STACK_NAME,
        "TemplateBody": TEMPLATE.read_text(encoding="utf-8"),
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
    }
    try:
        client.create_stack(**request)
    except client.exceptions.AlreadyExistsException:
        if not _is_deployed(client, request["TemplateBody"], given):
            _update(client, request)
    [stack] = client.describe_stacks(StackName=STACK_NAME)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def _is_deployed(client: Any, template: str, given: dict[str, str]) -> bool:
    """Tells whether the stack is this one already: the emulator keeps each update for good."""
    [stack] = client.describe_stacks(StackName=STACK_NAME)["Stacks"]
    told = {entry["ParameterKey"]: entry["ParameterValue"] for entry in stack.get("Parameters", [])}
    return (
        stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
        and given.items() <= told.items()
        and client.get_template(StackName=STACK_NAME)["TemplateBody"] == template
    )


def _update(client: Any, request: dict[str, Any]) -> None:
    try:
        client.update_stack(**request)
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise

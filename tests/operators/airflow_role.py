"""What the Airflow role of `include/cloud/aws.yaml` may do."""

from __future__ import annotations

from functools import lru_cache

from cfnlint.decode import decode

from include.local.aws_template import TEMPLATE

_PREFIXES = {"sagemaker-runtime": "sagemaker"}


@lru_cache(maxsize=1)
def allowed_actions() -> frozenset[str]:
    """Actions that some policy of the role allows, on whatever."""
    template, faults = decode(str(TEMPLATE))
    assert template is not None and not faults
    return frozenset(
        action
        for resource in template["Resources"].values()
        if {"Ref": "AirflowRole"} in resource["Properties"].get("Roles", [])
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]
        for action in (
            statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        )
    )


def assert_allowed(service: str, operation: str) -> None:
    """Fails where the role could not call the operation at all."""
    action = f"{_PREFIXES.get(service, service)}:{operation}"
    assert action in allowed_actions(), f"include/cloud/aws.yaml does not allow {action} to the Airflow role"

"""Who may do what, by the policies that moto's IAM keeps: for an emulator that is told to enforce them.

The caller is whose access key signed the request: a user's, or that of an assumed role. A key that looks like
none of AWS's (`local`) is the administrator's, for somebody has to make the first role. Signatures are not
checked, nor are policies of buckets and keys, permission boundaries and session policies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from moto.iam.access_control import CreateAccessKeyFailure, IAMPolicy, create_access_key
from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from include.local.emulator.machine.storage import ACCESS_KEY
from include.local.emulator.needs import PASS_ROLE, SAGEMAKER, Need, needs_of
from include.local.emulator.resources.store import ACCOUNT_ID
from include.local.emulator.wire import calls
from include.local.emulator.wire.errors import AwsError, validation_error

_AWS_KEY = re.compile(r"A[KS]IA[A-Z0-9]{16}|LSIA[A-Z0-9]{16}")
_PARTITION = "aws"


def check(environ: dict[str, Any]) -> None:
    """Lets a request pass that its caller may make.

    Raises:
        AwsError: The caller is unknown or may not, in the words of the service that was asked.
    """
    signed = calls.signature(environ)
    if signed.access_key == ACCESS_KEY:
        return
    operation = calls.operation_of(environ) or ""
    if not signed.access_key:
        raise _refusal(operation, "MissingAuthenticationToken", "Request is missing Authentication Token")
    caller = _caller(environ, signed.access_key, operation)
    if caller is None:
        return
    statements = [_policy(policy) for policy in caller.collect_policies()]
    for need in needs_of(environ, operation, signed.region):
        denied = _denied(statements, need)
        if denied:
            raise _refusal(
                operation,
                "AccessDenied",
                f"User: {caller.arn} is not authorized to perform: {need.action} on resource: "
                f"{need.resource} {denied}",
            )
        if need.action == PASS_ROLE:
            _role_trusts_sagemaker(need.resource)


def _caller(environ: Mapping[str, Any], key: str, operation: str) -> Any:
    """Returns moto's record of who has the key; None for the administrator."""
    token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
    if token is None and not _AWS_KEY.fullmatch(key):
        return None
    headers = {"X-Amz-Security-Token": token} if token else {}
    try:
        caller = create_access_key(ACCOUNT_ID, _PARTITION, key, headers)
    except CreateAccessKeyFailure as failure:
        raise _refusal(
            operation, "InvalidToken", "The security token included in the request is invalid."
        ) from failure
    session = sts_backends[ACCOUNT_ID][_PARTITION].get_assumed_role_from_access_key(key)
    if session is not None and session.expiration.replace(tzinfo=UTC) < datetime.now(UTC):
        raise _refusal(operation, "ExpiredToken", "The security token included in the request is expired")
    return caller


def _policy(policy: Any) -> list[dict[str, Any]]:
    """Returns the statements of a policy, in whichever of its forms moto keeps it."""
    statements = IAMPolicy(policy)._policy_json["Statement"]
    return statements if isinstance(statements, list) else [statements]


def _denied(policies: Iterable[list[dict[str, Any]]], need: Need) -> str:
    """Returns why the policies do not allow what is needed; empty where they do."""
    effects = {
        str(statement["Effect"])
        for statements in policies
        for statement in statements
        if _covers(statement, need) and _holds(statement.get("Condition", {}), need.context)
    }
    if "Deny" in effects:
        return "with an explicit deny in an identity-based policy"
    return "" if effects else f"because no identity-based policy allows the {need.action} action"


# moto's own evaluation takes a condition that does not hold for a refusal, and knows no `?`.
def _covers(statement: Mapping[str, Any], need: Need) -> bool:
    """Tells whether a statement speaks of the action and the resource."""
    for element, value in (("Action", need.action.lower()), ("Resource", need.resource)):
        negated = f"Not{element}" in statement
        patterns = statement[f"Not{element}" if negated else element]
        listed = patterns if isinstance(patterns, list) else [patterns]
        wanted = [pattern.lower() for pattern in listed] if element == "Action" else listed
        if any(_like(value, pattern) for pattern in wanted) == negated:
            return False
    return True


def _like(value: str, pattern: str) -> bool:
    return fnmatchcase(value, pattern.replace("[", "[[]"))


_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda found, wanted: found == wanted,
    "StringLike": _like,
    "ArnLike": _like,
    "Bool": lambda found, wanted: found.lower() == wanted.lower(),
}


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    """Tells whether every condition of a statement holds.

    Raises:
        NotImplementedError: An operator is not one of those that the project's policies use.
    """
    for operator, keys in conditions.items():
        if operator not in _OPERATORS:
            raise NotImplementedError(f"the local emulator does not know the condition operator {operator}")
        for key, wanted in keys.items():
            values = wanted if isinstance(wanted, list) else [wanted]
            found = context.get(key)
            if found is None or not any(_OPERATORS[operator](found, str(value)) for value in values):
                return False
    return True


def _role_trusts_sagemaker(arn: str) -> None:
    """Makes sure that SageMaker can use a role which it is given.

    Raises:
        AwsError: `ValidationException`, there is no such role, or it trusts somebody else.
    """
    try:
        role = iam_backends[ACCOUNT_ID][_PARTITION].get_role_by_arn(arn)
    except NotFoundException:
        role = None
    if role is None or SAGEMAKER not in role.assume_role_policy_document:
        raise validation_error(
            f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
            f"'{SAGEMAKER}' to assume the role."
        )


_CODES = {
    "MissingAuthenticationToken": ("MissingAuthenticationTokenException", "AccessDenied"),
    "InvalidToken": ("UnrecognizedClientException", "InvalidAccessKeyId"),
    "ExpiredToken": ("ExpiredTokenException", "ExpiredToken"),
    "AccessDenied": ("AccessDeniedException", "AccessDenied"),
}


def _refusal(operation: str, what: str, message: str) -> AwsError:
    """Returns the error as the service of the operation calls it."""
    json_code, s3_code = _CODES[what]
    if operation.startswith("s3:"):
        return AwsError(s3_code, message, 400 if what == "ExpiredToken" else 403)
    if calls.is_query(operation):
        return AwsError("InvalidClientTokenId" if what == "InvalidToken" else what, message, 403)
    return AwsError(json_code, message, 403 if operation == calls.INVOKE else 400)

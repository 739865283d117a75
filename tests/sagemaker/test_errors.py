from __future__ import annotations

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from include.sagemaker.errors import explain, is_busy, is_existing, is_missing, is_permanent


def fault(code: str, message: str = "", status: int = 400) -> ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "Operation")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (fault("ExpiredTokenException"), True),
        (fault("InvalidClientTokenId", status=403), True),
        (fault("AccessDenied", status=403), True),
        (fault("403", "Forbidden", 403), True),
        (fault("ValidationException", "1 validation error"), True),
        (fault("ThrottlingException"), False),
        (fault("SlowDown", status=503), False),
        (fault("Anything", status=500), False),
        (fault("Anything", status=429), False),
        (fault("ResourceLimitExceeded", "limit 'ml.g5.xlarge for training' is 0 Instances"), True),
        (fault("ResourceLimitExceeded", "limit is 10 Instances, with current utilization of 10"), False),
        (NoCredentialsError(), True),
        (EndpointConnectionError(endpoint_url="http://x"), False),
        (ReadTimeoutError(endpoint_url="http://x"), False),
    ],
    ids=str,
)
def test_only_faults_that_time_may_mend_are_retried(
    error: ClientError | BotoCoreError, permanent: bool
) -> None:
    assert is_permanent(error) is permanent


@pytest.mark.parametrize(
    ("error", "missing", "existing"),
    [
        (fault("ValidationException", "Requested resource not found."), True, False),
        (fault("ValidationException", 'Could not find endpoint "x".'), True, False),
        (fault("ResourceNotFound"), True, False),
        (fault("404", status=404), True, False),
        (fault("ResourceInUse", "Training job names must be unique"), False, True),
        (fault("ValidationException", 'Cannot create already existing model "arn".'), False, True),
        (fault("ValidationException", "1 validation error detected"), False, False),
        (fault("AccessDeniedException", "not found or denied"), False, False),
    ],
    ids=str,
)
def test_absent_and_taken_names_are_told_apart(error: ClientError, missing: bool, existing: bool) -> None:
    assert (is_missing(error), is_existing(error)) == (missing, existing)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (fault("ExpiredToken"), "Renew the credentials"),
        (fault("AccessDenied"), "Allow Operation"),
        (fault("ResourceLimitExceeded"), "higher quota"),
        (NoCredentialsError(), "Give the AWS connection credentials"),
    ],
    ids=str,
)
def test_message_says_what_to_do(error: ClientError | BotoCoreError, advice: str) -> None:
    assert advice in explain(error)


@pytest.mark.parametrize(
    ("error", "busy"),
    [
        (fault("ValidationException", 'Cannot update in-progress endpoint "arn".'), True),
        (fault("ValidationException", "Could not find endpoint"), False),
        (fault("ThrottlingException", "in-progress"), False),
    ],
    ids=str,
)
def test_an_endpoint_that_is_being_changed_is_told_from_a_bad_request(error: ClientError, busy: bool) -> None:
    assert is_busy(error) is busy

"""What an error of AWS means for a pipeline: gone, already there, no use to retry, or worth another try."""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

_BAD_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
}
_DENIED = {"403", "AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"}
_WORTH_ANOTHER_TRY = {
    "BandwidthLimitExceeded",
    "ConflictException",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ResourceInUse",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottledException",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
}
_MISSING = {
    "404",
    "NoSuchBucket",
    "NoSuchKey",
    "NotFound",
    "ObjectNotFoundException",
    "ResourceNotFound",
    "ResourceNotFoundException",
}
_SAID_OF_THE_MISSING = ("could not find", "not found", "does not exist", "no scalable target found")
_LOCAL_AND_PERMANENT = (
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)


def error_code(error: ClientError) -> str:
    """Returns the error's code, empty where the answer had none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_message(error: ClientError) -> str:
    """Returns the service's own words."""
    return str(error.response.get("Error", {}).get("Message", "")) or str(error)


def is_missing(error: ClientError) -> bool:
    """Tells whether the error says that the thing asked about does not exist.

    SageMaker answers most such questions with a `ValidationException` whose text alone says so.
    """
    text = error_message(error).lower()
    return error_code(error) in _MISSING or (
        error_code(error) in {"ValidationException", "ValidationError"}
        and any(said in text for said in _SAID_OF_THE_MISSING)
    )


def is_denied(error: ClientError) -> bool:
    """Tells whether the identity of the connection may not do or see this."""
    return error_code(error) in _DENIED


def is_existing(error: ClientError) -> bool:
    """Tells whether a create call failed because the name is taken."""
    text = error_message(error).lower()
    if error_code(error) == "ResourceInUse":
        return True
    return error_code(error) in {"ValidationException", "ValidationError"} and (
        "already exist" in text or "cannot create already existing" in text
    )


def is_busy(error: ClientError) -> bool:
    """Tells whether a call was refused because the endpoint is being changed already."""
    return error_code(error) in {"ValidationException", "ValidationError", "ResourceInUse"} and (
        "in-progress" in error_message(error).lower() or "in progress" in error_message(error).lower()
    )


def is_permanent(error: ClientError | BotoCoreError) -> bool:
    """Tells whether the same call would fail again: credentials, permissions, a refused request.

    Throttling, answers of 5xx, full capacity and broken connections are worth another try.
    """
    if not isinstance(error, ClientError):
        return isinstance(error, _LOCAL_AND_PERMANENT)
    code = error_code(error)
    if code in _BAD_CREDENTIALS or code in _DENIED:
        return True
    if code == "ResourceLimitExceeded":
        # An account with no quota at all stays without; a quota in use comes free again.
        return " is 0 " in error_message(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
    return not (code in _WORTH_ANOTHER_TRY or status >= 500 or status == 429)


def explain(error: ClientError | BotoCoreError) -> str:
    """Returns a sentence that says what happened and, where it is known, what to do."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return f"{error} Give the AWS connection credentials, or the worker a role."
    if not isinstance(error, ClientError):
        return str(error)
    code, said = error_code(error), error_message(error)
    operation = f"{error.operation_name}: {code}: {said}"
    if code in _BAD_CREDENTIALS:
        return f"{operation} Renew the credentials of the AWS connection, then clear this task."
    if code in _DENIED:
        return f"{operation} Allow {error.operation_name} to the identity of the AWS connection."
    if code == "ResourceLimitExceeded":
        return f"{operation} Ask for a higher quota, or choose another instance type."
    return operation

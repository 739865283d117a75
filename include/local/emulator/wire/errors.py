"""Errors as SageMaker's API spells them."""

from __future__ import annotations


class AwsError(Exception):
    """An answer of the API that is not a success.

    Attributes:
        code: Error code, what boto3 shows as `Error.Code`.
        message: Text for the caller.
        status: HTTP status.
        details: Further members of the error's body, for errors that have some.
    """

    def __init__(self, code: str, message: str, status: int = 400, **details: str | int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.details = details

    def body(self) -> dict[str, str | int]:
        """Returns the JSON body; AWS spells `message` in either case, so both are there."""
        return {"__type": self.code, "message": self.message, "Message": self.message, **self.details}


def validation_error(message: str) -> AwsError:
    """Returns the error of a request that the service refuses for what it says."""
    return AwsError("ValidationException", message)


class JobFailure(Exception):
    """Ends a training job as Failed; the text becomes its FailureReason."""

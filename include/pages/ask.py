"""The *Try it* panel: one session to the live endpoint, and what came back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from pydantic import BaseModel, Field, ValidationError, model_validator

from include.sagemaker.errors import error_code, error_message, is_missing

ANSWERS = 10
MOST_SKUS = 100
LONGEST_PASTE = 16_000  # the text area takes 7,000, and a browser sends two characters for a line's end
MAX_ANSWER_BYTES = 1 << 20
LONGEST_REASON = 500


class Recommendations(BaseModel):
    """The endpoint's answer to one session, best product first."""

    skus: tuple[str, ...]
    scores: tuple[float, ...]
    fallback: str

    @model_validator(mode="after")
    def _a_score_each(self) -> Recommendations:
        if len(self.skus) != len(self.scores):
            raise ValueError("there must be a score for each product")
        return self


class _Answer(BaseModel):
    predictions: tuple[Recommendations, ...] = Field(min_length=1, max_length=1)


@dataclass(frozen=True)
class Form:
    """The panel: what was asked and what came back; neither before the first question.

    Attributes:
        session: The products asked with, oldest first.
        milliseconds: From request to answer, as seen from Airflow's web server.
        trouble: Why there is no answer.
    """

    endpoint: str
    session: Sequence[str] = ()
    answer: Recommendations | None = None
    milliseconds: float | None = None
    trouble: str | None = None

    @property
    def text(self) -> str:
        """The session as people paste it."""
        return "\n".join(sku.encode("utf-8", "replace").decode() for sku in self.session)

    @property
    def rows(self) -> list[tuple[str, float, float]]:
        """SKU, score, and the score's length beside the best one's, 0 to 1."""
        if self.answer is None:
            return []
        best = max((abs(score) for score in self.answer.scores), default=0.0) or 1.0
        pairs = zip(self.answer.skus, self.answer.scores, strict=True)
        return [(sku, score, min(1.0, max(0.0, score / best))) for sku, score in pairs]


def pasted(text: str) -> list[str]:
    """Returns the products of a pasted text, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def ask(runtime: Any, endpoint: str, session: Sequence[str]) -> Form:
    """Asks the endpoint for one session.

    Args:
        runtime: boto3 client of `sagemaker-runtime`.
        endpoint: Name of the endpoint.
        session: Products, oldest first; with none it answers what it would a newcomer.

    Raises:
        ClientError: AWS refused for a reason that is not the endpoint's.
        BotoCoreError: AWS could not be reached.
    """
    body = json.dumps({"instances": [{"session": list(session), "k": ANSWERS}]})
    began = time.perf_counter()
    try:
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint, ContentType="application/json", Accept="application/json", Body=body
        )
        content = answer["Body"].read(MAX_ANSWER_BYTES)
    except ClientError as error:
        return Form(endpoint, session, trouble=_trouble(error, endpoint))
    milliseconds = (time.perf_counter() - began) * 1000
    try:
        [prediction] = _Answer.model_validate_json(content).predictions
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
        return Form(endpoint, session, trouble=f"The endpoint's answer cannot be read: {reason}.")
    return Form(endpoint, session, prediction, milliseconds)


def _trouble(error: ClientError, endpoint: str) -> str:
    """Returns the endpoint's own reason; raises what is not its own."""
    if error_code(error) == "ModelError":
        return f"The model refused: {error_message(error)[:LONGEST_REASON]}"
    if is_missing(error):
        return f"Endpoint {endpoint} is not up (yet): a run of the pipeline deploys to it."
    raise error

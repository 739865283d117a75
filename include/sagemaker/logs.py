"""Follows the log of a training job in CloudWatch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from include.sagemaker.errors import is_missing
from include.sagemaker.training import LOG_GROUP

_PAGES_A_LOOK = 20


class JobLog:
    """The lines of one job, each handed out once.

    A log is a comfort, never a reason to fail: where it cannot be read, there are no new lines, and
    `trouble` says why.

    Args:
        client: boto3 client of CloudWatch Logs.
        job_name: The job whose streams are followed.
        keep: Number of last lines to remember.
        place: Where another reader of the same log stopped.
    """

    def __init__(
        self, client: Any, job_name: str, keep: int = 20, place: Mapping[str, str | None] | None = None
    ) -> None:
        self._client = client
        self._job_name = job_name
        self._tokens: dict[str, str | None] = dict(place or {})
        self._last: deque[str] = deque(maxlen=keep)
        self.trouble = ""

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines seen, oldest first."""
        return tuple(self._last)

    @property
    def place(self) -> dict[str, str | None]:
        """Where this reader stands in each stream, made of what JSON knows."""
        return dict(self._tokens)

    def new_lines(self) -> list[str]:
        """Returns the lines since the last call; none where log or stream are not there (yet)."""
        lines: list[str] = []
        try:
            self._find_streams()
            for stream in self._tokens:
                self._read(stream, lines)
        except ClientError as error:
            # Until the container writes there is no stream, and in a new account no group.
            self.trouble = "" if is_missing(error) else str(error)
        except BotoCoreError as error:
            self.trouble = str(error)
        self._last.extend(lines)
        return lines

    def _find_streams(self) -> None:
        # Asked at every look: each instance has a stream, and a job that was interrupted goes on in another.
        # The slash keeps `pms-x` from finding the streams of its next attempt `pms-x-2`.
        answer = self._client.describe_log_streams(
            logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self._job_name}/"
        )
        for stream in answer["logStreams"]:
            self._tokens.setdefault(stream["logStreamName"], None)

    def _read(self, stream: str, lines: list[str]) -> None:
        for _ in range(_PAGES_A_LOOK):
            token = self._tokens[stream]
            request: dict[str, Any] = {"nextToken": token} if token else {"startFromHead": True}
            answer = self._client.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, **request)
            lines += [str(event["message"]).rstrip() for event in answer["events"]]
            self._tokens[stream] = answer.get("nextForwardToken") or token
            if not answer["events"] or self._tokens[stream] == token:
                return

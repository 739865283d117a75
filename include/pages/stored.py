"""What the pages read through Airflow: XCom of a run, and the project's own files on S3."""

from __future__ import annotations

import json
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError

from include.sagemaker.errors import is_missing
from include.sagemaker.storage import parse_s3_uri
from include.settings import Settings, get_settings

# A reader waits for a page: better a clear refusal than a minute without an answer.
_PATIENCE = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2})
MAX_PAGE_BYTES = 64 << 20


class NotOursError(Exception):
    """An address outside the project's own folder."""


class GoneError(Exception):
    """What a run or a model points at is no longer there."""


def client(kind: str) -> Any:
    """Returns a boto3 client of the settings' AWS connection, such as `s3`."""
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    hook: Any = AwsBaseHook(aws_conn_id=get_settings().aws_conn_id, client_type=kind, config=_PATIENCE)
    return hook.get_conn()


def handed_over(dag_id: str, run_id: str, key: str, task_id: str | None = None) -> list[dict[str, Any]]:
    """Returns what tasks of a run handed over through XCom under a key; all tasks by default."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(run_id=run_id, dag_ids=dag_id, task_ids=task_id, key=key)
        values = [XComModel.deserialize_value(row) for row in session.scalars(query)]
    return [json.loads(value) if isinstance(value, str) else value for value in values]


def read_page(uri: str, folder: str) -> str:
    """Reads a page from S3.

    Args:
        uri: Its address, from outside.
        folder: The project's folder that it must lie in.

    Raises:
        NotOursError: It lies elsewhere.
        GoneError: It is no longer there.
    """
    settings = get_settings()
    if not is_ours(uri, folder, settings):
        raise NotOursError(f"This page is not among this project's {folder}.")
    return read_text(client("s3"), uri)


def is_ours(uri: str, folder: str, settings: Settings) -> bool:
    """Tells whether an address lies in one of the project's folders on S3."""
    return uri.startswith(f"{settings.home}/{folder}/")


def read_text(s3: Any, uri: str) -> str:
    """Reads an object as text.

    Raises:
        GoneError: It is not there, or far too large for a page.
    """
    bucket, key = parse_s3_uri(uri)
    try:
        answer = s3.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if is_missing(error):
            raise GoneError(f"{uri} is gone: somebody deleted it.") from error
        raise
    with answer["Body"] as body:
        if answer["ContentLength"] > MAX_PAGE_BYTES:
            raise GoneError(f"{uri} is larger than {MAX_PAGE_BYTES >> 20} MiB: read it from S3.")
        content: bytes = body.read()
    return content.decode("utf-8", "replace")

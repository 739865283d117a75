"""Buttons on a task: to AWS's console, and to the run's pages.

Airflow shows what stands in XCom under the link's key, and asks `get_link` for it once the task has ended.
A link that `leave` puts there is shown while the task runs, which is when a training job is looked at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink, Context

# AWS's partitions that have a console of their own.
_DOMAINS = {"aws": "aws.amazon.com", "aws-us-gov": "amazonaws-us-gov.com", "aws-cn": "amazonaws.cn"}


def console_url(meta: Any, place: str) -> str | None:
    """Returns the address of a place in SageMaker's console.

    Args:
        meta: A boto3 client's `meta`, which knows region, partition and endpoint.
        place: What stands behind the `#`.

    Returns:
        None where there is no console: behind an endpoint of one's own, such as the emulator's.
    """
    domain = _DOMAINS.get(meta.partition)
    host = str(meta.endpoint_url).partition("://")[2].partition("/")[0].partition(":")[0]
    if domain is None or not host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws")):
        return None
    region = quote(str(meta.region_name), safe="")
    return f"https://{region}.console.{domain}/sagemaker/home?region={region}#/{place}"


class ConsoleLink(BaseOperatorLink):
    """A place in SageMaker's console, as `leave` was told."""

    name: ClassVar[str]
    place: ClassVar[str]

    @classmethod
    def leave(cls, context: Context | Mapping[str, Any], client: Any, **names: str) -> None:
        """Makes the link known.

        Args:
            context: The task's.
            client: A boto3 client of the same account and region.
            **names: What the place is called.
        """
        place = cls.place.format(**{key: quote(name, safe="") for key, name in names.items()})
        url, task = console_url(client.meta, place), context.get("ti")
        if url and task is not None:
            task.xcom_push(key=cls().xcom_key, value=url)

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Returns what was left; empty where nothing was."""
        return str(ti_key.xcom_pull(task_ids=ti_key.task_id, key=self.xcom_key) or "")


class TrainingJobLink(ConsoleLink):
    """The training job, or the search, in AWS's console."""

    name = "Training job (AWS console)"
    place = "{kind}/{job}"


class EndpointLink(ConsoleLink):
    """The endpoint in AWS's console."""

    name = "Endpoint (AWS console)"
    place = "endpoints/{endpoint}"


class RegistryLink(ConsoleLink):
    """Where the model registry is shown: AWS has no address for a group outside one's own Studio."""

    name = "Model registry (SageMaker Studio)"
    place = "studio-landing"


class RunPageLink(BaseOperatorLink):
    """A tab of the run, relative to the folder of its host that Airflow is served from."""

    name: ClassVar[str]
    tab: ClassVar[str]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Returns the tab's address in Airflow."""
        return f"dags/{quote(ti_key.dag_id, safe='')}/runs/{quote(ti_key.run_id, safe='')}/plugin/{self.tab}"


class CardLink(RunPageLink):
    """The run's model card."""

    name = "Model card"
    tab = "model-card"


class DbtDocsLink(RunPageLink):
    """The run's dbt documentation."""

    name = "dbt docs"
    tab = "dbt-docs"

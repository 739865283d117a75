"""Lands raw shopping events in the warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Connection, Context

from include.contracts import BadInputError
from include.operators.guard import aws_faults
from include.settings import PROJECT_ROOT, get_settings
from include.warehouse.base import ConnectionInfo
from include.warehouse.connect import open_warehouse
from include.warehouse.loading import find_source


class LoadEventsOperator(BaseOperator):
    """Appends the files of a folder to the raw log, all of them or nothing, and returns the load's report.

    The same files twice are a no-op. Bad input fails the task at once, without retries; a locked warehouse
    is worth another try.

    Args:
        source: Folder with `browsing.csv[.gz]` and, optionally, `sku_to_content.csv[.gz]`; a relative path
            is relative to the project.
        tenant: Key of the rows; None for the setting's.
        max_sessions: Land only the first N sessions by time; None or empty for all.
        max_reject_share: Share of rejected rows above which nothing is landed; None for the setting's.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("source", "tenant", "max_sessions")

    def __init__(
        self,
        *,
        source: str,
        tenant: str | None = None,
        max_sessions: int | str | None = None,
        max_reject_share: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.tenant = tenant
        self.max_sessions = max_sessions
        self.max_reject_share = max_reject_share

    def execute(self, context: Context) -> dict[str, object]:
        """Loads; returns the report.

        Raises:
            AirflowFailException: The input cannot be used as it is, or a setting is wrong.
            OSError: The warehouse is locked or gone for now.
        """
        settings = get_settings()
        share = settings.max_reject_share if self.max_reject_share is None else self.max_reject_share
        with aws_faults(f"Load of {self.source}"):
            limit = optional_count("max_sessions", self.max_sessions)
            source = find_source(_absolute(str(self.source)))
            connection = ConnectionInfo.of(Connection.get(settings.warehouse_conn_id))
            with open_warehouse(connection, settings.warehouse_schema) as warehouse:
                report = warehouse.land(
                    source,
                    tenant=self.tenant or settings.tenant,
                    max_sessions=limit,
                    max_reject_share=share,
                )
        if report.already_loaded:
            self.log.info("%s landed before as %s: nothing to do.", self.source, report.etl_id)
        else:
            self.log.info(
                "%s events from %s to %s landed, %s rejected %s.",
                report.events_landed,
                report.first_event_date,
                report.last_event_date,
                report.events_rejected,
                report.rejected_by_reason,
            )
        return report.to_xcom()


def optional_count(name: str, value: int | str | None) -> int | None:
    """Reads a count that a template may have left empty.

    Raises:
        BadInputError: It is neither empty nor a positive whole number.
    """
    if value is None or str(value).strip() in {"", "None"}:
        return None
    try:
        count = int(str(value))
    except ValueError as error:
        raise BadInputError(f"{name} must be a whole number, not {value!r}.") from error
    if count < 1:
        raise BadInputError(f"{name} must be positive, not {count}.")
    return count


def _absolute(source: str) -> str | Path:
    return source if "://" in source else PROJECT_ROOT / source

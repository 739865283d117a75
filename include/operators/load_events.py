"""Lands raw shopping events in the warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import BaseOperator, Connection, Context

from include.assets import LANDED, RAW_EVENTS, RAW_PRODUCTS, RAW_SEARCHES
from include.contracts import BadInputError, LoadReport
from include.operators.connections import warehouse_info
from include.operators.guard import aws_faults, refuse_unknown_params
from include.settings import PROJECT_ROOT, Settings, get_settings
from include.warehouse.connect import open_warehouse
from include.warehouse.landing import loaded_dates
from include.warehouse.loading import find_source, is_on_s3
from include.warehouse.sources import SourceFiles


class LoadEventsOperator(BaseOperator):
    """Appends the files of a folder to the raw log, all of them or nothing, and returns the load's report.

    The same files twice are a no-op. Bad input fails the task at once, without retries; a locked warehouse
    is worth another try. Every table that got rows gets an asset event with tenant, load, dates and count,
    and the newest day of all that the tenant has; a later try tells of them again, as the one before may
    have died between landing and telling.

    Args:
        source: Folder, or `s3://bucket/prefix`, with `browsing.csv[.gz]` and, optionally,
            `sku_to_content.csv[.gz]` and `search.csv[.gz]`; a relative path is relative to the project.
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
        super().__init__(outlets=[LANDED], **kwargs)
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
        refuse_unknown_params(self, context)
        settings = get_settings()
        share = settings.max_reject_share if self.max_reject_share is None else self.max_reject_share
        with aws_faults(f"Load of {self.source}"):
            limit = optional_count("max_sessions", self.max_sessions)
            source = _find(str(self.source), settings)
            connection = warehouse_info(Connection.get(settings.warehouse_conn_id), context)
            with open_warehouse(connection, settings.warehouse_schema) as warehouse:
                report = warehouse.land(
                    source,
                    tenant=self.tenant or settings.tenant,
                    max_sessions=limit,
                    max_reject_share=share,
                )
                [(_, newest)] = warehouse.execute(loaded_dates(warehouse.dialect, report.tenant))
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
            if report.extra_columns:
                self.log.warning(
                    "Columns that no model knows, kept in raw_data: %s.", ", ".join(report.extra_columns)
                )
        # The pipeline keeps one endpoint, that of the setting's shop: no other shop's load may set it off. A
        # later try tells of what an earlier one may have died before telling.
        is_news = not report.already_loaded or context["ti"].try_number > 1
        if is_news and report.tenant == settings.tenant:
            _announce(report, str(newest), context)
        return report.to_xcom()


def _announce(report: LoadReport, newest_event_date: str, context: Context) -> None:
    """Adds an asset event for every table that got rows."""
    landed = (
        (RAW_EVENTS, report.events_landed),
        (RAW_PRODUCTS, report.products_landed),
        (RAW_SEARCHES, report.searches_landed),
    )
    for asset, rows in landed:
        if rows:
            context["outlet_events"][LANDED].add(
                asset,
                extra={
                    "tenant": report.tenant,
                    "etl_id": report.etl_id,
                    "first_event_date": report.first_event_date,
                    "last_event_date": report.last_event_date,
                    "newest_event_date": newest_event_date,
                    "rows": rows,
                },
            )


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


def _find(source: str, settings: Settings) -> SourceFiles:
    if is_on_s3(source):
        return find_source(source, AwsBaseHook(aws_conn_id=settings.aws_conn_id, client_type="s3").get_conn())
    if "://" in source:
        raise BadInputError(f"{source}: events are read from a folder or from s3://bucket/prefix.")
    return find_source(PROJECT_ROOT / source)

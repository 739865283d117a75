"""Exports the marts' sessions to S3 as an immutable snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import BaseOperator, Connection, Context
from airflow.sdk.exceptions import AirflowSkipException

from include import snapshots
from include.contracts import Snapshot
from include.operators.guard import aws_faults
from include.operators.load_events import optional_count
from include.settings import PROJECT_ROOT, Settings, get_settings
from include.warehouse.base import ConnectionInfo, ObjectStorage, Warehouse
from include.warehouse.connect import open_warehouse
from include.warehouse.unload import TEST_FROM, VALIDATION_FROM, Selection, UnloadRequest

if TYPE_CHECKING:
    from datetime import datetime

DBT_PROJECT = PROJECT_ROOT / "include" / "dbt"


class ExportSnapshotOperator(BaseOperator):
    """Writes train, validation, test and catalogue to S3, the manifest last, and returns the claim check.

    The snapshot's name is a function of its content: the same data and choices give the same snapshot, which
    is then used again. What a killed try left behind is removed first. An interval without sessions skips
    the task, and with it the rest of the run.

    Args:
        start_date: First day, ISO.
        end_date: Day after the last, ISO.
        max_sessions: Only the latest N sessions of the interval; None or empty for all.
        tenant: Whose sessions; None for the setting's.
        **kwargs: Arguments of the base operator.
    """

    # Not `start_date`: that name is Airflow's own, for when a task may first run.
    template_fields: Sequence[str] = ("window_start", "window_end", "max_sessions", "tenant")

    def __init__(
        self,
        *,
        start_date: str,
        end_date: str,
        max_sessions: int | str | None = None,
        tenant: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window_start = start_date
        self.window_end = end_date
        self.max_sessions = max_sessions
        self.tenant = tenant

    def execute(self, context: Context) -> dict[str, object]:
        """Exports; returns the snapshot.

        Raises:
            AirflowSkipException: The interval holds no session.
            AirflowFailException: Too few sessions for a split, missing marts, or a wrong setting.
            OSError: Warehouse or S3 are gone for now.
        """
        settings = get_settings()
        with aws_faults(f"Export of {self.window_start} to {self.window_end}"):
            request = UnloadRequest.parse(
                self.tenant or settings.tenant,
                str(self.window_start),
                str(self.window_end),
                optional_count("max_sessions", self.max_sessions),
            )
            connection = ConnectionInfo.of(Connection.get(settings.warehouse_conn_id))
            hook = AwsBaseHook(aws_conn_id=settings.aws_conn_id, client_type="s3")
            client = hook.get_conn()
            with open_warehouse(connection, settings.warehouse_schema) as warehouse:
                warehouse.prepare_unload(object_storage(hook))
                # One transaction from the first count to the last file: rows that arrive meanwhile
                # belong to the next snapshot.
                with warehouse.transaction():
                    selection = warehouse.select(request)
                    if not selection.sessions:
                        raise AirflowSkipException(
                            f"No session of {request.tenant!r} starts from {request.start_date} to before "
                            f"{request.end_date}: nothing to train on, and what is deployed stays."
                        )
                    selection.refuse_too_few()
                    snapshot = self._export(client, warehouse, request, selection, settings)
        self.log.info(
            "%s: %s training, %s validation and %s test sessions in %s.",
            snapshot.snapshot_id,
            snapshot.train_sessions,
            snapshot.validation_sessions,
            snapshot.test_sessions,
            snapshot.uri,
        )
        return snapshot.to_xcom()

    def _export(
        self,
        client: Any,
        warehouse: Warehouse,
        request: UnloadRequest,
        selection: Selection,
        settings: Settings,
    ) -> Snapshot:
        """Uses the snapshot again if it is whole, and writes it otherwise."""
        dbt_sha256 = snapshots.dbt_sha256(DBT_PROJECT)
        name = snapshots.snapshot_id(identity(request, selection, dbt_sha256))
        uri = snapshots.snapshot_uri(settings.bucket, settings.prefix, name)
        existing = snapshots.read_manifest(client, uri)
        if existing is not None:
            faults = snapshots.problems(client, uri, existing)
            if not faults:
                self.log.info("The same data were exported before: %s is used again.", uri)
                return existing.claim(uri)
            self.log.warning("%s is damaged and is written anew: %s.", uri, "; ".join(faults[:5]))
        if removed := snapshots.remove_leftovers(client, uri):
            self.log.info("Removed %s files of an unfinished export from %s.", removed, uri)
        parts = warehouse.unload(uri)
        rows = {part.uri.removeprefix(uri): part.rows for part in parts}
        manifest = snapshots.Manifest(
            snapshot_id=name,
            tenant=request.tenant,
            interval=snapshots.Interval(
                start=request.start_date.isoformat(), end=request.end_date.isoformat()
            ),
            split=snapshots.Split(
                validation_start=_utc(selection.boundaries["validation_start"]),
                test_start=_utc(selection.boundaries["test_start"]),
            ),
            counts=selection.counts,
            files=snapshots.describe_files(client, uri, rows),
            sql_sha256=selection.sql_sha256,
            dbt_manifest_sha256=dbt_sha256,
            high_water_mark=selection.high_water_mark,
            profile=selection.profile,
        )
        snapshots.write_manifest(client, uri, manifest)
        return manifest.claim(uri)


def identity(request: UnloadRequest, selection: Selection, dbt_sha256: str) -> dict[str, object]:
    """Returns everything that a snapshot's content depends on."""
    return {
        "schema_version": snapshots.SCHEMA_VERSION,
        "tenant": request.tenant,
        "high_water_mark": selection.high_water_mark,
        "interval": [request.start_date.isoformat(), request.end_date.isoformat()],
        "min_session_length": request.min_session_length,
        "max_sessions": request.max_sessions,
        "split": [VALIDATION_FROM, TEST_FROM],
        "sql_sha256": selection.sql_sha256,
        "dbt_sha256": dbt_sha256,
    }


def object_storage(hook: AwsBaseHook) -> ObjectStorage:
    """Takes from the AWS connection what a warehouse needs to write to S3."""
    credentials = hook.get_credentials(region_name=hook.region_name)
    return ObjectStorage(
        region=hook.region_name or "us-east-1",
        access_key=credentials.access_key or "",
        secret_key=credentials.secret_key or "",
        session_token=credentials.token,
        endpoint_url=hook.conn_config.get_service_endpoint_url("s3"),
    )


def _utc(moment: datetime | None) -> str:
    if moment is None:
        raise ValueError("A selection with sessions has boundaries.")
    return f"{moment.isoformat()}Z"

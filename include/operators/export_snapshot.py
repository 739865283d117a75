"""Exports the marts' sessions to S3 as an immutable snapshot, or takes up an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import BaseOperator, Connection, Context
from airflow.sdk.exceptions import AirflowSkipException

from include import drift, snapshots
from include.contracts import Snapshot
from include.operators.connections import warehouse_info
from include.operators.guard import aws_faults
from include.operators.load_events import optional_count
from include.operators.records import leave_record
from include.settings import PROJECT_ROOT, Settings, get_settings
from include.warehouse.base import ObjectStorage, Warehouse
from include.warehouse.connect import open_warehouse
from include.warehouse.unload import TEST_FROM, VALIDATION_FROM, Selection, UnloadRequest

if TYPE_CHECKING:
    from datetime import datetime

DBT_PROJECT = PROJECT_ROOT / "include" / "dbt"


class ExportSnapshotOperator(BaseOperator):
    """Writes train, validation, test and catalogue to S3, the manifest last, and returns the claim check.

    The snapshot's name is a function of its content: the same data and choices give the same snapshot, which
    is then used again. An interval without sessions skips the task, and with it the rest of the run. The data
    are held against the previous snapshot of like choices; drift is written beside and logged, and stops
    nothing.

    Args:
        start_date: First day, ISO.
        end_date: Day after the last, ISO.
        max_sessions: Only the latest N sessions of the interval; None or empty for all.
        tenant: Whose sessions; None for the setting's.
        reuse_snapshot: Id of an earlier snapshot of this tenant, which is verified and handed on: the
            warehouse is not asked, and interval and limit do not count. None or empty to export.
        **kwargs: Arguments of the base operator.
    """

    # Not `start_date`: that name is Airflow's own, for when a task may first run.
    template_fields: Sequence[str] = (
        "window_start",
        "window_end",
        "max_sessions",
        "tenant",
        "reuse_snapshot",
    )

    def __init__(
        self,
        *,
        start_date: str,
        end_date: str,
        max_sessions: int | str | None = None,
        tenant: str | None = None,
        reuse_snapshot: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window_start = start_date
        self.window_end = end_date
        self.max_sessions = max_sessions
        self.tenant = tenant
        self.reuse_snapshot = reuse_snapshot

    def execute(self, context: Context) -> dict[str, object]:
        """Exports; returns the snapshot.

        Raises:
            AirflowSkipException: The interval holds no session.
            AirflowFailException: Too few sessions for a split, missing marts, a snapshot that cannot be used
                again, or a wrong setting.
            OSError: Warehouse or S3 are gone for now.
        """
        settings = get_settings()
        hook = AwsBaseHook(aws_conn_id=settings.aws_conn_id, client_type="s3")
        doing = self.reuse_snapshot or f"{self.window_start} to {self.window_end}"
        with aws_faults(f"Export of {doing}"):
            client = hook.get_conn()
            if self.reuse_snapshot:
                uri, manifest = self._earlier(client, self.reuse_snapshot, settings)
            else:
                uri, manifest = self._export(hook, client, settings, context)
            snapshot = self._compare(client, manifest, settings, manifest.claim(uri))
            leave_record(context, client, settings, snapshot)
        self.log.info(
            "%s: %s training, %s validation and %s test sessions in %s.",
            snapshot.snapshot_id,
            snapshot.train_sessions,
            snapshot.validation_sessions,
            snapshot.test_sessions,
            snapshot.uri,
        )
        return snapshot.to_xcom()

    def _earlier(self, client: Any, name: str, settings: Settings) -> tuple[str, snapshots.Manifest]:
        """Opens the snapshot that the run asks for, and reads every byte of it."""
        uri = snapshots.snapshot_uri(settings.bucket, settings.prefix, name)
        manifest = snapshots.open_snapshot(client, uri, self.tenant or settings.tenant, deep=True)
        self.log.info("%s is used again, as the run asks; every file is as it was exported.", uri)
        return uri, manifest

    def _export(
        self, hook: AwsBaseHook, client: Any, settings: Settings, context: Context
    ) -> tuple[str, snapshots.Manifest]:
        """Selects the sessions, and writes them unless that was done before."""
        request = UnloadRequest.parse(
            self.tenant or settings.tenant,
            str(self.window_start),
            str(self.window_end),
            optional_count("max_sessions", self.max_sessions),
        )
        connection = warehouse_info(Connection.get(settings.warehouse_conn_id), context)
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
                return self._write(client, warehouse, request, selection, settings)

    def _write(
        self,
        client: Any,
        warehouse: Warehouse,
        request: UnloadRequest,
        selection: Selection,
        settings: Settings,
    ) -> tuple[str, snapshots.Manifest]:
        """Uses the snapshot again if it is whole, and writes it otherwise."""
        dbt_sha256 = snapshots.dbt_sha256(DBT_PROJECT)
        name = snapshots.snapshot_id(identity(request, selection, dbt_sha256))
        uri = snapshots.snapshot_uri(settings.bucket, settings.prefix, name)
        manifest = snapshots.read_manifest(client, uri)
        if manifest is not None and (faults := snapshots.faults_of(client, uri, manifest, deep=True)):
            self.log.warning("%s is damaged and is written anew: %s.", uri, "; ".join(faults[:5]))
            manifest = None
        if manifest is not None:
            self.log.info("The same data were exported before: %s is used again.", uri)
        else:
            rows = {part.uri.removeprefix(uri): part.rows for part in warehouse.unload(uri)}
            files = snapshots.describe_files(client, uri, rows)
            manifest = snapshots.publish(
                client, uri, manifest_of(name, request, selection, dbt_sha256, files)
            )
        if removed := snapshots.remove_strays(client, uri, {file.path for file in manifest.files}):
            self.log.info("Removed %s files of an unfinished export from %s.", removed, uri)
        return uri, manifest

    def _compare(
        self, client: Any, manifest: snapshots.Manifest, settings: Settings, snapshot: Snapshot
    ) -> Snapshot:
        """Holds the data against the previous snapshot of like choices, and says what is unusual."""
        for day in drift.unusual_days(manifest.profile):
            self.log.warning("%s: %s.", manifest.snapshot_id, day)
        every = snapshots.list_snapshots(client, settings.bucket, settings.prefix)
        previous = snapshots.previous_of(manifest, every)
        if previous is None:
            return snapshot
        found = drift.compare(manifest.snapshot_id, manifest.profile, previous.snapshot_id, previous.profile)
        for warning in found.warnings():
            self.log.warning("%s: %s.", manifest.snapshot_id, warning)
        uri = drift.write(client, settings.bucket, settings.prefix, found)
        return snapshot.model_copy(update={"previous_snapshot_id": previous.snapshot_id, "drift_uri": uri})


def manifest_of(
    name: str,
    request: UnloadRequest,
    selection: Selection,
    dbt_sha256: str,
    files: tuple[snapshots.ManifestFile, ...],
) -> snapshots.Manifest:
    """Returns the manifest of a selection that was written; a function of its content alone."""
    return snapshots.Manifest(
        snapshot_id=name,
        tenant=request.tenant,
        interval=snapshots.Interval(start=request.start_date.isoformat(), end=request.end_date.isoformat()),
        split=snapshots.Split(
            validation_start=_utc(selection.boundaries["validation_start"]),
            test_start=_utc(selection.boundaries["test_start"]),
        ),
        counts=selection.counts,
        files=files,
        sql_sha256=selection.sql_sha256,
        dbt_manifest_sha256=dbt_sha256,
        high_water_mark=selection.high_water_mark,
        profile=selection.profile,
        min_session_length=request.min_session_length,
        max_sessions=request.max_sessions,
    )


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

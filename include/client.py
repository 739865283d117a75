"""Opens runs and snapshots in a notebook, without Airflow and without the warehouse.

    from include.client import Client
    sessions = Client().snapshots()[0].train.to_pandas()

Every byte that is read is held against the sha256 in the snapshot's manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from include import contracts, runs, snapshots
from include.contracts import BadInputError
from include.settings import get_settings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ClaimT = TypeVar("ClaimT", bound=contracts.Contract)


class DamagedError(Exception):
    """What lies on S3 is not what the manifest says."""


@dataclass(frozen=True)
class Dataset:
    """One folder of a snapshot: the sessions of a split, or the catalogue.

    Attributes:
        name: `train`, `validation`, `test` or `catalog`.
        uri: `s3://…/<snapshot_id>/<name>/`.
        files: Its entries in the manifest.
    """

    name: str
    uri: str
    files: tuple[snapshots.ManifestFile, ...]
    _client: Any = field(repr=False, compare=False)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return sum(file.rows for file in self.files)

    def to_arrow(self) -> pa.Table:
        """Reads the rows, with the same column types whichever warehouse wrote them.

        Raises:
            DamagedError: A file is gone, or its sha256 is not the manifest's.
        """
        import pyarrow as pa

        schema = _schema(self.name)
        tables = [_conform(self._read(file), schema) for file in self.files]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def to_pandas(self) -> pd.DataFrame:
        """Reads the rows as a DataFrame; arrays become numpy arrays."""
        return self.to_arrow().to_pandas()

    def _read(self, file: snapshots.ManifestFile) -> pa.Table:
        import pyarrow.parquet as pq

        bucket, prefix = self.uri.removeprefix("s3://").split("/", 1)
        key = prefix + file.path.removeprefix(f"{self.name}/")
        try:
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            raise DamagedError(f"{self.uri} lacks {file.path}, which its manifest lists.") from None
        if hashlib.sha256(body).hexdigest() != file.sha256:
            raise DamagedError(
                f"s3://{bucket}/{key} is not the file that was exported: its sha256 is not the manifest's. "
                "Export the snapshot anew."
            )
        return pq.read_table(io.BytesIO(body))


@dataclass(frozen=True)
class Snapshot:
    """An immutable data set.

    Attributes:
        uri: `s3://…/snapshots/<snapshot_id>/`.
        manifest: All that is known of it: interval, split, counts, files, and what it was made from.
    """

    uri: str
    manifest: snapshots.Manifest = field(repr=False)
    _client: Any = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """`snap-` and 16 hex digits."""
        return self.manifest.snapshot_id

    @property
    def tenant(self) -> str:
        """Whose sessions they are."""
        return self.manifest.tenant

    @property
    def interval(self) -> snapshots.Interval:
        """First day, and day after the last."""
        return self.manifest.interval

    @property
    def counts(self) -> dict[str, int]:
        """Sessions per split, products, and sessions that straddled a boundary."""
        return self.manifest.counts

    @property
    def profile(self) -> dict[str, Any]:
        """Description of the data: lengths, actions, days, hours, top products, coverage."""
        return self.manifest.profile

    @property
    def created_from(self) -> dict[str, str]:
        """What made it: digests of SQL, dbt project and rows."""
        return {
            "sql_sha256": self.manifest.sql_sha256,
            "dbt_manifest_sha256": self.manifest.dbt_manifest_sha256,
            "high_water_mark": self.manifest.high_water_mark,
        }

    @property
    def train(self) -> Dataset:
        """The sessions that ended before validation began."""
        return self._dataset("train")

    @property
    def validation(self) -> Dataset:
        """The sessions between train and test."""
        return self._dataset("validation")

    @property
    def test(self) -> Dataset:
        """The latest sessions."""
        return self._dataset("test")

    @property
    def catalog(self) -> Dataset:
        """The products, with category and price bucket."""
        return self._dataset("catalog")

    def _dataset(self, name: str) -> Dataset:
        files = tuple(file for file in self.manifest.files if file.path.startswith(f"{name}/"))
        return Dataset(name, f"{self.uri}{name}/", files, self._client)


@dataclass(frozen=True)
class Run:
    """A run of the pipeline, as far as it came.

    Attributes:
        id: Airflow's id of the run.
        recorded_at: When its latest step left its record.
    """

    id: str
    recorded_at: datetime
    _client: Client = field(repr=False, compare=False)

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The data it used.

        Raises:
            BadInputError: They are gone.
            DamagedError: The manifest is no longer the one that the run had.
        """
        claim = self._client.record(self.id, contracts.Snapshot)
        if claim is None:
            return None
        found = self._client.snapshot(claim.snapshot_id)
        if found.manifest.sha256() != claim.manifest_sha256:
            raise DamagedError(
                f"{found.uri} is not what run {self.id!r} used: its manifest was written anew since, and the "
                f"sha256 is not the run's. Client().snapshot({found.id!r}) opens what lies there now."
            )
        return found

    @cached_property
    def model(self) -> contracts.TrainedModel | None:
        """The model it trained."""
        return self._client.record(self.id, contracts.TrainedModel)

    @cached_property
    def verdict(self) -> contracts.Verdict | None:
        """What the gate decided, rejections too."""
        return self._client.record(self.id, contracts.Verdict)

    @cached_property
    def deployment(self) -> contracts.Deployment | None:
        """What went live."""
        return self._client.record(self.id, contracts.Deployment)


class Client:
    """Lists runs and snapshots of one bucket and prefix.

    Args:
        bucket: That of the settings by default.
        prefix: That of the settings by default.
        **options: For `boto3.client("s3", …)`, such as `endpoint_url` of the local emulator. Credentials
            come from boto3's own chain.
    """

    def __init__(self, *, bucket: str | None = None, prefix: str | None = None, **options: Any) -> None:
        import boto3

        settings = get_settings()
        self.bucket = settings.bucket if bucket is None else bucket
        self.prefix = settings.prefix if prefix is None else prefix
        self._s3: Any = boto3.client("s3", **options)

    def snapshots(self, tenant: str | None = None) -> list[Snapshot]:
        """Returns all snapshots, or those of a tenant; those with the latest days first."""
        found = snapshots.list_snapshots(self._s3, self.bucket, self.prefix)
        return [
            Snapshot(uri, manifest, self._s3)
            for uri, manifest in reversed(found)
            if tenant in (None, manifest.tenant)
        ]

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """Returns one snapshot.

        Raises:
            BadInputError: There is none of that id; a folder without a manifest is none.
        """
        uri = snapshots.snapshot_uri(self.bucket, self.prefix, snapshot_id)
        manifest = snapshots.read_manifest(self._s3, uri)
        if manifest is None:
            raise BadInputError(f"There is no snapshot {snapshot_id!r}: .snapshots() lists those there are.")
        return Snapshot(uri, manifest, self._s3)

    def runs(self) -> list[Run]:
        """Returns every run that has left a record; the newest first."""
        return list(self._runs())

    def run(self, run_id: str) -> Run:
        """Returns one run.

        Raises:
            BadInputError: No run of that id has left a record.
        """
        for run in self._runs():
            if run.id == run_id:
                return run
        raise BadInputError(f"No run {run_id!r} has left a record: .runs() lists those that have.")

    def record(self, run_id: str, kind: type[ClaimT]) -> ClaimT | None:
        """Returns the claim check of a kind that a run left, or None where it has not come so far."""
        return runs.read_record(self._s3, self.bucket, self.prefix, run_id, kind)

    def _runs(self) -> Iterator[Run]:
        for run_id, moment in runs.list_runs(self._s3, self.bucket, self.prefix).items():
            yield Run(run_id, moment, self)


def _schema(name: str) -> pa.Schema:
    import pyarrow as pa

    if name == "catalog":
        fields = {"product_sku": pa.string(), "category": pa.string(), "price_bucket": pa.float64()}
    else:
        fields = {
            "session_id": pa.string(),
            "started_at": pa.timestamp("us"),
            "ended_at": pa.timestamp("us"),
            "skus": pa.list_(pa.string()),
            "actions": pa.list_(pa.string()),
            "event_times": pa.list_(pa.int64()),
        }
    return pa.schema(fields)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Casts to the agreed types; Snowflake unloads arrays as JSON texts."""
    import pyarrow as pa

    columns = []
    for column in schema:
        found = table[column.name]
        if pa.types.is_list(column.type) and not pa.types.is_list(found.type):
            found = pa.array([json.loads(text) for text in found.to_pylist()], column.type)
        columns.append(found.cast(column.type))
    return pa.table(columns, schema=schema)

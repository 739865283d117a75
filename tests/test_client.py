from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from include import snapshots
from include.client import Client, DamagedError
from include.contracts import BadInputError, Contract, SettingsError, TrainedModel, Verdict
from include.runs import write_record
from include.settings import get_settings

NAME = "snap-0123456789abcdef"
URI = f"s3://post-modern-stack/shop/snapshots/{NAME}/"
KEY = f"shop/snapshots/{NAME}/"
MS = 1_767_225_600_000


def sessions(ids: list[str], *, as_json: bool = False) -> pa.Table:
    skus, times = [["a", "b"] for _ in ids], [[MS, MS + 1] for _ in ids]
    return pa.table(
        {
            "session_id": ids,
            "started_at": pa.array([MS] * len(ids), pa.timestamp("ms")),
            "ended_at": pa.array([MS + 1] * len(ids), pa.timestamp("ms")),
            # Snowflake unloads arrays as JSON texts.
            "skus": ['["a","b"]' for _ in ids] if as_json else skus,
            "actions": ['["detail","detail"]' for _ in ids] if as_json else [["detail"] * 2 for _ in ids],
            "event_times": [f"[{MS},{MS + 1}]" for _ in ids] if as_json else times,
        }
    )


FILES = {
    "train/part-00000.parquet": sessions(["s1", "s2"]),
    "train/part-00001.parquet": sessions(["s3"], as_json=True),
    "validation/part-00000.parquet": sessions(["s4"]),
    "test/part-00000.parquet": sessions(["s5"]),
    "catalog/part-00000.parquet": pa.table({"product_sku": ["a"], "category": ["c/d"], "price_bucket": [7]}),
}


def put(s3: Any, name: str = NAME, *, tenant: str = "t", end: str = "2026-02-01", **options: Any) -> None:
    """Writes a snapshot as an export does; without `files`, an empty one."""
    uri = snapshots.snapshot_uri("post-modern-stack", "shop", name)
    files: dict[str, pa.Table] = options.get("files", {})
    for path, table in files.items():
        sink = io.BytesIO()
        pq.write_table(table, sink)
        s3.put_object(Bucket="post-modern-stack", Key=uri.split("/", 3)[3] + path, Body=sink.getvalue())
    manifest = snapshots.Manifest(
        snapshot_id=name,
        tenant=tenant,
        interval=snapshots.Interval(start="2026-01-01", end=end),
        split=snapshots.Split(validation_start="2026-01-20T00:00:00Z", test_start="2026-01-25T00:00:00Z"),
        counts={"train": 3, "validation": 1, "test": 1, "catalog": 1, "dropped_straddling": 0},
        files=snapshots.describe_files(s3, uri, {path: table.num_rows for path, table in files.items()}),
        sql_sha256="0" * 64,
        dbt_manifest_sha256="1" * 64,
        high_water_mark="5:1/1:2",
        profile={"test_unknown_share": 0.1},
    )
    snapshots.publish(s3, uri, manifest)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    get_settings.cache_clear()
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="post-modern-stack")
        yield client


def record(s3: Any, run_id: str, claim: Contract) -> None:
    write_record(s3, "post-modern-stack", "shop", run_id, claim)


def model(job: str = "job-1") -> TrainedModel:
    return TrainedModel(
        job_name=job,
        job_arn="arn",
        snapshot_id=NAME,
        model_uri="s3://b/model.tar.gz",
        evaluation_uri="s3://b/output.tar.gz",
        billable_seconds=4,
    )


def verdict() -> Verdict:
    return Verdict(
        approved=False,
        job_name="job-1",
        snapshot_id=NAME,
        rules_version=1,
        checks=(),
        metrics={},
        baselines={},
        report_uri="s3://b/r",
    )


def test_a_snapshot_says_what_it_is_and_opens(s3: Any) -> None:
    put(s3, files=FILES)
    snapshot = Client().snapshot(NAME)
    assert (snapshot.id, snapshot.tenant, snapshot.uri) == (NAME, "t", URI)
    assert (snapshot.interval.start, snapshot.interval.end) == ("2026-01-01", "2026-02-01")
    assert snapshot.counts["train"] == len(snapshot.train) == 3
    assert snapshot.profile == {"test_unknown_share": 0.1}
    assert snapshot.created_from["high_water_mark"] == "5:1/1:2"
    assert snapshot.test.uri == f"{URI}test/"
    assert [len(part) for part in (snapshot.validation, snapshot.test, snapshot.catalog)] == [1, 1, 1]
    frame = snapshot.train.to_pandas()
    assert list(frame["session_id"]) == ["s1", "s2", "s3"]
    assert [list(skus) for skus in frame["skus"]] == [["a", "b"]] * 3
    assert snapshot.catalog.to_arrow().to_pylist() == [
        {"product_sku": "a", "category": "c/d", "price_bucket": 7.0}
    ]


def test_both_warehouses_files_open_alike(s3: Any) -> None:
    put(s3, files={"train/part-00000.parquet": sessions(["s"])})
    put(s3, "snap-" + "b" * 16, files={"train/data_0.parquet": sessions(["s"], as_json=True)})
    one, other = (snapshot.train.to_arrow() for snapshot in Client().snapshots())
    assert one.equals(other)
    assert str(one.schema.field("event_times").type) == "list<item: int64>"


def test_a_folder_that_holds_no_file_opens_empty(s3: Any) -> None:
    put(s3)
    table = Client().snapshot(NAME).catalog.to_arrow()
    assert table.num_rows == 0 and table.column_names == ["product_sku", "category", "price_bucket"]


@pytest.mark.parametrize("damage", ["flipped byte", "gone"])
def test_a_damaged_file_is_not_read(s3: Any, damage: str) -> None:
    put(s3, files=FILES)
    where = {"Bucket": "post-modern-stack", "Key": KEY + "test/part-00000.parquet"}
    body = bytearray(s3.get_object(**where)["Body"].read())
    body[len(body) // 2] ^= 1
    s3.delete_object(**where) if damage == "gone" else s3.put_object(Body=bytes(body), **where)
    snapshot = Client().snapshot(NAME)
    assert len(snapshot.train.to_arrow()) == 3
    with pytest.raises(DamagedError, match="test/part-00000.parquet"):
        snapshot.test.to_arrow()


def test_snapshots_are_listed_with_the_latest_days_first(s3: Any) -> None:
    put(s3, "snap-" + "a" * 16, end="2026-02-01")
    put(s3, "snap-" + "b" * 16, end="2026-03-01")
    put(s3, "snap-" + "c" * 16, end="2026-04-01", tenant="u")
    s3.put_object(Bucket="post-modern-stack", Key=f"{KEY}train/part-00000.parquet", Body=b"unfinished")
    assert [snapshot.id[-1] for snapshot in Client().snapshots()] == ["c", "b", "a"]
    assert [snapshot.id[-1] for snapshot in Client().snapshots(tenant="t")] == ["b", "a"]
    with pytest.raises(BadInputError, match="snapshots"):
        Client().snapshot(NAME)


def test_a_name_that_is_no_snapshots_is_refused(s3: Any) -> None:
    with pytest.raises(SettingsError, match="no snapshot folder"):
        Client().snapshot("latest")


def test_runs_are_found_as_far_as_they_came(s3: Any) -> None:
    put(s3, files=FILES)
    scheduled, manual = "scheduled__2026-02-01T00:00:00+00:00", "manual/../odd id?#"
    record(s3, scheduled, snapshots.read_manifest(s3, URI).claim(URI))  # type: ignore[union-attr]
    record(s3, scheduled, model())
    record(s3, scheduled, verdict())
    record(s3, manual, model("job-2"))
    client = Client()
    assert {run.id for run in client.runs()} == {scheduled, manual}
    run = client.run(scheduled)
    assert run.snapshot is not None and len(run.snapshot.train.to_arrow()) == 3
    assert (run.model, run.verdict, run.deployment) == (model(), verdict(), None)
    other = client.run(manual)
    assert other.model == model("job-2")
    assert (other.snapshot, other.verdict) == (None, None)
    with pytest.raises(BadInputError, match="left a record"):
        client.run("never")


def test_a_manifest_that_was_written_anew_since_the_run_is_noticed(s3: Any) -> None:
    put(s3, files=FILES)
    manifest = snapshots.read_manifest(s3, URI)
    assert manifest is not None
    record(s3, "run", manifest.claim(URI))
    changed = manifest.model_copy(update={"files": manifest.files[1:]})
    s3.put_object(Bucket="post-modern-stack", Key=KEY + "manifest.json", Body=changed.to_bytes())
    with pytest.raises(DamagedError, match=r"not what run 'run' used.*Client\(\)\.snapshot"):
        _ = Client().run("run").snapshot
    assert Client().snapshot(NAME).manifest == changed


def test_a_step_that_runs_again_replaces_its_record_alone(s3: Any) -> None:
    for job in ("job-1", "job-1", "job-2"):
        record(s3, "run", model(job))
    [run] = Client().runs()
    assert run.model == model("job-2")
    assert run.recorded_at.tzinfo is not None


def test_another_bucket_and_no_prefix(s3: Any) -> None:
    s3.create_bucket(Bucket="other-bucket")
    write_record(s3, "other-bucket", "", "run", model())
    assert [run.id for run in Client(bucket="other-bucket", prefix="").runs()] == ["run"]
    assert Client().runs() == []


def test_the_readmes_example_runs(s3: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(s3, files=FILES)
    examples = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    [example] = [code for code in examples if "include.client" in code]
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert list(scope["sessions"]["session_id"]) == ["s1", "s2", "s3"]


def test_the_import_is_light(root: Path) -> None:
    program = (
        "import sys, time; t = time.process_time(); import include.client; t = time.process_time() - t\n"
        "heavy = {'airflow', 'pyarrow', 'pandas', 'duckdb', 'snowflake.connector'}\n"
        "print(sorted(heavy & set(sys.modules)), t < 1, t)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("[] True"), done.stdout

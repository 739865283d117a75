"""The data land at Coveo's real size, beside a hand-written script that makes the same marts.

Every step is a process of its own, measured by the operating system: wall and CPU seconds, and the largest
resident memory. Both sides read the same files, get the same 4 GB for DuckDB, and take turns, step by step.
At the end the marts of both are compared row by row.

`make bench` or `python -m bench.data_land [--share 0.1] [--runs 3]`
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench.handwritten import MARTS
from bench.measure import ROOT, Cost, measured
from bench.shop_at_scale import Scale, write_events, write_shop

DBT_PROJECT = ROOT / "include" / "dbt"
BUCKET = "post-modern-stack"

LOAD = """
import sys
from include.warehouse.base import ConnectionInfo
from include.warehouse.connect import open_warehouse
from include.warehouse.loading import find_source
with open_warehouse(ConnectionInfo("duckdb", host=sys.argv[1]), "shop") as warehouse:
    report = warehouse.land(find_source(sys.argv[2]), tenant="coveo")
print(f"    {report.events_landed:,} events landed, rejected: {report.rejected_by_reason}")
"""

EXPORT = """
import sys
from types import SimpleNamespace
from include.operators.export_snapshot import ExportSnapshotOperator
operator = ExportSnapshotOperator(
    task_id="export_snapshot", start_date="2019-01-01", end_date="2020-01-01", tenant="coveo"
)
claim = operator.execute({"dag_run": SimpleNamespace(run_id="bench", dag_id="bench")})
print("    " + ", ".join(f"{name} {claim[name]:,}" for name in claim if name.endswith("_sessions")))
"""


@contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """Yields the address of an S3 of our own on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "s3.log").open("wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        time.sleep(5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def dbt_build(database: Path, target: Path) -> Cost:
    """Builds and tests the dbt project as `dbt build` does, without Airflow around it."""
    folders = ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
    outputs = ["--target-path", str(target), "--log-path", str(target / "logs")]
    program = "import sys; from dbt.cli.main import cli; sys.argv[0] = 'dbt'; cli()"
    return measured(
        [sys.executable, "-c", program, "--quiet", "build", *folders, *outputs],
        {
            "PMS_DUCKDB_PATH": str(database),
            "PMS_WAREHOUSE_SCHEMA": "shop",
            "DO_NOT_TRACK": "1",
            # As in Airflow: their inputs never change.
            "DBT_EXCLUDE_RESOURCE_TYPES": "unit_test",
        },
    )


def export(database: Path, endpoint: str) -> Cost:
    """Exports a snapshot through the operator."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    client.create_bucket(Bucket=BUCKET)
    aws = {"region_name": "us-east-1", "endpoint_url": endpoint}
    warehouse = {"conn_type": "duckdb", "host": str(database), "extra": {"memory_limit": "4GB"}}
    return measured(
        [sys.executable, "-c", EXPORT],
        {
            "AIRFLOW_HOME": str(database.parent / "airflow"),
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps(warehouse),
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(
                {"conn_type": "aws", "login": "x", "password": "x", "extra": aws}
            ),
            "PMS_BUCKET": BUCKET,
        },
    )


def one_run(data: Path, night: Path, folder: Path) -> dict[str, tuple[Cost, Cost]]:
    """Walks both sides through every step; returns ours and the hand-written one's cost of each."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ours, theirs, target = folder / "ours.duckdb", folder / "handwritten.duckdb", folder / "target"

    def load(source: Path) -> Cost:
        return measured([sys.executable, "-c", LOAD, str(ours), str(source)])

    def by_hand(step: str, *more: Path) -> Cost:
        return measured([sys.executable, "-m", "bench.handwritten", step, str(theirs), *map(str, more)])

    costs: dict[str, tuple[Cost, Cost]] = {}

    def note(step: str, mine: Cost, hand: Cost) -> None:
        costs[step] = mine, hand
        print(
            f"  {step:<14} ours {mine.wall:7.1f} s ({mine.cpu:7.1f} CPU-s, {mine.memory:.2f} GiB)   "
            f"by hand {hand.wall:7.1f} s ({hand.cpu:7.1f} CPU-s, {hand.memory:.2f} GiB)",
            flush=True,
        )

    note("load", load(data), by_hand("load", data))
    note("build", dbt_build(ours, target), by_hand("build"))
    note("load a night", load(night), by_hand("load", night))
    note("build a night", dbt_build(ours, target), by_hand("night"))
    with object_store(folder) as endpoint:
        files = folder / "parquet"
        files.mkdir()
        note("export", export(ours, endpoint), by_hand("export", files))
    compare(ours, theirs)
    return costs


def compare(ours: Path, theirs: Path) -> None:
    """Checks that both sides hold the same marts.

    Raises:
        RuntimeError: They do not.
    """
    import duckdb

    connection = duckdb.connect(config={"memory_limit": "4GB"})
    connection.execute(f"attach '{ours}' as ours (read_only); attach '{theirs}' as theirs (read_only)")
    for mart in MARTS:
        described = connection.execute(f"select column_name from (describe theirs.main.{mart})").fetchall()
        columns = ", ".join(f"cast({name} as varchar)" for (name,) in described)
        digests = [
            connection.execute(f"select count(*), sum(hash({columns})) from {table}").fetchall()
            for table in (f"ours.shop.{mart}", f"theirs.main.{mart}")
        ]
        if digests[0] != digests[1]:
            raise RuntimeError(f"{mart} differ: {digests}")
        print(f"  {mart}: {digests[0][0][0]:,} rows, the same on both sides")


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the 5 million sessions")
    parser.add_argument("--runs", type=int, default=1, help="runs to take medians of")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "bench", help="needs 40 GB at share 1"
    )
    arguments = parser.parse_args()
    scale = Scale() if arguments.share == 1 else Scale().shrunk(arguments.share)
    folder: Path = arguments.folder.resolve()
    data, night = folder / f"shop-{scale.sessions}", folder / f"night-{scale.sessions}"
    if not (night / "browsing_train.csv").exists():
        print(f"==> generating {scale.sessions:,} sessions", flush=True)
        write_shop(data, scale)
        night.mkdir(parents=True, exist_ok=True)
        # Renamed at last: it is what says that all of this is whole.
        partial = night / "browsing_train.partial"
        write_events(partial, scale, range(scale.days, scale.days + 1))
        partial.rename(night / "browsing_train.csv")
    runs = []
    for number in range(arguments.runs):
        print(f"==> run {number + 1} of {arguments.runs}", flush=True)
        runs.append(one_run(data, night, folder / "run"))
    table = {}
    for step in runs[0]:
        ours = [asdict(run[step][0]) for run in runs]
        hand = [asdict(run[step][1]) for run in runs]
        medians = [
            {key: statistics.median(cost[key] for cost in side) for key in side[0]} for side in (ours, hand)
        ]
        ratio = statistics.median(
            mine["wall"] / other["wall"] for mine, other in zip(ours, hand, strict=True)
        )
        table[step] = {"ours": medians[0], "by hand": medians[1], "ratio of wall seconds": ratio}
        print(f"  {step:<14} {medians[0]['wall']:.1f} s, {ratio:.2f} times by hand")
    share = table["build a night"]["ours"]["wall"] / table["build"]["ours"]["wall"]  # type: ignore[index]
    print(f"  a night is {100 * share:.1f} % of a full build")
    (folder / "data_land.json").write_text(json.dumps(table, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

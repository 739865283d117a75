"""What Airflow and Cosmos add to dbt: the transform group of a real run, task by task.

Runs both DAGs on the generated shop, as `make demo` does, and takes apart the wall seconds of each dbt task:
inside dbt's nodes (the model and its tests), the rest of the task (process, Airflow's task runner, Cosmos,
dbt's start and parse), and the wait before it, which is the scheduler's.

`make bench` runs it last; `python -m bench.airflow_overhead` runs it alone.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from include.dbt_artifacts import XCOM_KEY
from include.local.airflow_api import AirflowApi
from include.local.demo import PIPELINE_DAG, load, prepare_data, read_object, run_dag
from include.local.stack import Stack, stage


def run(api: AirflowApi, build: Path) -> str:
    """Loads the generated shop and runs the pipeline up to the gate; returns the run's id."""
    landed = load(api, prepare_data(None, build), "demo-shop")
    last = date.fromisoformat(landed["last_event_date"]) + timedelta(days=1)
    conf = {
        "start_date": landed["first_event_date"],
        "end_date": last.isoformat(),
        "epochs": 1,
        "deploy": False,
    }
    run_id, _ = run_dag(api, PIPELINE_DAG, conf)
    return run_id


def take_apart(api: AirflowApi, stack: Stack, run_id: str) -> list[dict[str, Any]]:
    """Returns name, seconds in dbt's nodes, seconds of the task and of the wait before it, in order."""
    result, free = [], None
    for row in api.task_instances(PIPELINE_DAG, run_id):
        if not row["start_date"] or not row["end_date"]:
            continue
        began, ended = (datetime.fromisoformat(row[key]) for key in ("start_date", "end_date"))
        left = api.result(PIPELINE_DAG, run_id, row["task_id"], XCOM_KEY)
        if row["task_id"].startswith("transform.") and left and left.get("run_results_uri"):
            results = json.loads(read_object(stack, left["run_results_uri"]))["results"]
            result.append(
                {
                    "task": row["task_id"].removeprefix("transform.").removesuffix("_model_build"),
                    "dbt nodes": sum(node["execution_time"] for node in results),
                    "task seconds": (ended - began).total_seconds(),
                    "wait": (began - free).total_seconds() if free else 0.0,
                }
            )
        free = ended if free is None else max(free, ended)
    return result


def main() -> int:
    """Prints the table and its medians."""
    with tempfile.TemporaryDirectory(prefix="pms-bench-") as folder, stage(Path(folder)) as stack:
        api = stack.api()
        rows = take_apart(api, stack, run(api, Path(folder)))
    print(f"  {'task':<36} {'dbt nodes':>10} {'rest of task':>13} {'wait before':>12}   seconds")
    for row in rows:
        rest = row["task seconds"] - row["dbt nodes"]
        print(f"  {row['task']:<36} {row['dbt nodes']:>10.2f} {rest:>13.2f} {row['wait']:>12.2f}")
    for name, values in {
        "rest of a task": [row["task seconds"] - row["dbt nodes"] for row in rows],
        "wait before a task": [row["wait"] for row in rows],
    }.items():
        print(f"  median {name}: {statistics.median(values):.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

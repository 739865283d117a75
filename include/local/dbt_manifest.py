"""Prepares the dbt manifest that Cosmos draws the transform group from, so that no DAG parse runs dbt."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DBT_PROJECT = Path(__file__).resolve().parents[1] / "dbt"


def build_manifest(target: str = "duckdb") -> Path:
    """Runs `dbt parse` and returns the manifest's path.

    Args:
        target: dbt target; the graph is the same for every one of them.

    Raises:
        RuntimeError: dbt could not parse the project; its own output says why.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from dbt.cli.main import dbtRunner

    arguments = ["--quiet", "parse", "--target", target]
    arguments += ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
    arguments += ["--no-partial-parse", "--log-path", str(DBT_PROJECT / "logs")]
    result = dbtRunner().invoke(arguments)
    if not result.success:
        raise RuntimeError(f"dbt parse failed: {result.exception or 'see the messages above'}")
    return DBT_PROJECT / "target" / "manifest.json"


if __name__ == "__main__":
    try:
        build_manifest()
    except RuntimeError as error:
        sys.exit(str(error))

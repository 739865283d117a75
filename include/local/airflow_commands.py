"""Runs commands of Airflow one after the other in one process: importing Airflow is most of what each takes.

`python -m include.local.airflow_commands '[["db", "migrate"], ["pools", "import", "pools.json"]]'`
"""

from __future__ import annotations

import json
import sys

from airflow.__main__ import main

if __name__ == "__main__":
    for command in json.loads(sys.argv[1]):
        sys.argv = ["airflow", *command]
        main()  # type: ignore[no-untyped-call]

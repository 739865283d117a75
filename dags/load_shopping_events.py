"""Lands raw shopping events in the warehouse.

**What.** Lands raw shopping events (Coveo SIGIR eCom 2021 schema) in the append-only raw log of the
warehouse. Each table that got rows of the shop that `PMS_TENANT` names is announced as an Airflow asset. The
same files twice are a no-op; rows that do not parse go to `raw.rejected_events` with file, line and reason; a
load with too many of them lands nothing. A load that was killed goes on behind the last chunk it had
committed.

**Needs.** The warehouse connection, and a local folder or `s3://bucket/prefix` (then the AWS connection too)
with `browsing.csv[.gz]` or `browsing_train.csv[.gz]` and, if they are there, `sku_to_content.csv[.gz]` and
`search.csv[.gz]` or `search_train.csv[.gz]`.

**Cost.** One connection to the warehouse; on Snowflake one X-Small warehouse for the time of the copy.

**Triage.** *Bad input*: the message names the file, the line and what to do; nothing was landed, mend the
file and trigger again. *Warehouse locked*: another process holds the DuckDB file; the retry waits for it.
*S3 or the warehouse gone*: the retry goes on where this try stopped.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import Param, dag

from include.operators.load_events import LoadEventsOperator
from include.settings import TENANT_PATTERN, get_settings


@dag(
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["load", "post-modern-stack"],
    doc_md=__doc__,
    render_template_as_native_obj=True,
    # Minutes in all: whoever holds the DuckDB file may be at work for a while.
    default_args={"retries": 4, "retry_delay": timedelta(seconds=20), "retry_exponential_backoff": True},
    params={
        "source": Param(
            "build/data/shop",
            type="string",
            minLength=1,
            maxLength=1024,
            title="Source folder",
            description="Folder, or s3://bucket/prefix, with browsing.csv[.gz] and, optionally, "
            "sku_to_content.csv[.gz] and search.csv[.gz]. A relative path is relative to the project.",
        ),
        "tenant": Param(
            get_settings().tenant,
            type="string",
            pattern=TENANT_PATTERN,
            title="Tenant",
            description="Key of the shop whose rows these are; shops share tables and never mix.",
        ),
        "max_sessions": Param(
            None,
            type=["null", "integer"],
            minimum=100,
            maximum=100_000_000,
            title="Sessions at most",
            description="For a first try: land only the first N sessions by time, whole ones. Empty for all.",
        ),
    },
)
def load_shopping_events() -> None:
    """Wires the one step of the load."""
    settings = get_settings()
    LoadEventsOperator(
        task_id="load_events",
        source="{{ params.source }}",
        tenant="{{ params.tenant }}",
        max_sessions="{{ params.max_sessions }}",
        max_reject_share=settings.max_reject_share,
        pool=settings.warehouse_pool,
    )


load_shopping_events()

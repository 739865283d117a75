"""Small shops for tests: written, loaded and transformed once, then copied."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from include.local.shop import EVENT_HEADER, PRODUCT_HEADER, ShopOptions, write_shop
from include.warehouse.base import ConnectionInfo
from include.warehouse.connect import open_warehouse
from include.warehouse.dialect import Statement
from include.warehouse.duckdb import DuckDBWarehouse
from include.warehouse.kinds import SEARCHES
from include.warehouse.loading import find_source

DBT_PROJECT = Path(__file__).resolve().parents[1] / "include" / "dbt"
SCHEMA = "shop"
TENANT = "demo-shop"
SMALL = ShopOptions(sessions=600, products=90, days=20)
SEARCH_HEADER = ",".join(SEARCHES.required)
T0 = 1_767_225_600_000  # 2026-01-01 UTC


def event(
    session: str = "s",
    sku: str = "a",
    moment: int | str = T0,
    action: str = "detail",
    kind: str = "event_product",
    url: str = "",
) -> str:
    """One CSV row."""
    return f"{session},{kind},{action},{sku},{moment},{url}"


def write_source(
    folder: Path,
    rows: Sequence[str] | bytes,
    *,
    header: str = EVENT_HEADER,
    products: Iterable[str] | None = None,
    searches: Iterable[str] | None = None,
    name: str = "browsing.csv",
) -> Path:
    """Writes a source folder; bytes are the whole file as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    content = rows if isinstance(rows, bytes) else "\n".join([header, *rows, ""]).encode()
    (folder / name).write_bytes(
        gzip.compress(content) if name.endswith(".gz") and isinstance(rows, list) else content
    )
    if products is not None:
        (folder / "sku_to_content.csv").write_text("\n".join([PRODUCT_HEADER, *products, ""]))
    if searches is not None:
        (folder / "search.csv").write_text("\n".join([SEARCH_HEADER, *searches, ""]))
    return folder


def open_file(path: Path) -> DuckDBWarehouse:
    """Opens a DuckDB file as the pipeline does."""
    warehouse = open_warehouse(ConnectionInfo("duckdb", host=str(path)), SCHEMA)
    assert isinstance(warehouse, DuckDBWarehouse)
    return warehouse


def land(path: Path, folder: Path, **options: Any) -> Any:
    """Loads a folder into a DuckDB file."""
    with open_file(path) as warehouse:
        return warehouse.land(find_source(folder), tenant=TENANT, **options)


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Runs a query on a DuckDB file."""
    with open_file(path) as warehouse:
        return warehouse.execute(Statement(sql))


def run_dbt(path: Path, target: Path, *arguments: str, unit_tests: bool = False) -> Any:
    """Runs dbt in this process on a DuckDB file; unit tests, whose inputs never change, where asked to."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.adapters.factory import reset_adapters
    from dbt.cli.main import dbtRunner

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PMS_DUCKDB_PATH", str(path))
        patch.setenv("PMS_WAREHOUSE_SCHEMA", SCHEMA)
        if not unit_tests:
            patch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "unit_test")
        folders = ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
        outputs = ["--target-path", str(target), "--log-path", str(target / "logs")]
        try:
            command, *options = arguments
            return dbtRunner().invoke(["--quiet", command, *folders, *outputs, *options])
        finally:
            # Otherwise dbt keeps the file open, and what it wrote in the write-ahead log.
            DuckDBConnectionManager.close_all_connections()
            reset_adapters()


@lru_cache(maxsize=1)
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pms-shop-"))
    write_shop(folder / "data", SMALL)
    path = folder / "warehouse.duckdb"
    land(path, folder / "data")
    result = run_dbt(path, folder / "target", "build", unit_tests=True)
    assert result.success, result.exception
    with open_file(path) as warehouse:
        warehouse.execute(Statement("checkpoint"))
    return path


def transformed_shop(folder: Path) -> Path:
    """Returns a copy of a DuckDB file with a loaded and transformed small shop."""
    return Path(shutil.copy(_template(), folder / "warehouse.duckdb"))

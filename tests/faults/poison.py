"""A shop whose products have poisoned names, taken through the whole pipe once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from include.contracts import LoadReport
from include.settings import get_settings
from tests.ml.jobs import run_train
from tests.operators.exporting import chosen_s3, chosen_warehouse, export, s3_server
from tests.shops import T0, event, land, run_dbt, write_source

POISON = {
    "quotes and braces": "\"'{{ 7*7 }}{% raw %}''\"",
    "script": "<script>alert(1)</script>",
    "sql": "'); drop table raw.loads; --",
    "right to left": "\u202eabc\u05d0",
    "emoji": "\U0001f600\u200d\U0001f525",
    "path": "../../x",
    "percent and dollar": "%(etl_id)s $etl_id ? :x",
    "backslash": "a\\'b\\n",
    "longest": "x" * 512,
}
REFUSED = {"binary_rubbish": "a\x00b", "sku_too_long": "y" * 10_000, "missing_sku": ""}
MINUTE = 60_000


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@dataclass(frozen=True)
class Poisoned:
    """What the pipe made: the warehouse's file, the snapshot's folder, the job's folders."""

    folder: Path
    report: LoadReport
    keys: tuple[str, ...]

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse.duckdb"

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshot"

    @property
    def job(self) -> Path:
        return self.folder / "job"


def sessions() -> list[str]:
    """Each begins with a plain product; the poisoned one comes second, and again a plain one of its own."""
    lines = []
    for number in range(270):
        place = number % len(POISON)
        steps = (f"before-{place}", [*POISON.values()][place], f"after-{place}")
        lines += [
            event(f"s{number}", quoted(sku), T0 + 60 * MINUTE * number + MINUTE * step)
            for step, sku in enumerate(steps)
        ]
    return lines


def whole_pipe(folder: Path, ml_python: Path) -> Poisoned:
    """Load, dbt with all its tests, export and a short training."""
    settings = get_settings()
    refused = [event("refused", quoted(sku)) for sku in REFUSED.values()]
    products = [f"{quoted(sku)},,{quoted(f'{sku}/{name}')},,1.0" for name, sku in POISON.items()]
    source = write_source(folder / "in", [*sessions(), *refused], products=products)
    warehouse = folder / "warehouse.duckdb"
    report = land(warehouse, source)
    built = run_dbt(warehouse, folder / "target", "build")
    assert built.success, built.exception

    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        s3 = chosen_s3(address, patch, settings)
        chosen_warehouse(warehouse, patch, settings)
        place = export("2026-01-01", "2026-02-01").uri.removeprefix(f"s3://{settings.bucket}/")
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=settings.bucket)["Contents"]]
        for key in keys:
            if key.startswith(place):
                path = folder / "snapshot" / key.removeprefix(place)
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(settings.bucket, key, str(path))
    trained = run_train(ml_python, folder / "snapshot", folder / "job", "--epochs", "2", "--refit", "off")
    assert trained.returncode == 0, trained.stderr
    return Poisoned(folder, report, tuple(keys))

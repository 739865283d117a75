"""What every test gets: an Airflow home of its own, no secrets of the caller's, and loopback only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before any import of Airflow: it reads these once.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="pms-airflow-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(ROOT / "dags")
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(ROOT / "plugins")
os.environ["AIRFLOW__COSMOS__ENABLE_TELEMETRY"] = "False"
os.environ["DO_NOT_TRACK"] = "1"
for name in [name for name in os.environ if name.startswith(("PMS_", "AWS_", "SNOWFLAKE_"))]:
    if name not in {"PMS_TEST_DATA", "AWS_CA_BUNDLE"}:
        del os.environ[name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def ml_python(root: Path) -> Path:
    """The ML environment's interpreter; skips where it has not been built."""
    python = root / ".venv-ml" / "bin" / "python"
    if not python.exists():
        pytest.skip("the ML environment is not built: make setup")
    return python


@pytest.fixture(scope="session")
def real_data(root: Path) -> Path:
    """A folder with real shopping sessions; skips where there is none."""
    named = os.environ.get("PMS_TEST_DATA")
    folder = Path(named) if named else root.parent / "shared" / "data" / "rees46_electronics_2021_01"
    if not (folder / "browsing.csv.gz").exists():
        pytest.skip("no real sessions here: set PMS_TEST_DATA to a folder with browsing.csv.gz")
    return folder

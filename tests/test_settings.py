from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from include.settings import Settings


@pytest.mark.parametrize("name", ["schedule", "dbt_cloud_job_id"])
def test_empty_means_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"PMS_{name.upper()}", "")
    assert getattr(Settings(), name) is None


@pytest.mark.parametrize("job", ["0", "-1", "nightly"])
def test_job_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    monkeypatch.setenv("PMS_DBT_CLOUD_JOB_ID", job)
    with pytest.raises(ValidationError, match="dbt_cloud_job_id"):
        Settings()


def test_unknown_warehouse_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMS_WAREHOUSE", "oracle")
    with pytest.raises(ValidationError, match="warehouse"):
        Settings()


def test_every_setting_and_its_default_is_in_the_readme(root: Path) -> None:
    readme = (root / "README.md").read_text()
    for name in Settings.model_fields:
        assert f"`PMS_{name.upper()}`" in readme

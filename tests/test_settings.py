from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from include.settings import Settings


def test_empty_schedule_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMS_SCHEDULE", "")
    assert Settings().schedule is None


def test_unknown_warehouse_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMS_WAREHOUSE", "oracle")
    with pytest.raises(ValidationError, match="warehouse"):
        Settings()


def test_every_setting_and_its_default_is_in_the_readme(root: Path) -> None:
    readme = (root / "README.md").read_text()
    for name in Settings.model_fields:
        assert f"`PMS_{name.upper()}`" in readme

from __future__ import annotations

from pathlib import Path

import pytest

from include.local.airflow_home import airflow_environment, local_settings


def test_airflow_settings_become_connections_of_this_machine(tmp_path: Path) -> None:
    settings = local_settings("http://127.0.0.1:9", tmp_path)
    assert settings["connections"]["aws_default"]["extra"]["endpoint_url"] == "http://127.0.0.1:9"
    assert settings["connections"]["warehouse_default"]["host"] == str(tmp_path / "warehouse.duckdb")
    assert settings["pools"]["warehouse"]["slots"] == 1


def test_environment_drops_the_callers_airflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "somebody-elses")
    environment = airflow_environment(8080, tmp_path)
    assert "AIRFLOW__CORE__FERNET_KEY" not in environment
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"

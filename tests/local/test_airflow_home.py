from __future__ import annotations

import stat
from pathlib import Path

import pytest

from include.local import airflow_home
from include.local.airflow_home import airflow_environment, local_settings, prepare_airflow


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


class Airflow:
    """Stands in for Airflow's commands: what it is told, and whether it dies of it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.dies = False

    def __call__(self, commands: list[list[str]], environment: dict[str, str]) -> None:
        files = [Path(words[-1]) for words in commands if words[1] == "import"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        self.told = [" ".join(words[:2]) for words in commands]
        if self.dies:
            raise RuntimeError("killed")


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    airflow = Airflow()
    monkeypatch.setattr(airflow_home, "_airflow", airflow)
    return airflow


def told(airflow: Airflow, build: Path, port: int = 1) -> list[str]:
    """What Airflow is told in a preparation; no file is left that anybody could read a secret from."""
    airflow.told = []
    home = build / "airflow"
    try:
        prepare_airflow({"AIRFLOW_HOME": str(home)}, f"http://127.0.0.1:{port}", build)
    finally:
        assert {path.suffix for path in home.iterdir()} <= {".generated", ""}
        assert stat.S_IMODE(next(home.glob("*.generated")).stat().st_mode) == 0o600
    return airflow.told


def test_airflow_is_prepared_once_and_anew_for_other_settings_or_another_airflow(
    airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = ["db migrate", "connections import", "pools import"]
    assert told(airflow, tmp_path) == everything
    assert told(airflow, tmp_path) == []
    assert told(airflow, tmp_path, port=2) == everything
    assert told(airflow, tmp_path, port=2) == []
    monkeypatch.setattr(airflow_home, "version", lambda _: "99.0.0")
    assert told(airflow, tmp_path, port=2) == everything


def test_preparation_that_was_cut_short_is_made_again_also_for_the_settings_before(
    airflow: Airflow, tmp_path: Path
) -> None:
    told(airflow, tmp_path)
    airflow.dies = True
    with pytest.raises(RuntimeError, match="killed"):
        told(airflow, tmp_path, port=2)
    airflow.dies = False
    assert told(airflow, tmp_path)  # its database may have the other settings

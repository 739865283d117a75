from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from include.local import airflow_api
from include.local.airflow_api import AirflowApi


class Airflow(BaseHTTPRequestHandler):
    """Fails so many requests, after it did what they ask for."""

    faults = 0
    asked: list[str] = []
    started: list[str] = []

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(f"{self.command} {self.path}")
        status, said = self._do(json.loads(body or b"{}"))
        if self.path != "/auth/token" and type(self).faults > 0:
            type(self).faults -= 1
            status, said = 500, b"database is locked"
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def _do(self, body: dict[str, Any]) -> tuple[int, bytes]:
        if self.path.endswith("/dagRuns"):
            if body["conf"]["epochs"] < 0:
                return 400, b"Invalid input for param epochs"
            if body["dag_run_id"] in self.started:
                return 409, b"DagRun already exists"
            self.started.append(body["dag_run_id"])
        return 200, b'{"access_token": "t", "state": "success"}'

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowApi]:
    monkeypatch.setattr(airflow_api, "_PAUSE_SECONDS", 0.01)
    Airflow.faults, Airflow.asked, Airflow.started = 0, [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Airflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield AirflowApi(f"http://127.0.0.1:{server.server_address[1]}", "admin", "password")
    finally:
        server.shutdown()
        server.server_close()


def test_locked_database_is_asked_again(api: AirflowApi) -> None:
    Airflow.faults = 3
    assert api.run_state("shop", "r") == "success"
    Airflow.faults = 1
    api.pause("shop", is_paused=True)
    assert len(Airflow.asked) == 1 + 4 + 2


def test_lasting_fault_is_told_after_four_times(api: AirflowApi) -> None:
    Airflow.faults = 99
    with pytest.raises(RuntimeError, match="answered 500 to GET .*database is locked"):
        api.run_state("shop", "r")
    assert len(Airflow.asked) == 1 + 4


def test_run_that_was_started_before_the_fault_is_the_run(api: AirflowApi) -> None:
    Airflow.faults = 1
    run_id = api.trigger("shop", {"epochs": 2})
    assert Airflow.started == [run_id]
    assert len(Airflow.asked) == 1 + 2


def test_refused_run_is_told(api: AirflowApi) -> None:
    with pytest.raises(RuntimeError, match="answered 400 to POST /dags/shop/dagRuns: Invalid input"):
        api.trigger("shop", {"epochs": -1})

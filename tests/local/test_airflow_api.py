from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from include.local import airflow_api
from include.local.airflow_api import AirflowApi


class Airflow(BaseHTTPRequestHandler):
    """Fails so many requests that ask for something, then answers."""

    faults = 0
    asked: list[str] = []

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(f"{self.command} {self.path}")
        fault = self.path != "/auth/token" and type(self).faults > 0
        type(self).faults -= fault
        body = (
            b"database is locked"
            if fault
            else b'{"access_token": "t", "state": "success", "dag_run_id": "r"}'
        )
        self.send_response(500 if fault else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowApi]:
    monkeypatch.setattr(airflow_api, "_PAUSE_SECONDS", 0.01)
    Airflow.faults, Airflow.asked = 0, []
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


def test_run_is_never_started_twice(api: AirflowApi) -> None:
    Airflow.faults = 1
    with pytest.raises(RuntimeError, match="answered 500 to POST"):
        api.trigger("shop", {})
    assert len(Airflow.asked) == 1 + 1

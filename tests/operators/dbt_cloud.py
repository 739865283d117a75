"""A small dbt Cloud on loopback: the endpoints of its API v2 that the provider calls, over TLS."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ACCOUNT, JOB, TOKEN = 11, 22, "dbtc_not-to-be-seen"
QUEUED, RUNNING, SUCCESS, ERROR, CANCELLED = 1, 3, 10, 20, 30


def write_certificate(folder: Path) -> Path:
    """Writes a self-signed certificate of 127.0.0.1, with its key, and returns the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dbt Cloud double")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "dbt-cloud.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def run_results(which: str = "build", *results: tuple[str, str, str]) -> bytes:
    """The artefact, of (unique id, status, message)."""
    listed = [{"unique_id": unique, "status": status, "message": why} for unique, status, why in results]
    return json.dumps({"args": {"which": which}, "results": listed}).encode()


class DbtCloud:
    """What the account holds, and what it was asked.

    Attributes:
        statuses: What a new run goes through, one status for each look at it; the last one stays.
        artifacts: Per step, what a run leaves.
        faults: For the next requests whose "METHOD path" ends like this: the statuses to answer with.
        requests: Every "METHOD path" so far.
        runs: Every run ever started.
    """

    def __init__(self, certificate: Path) -> None:
        self.statuses = [QUEUED, RUNNING, SUCCESS]
        self.status_message: str | None = None
        self.artifacts: dict[int, dict[str, bytes]] = {
            1: {},
            2: {"run_results.json": run_results(), "manifest.json": b'{"nodes": {}}'},
        }
        self.faults: dict[str, list[int]] = {}
        self.requests: list[str] = []
        self.runs: dict[int, dict[str, Any]] = {}
        self._left: dict[int, list[int]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.tenant = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def started(self) -> int:
        """How many runs were asked for."""
        return sum(request.startswith("POST") and request.endswith("/run/") for request in self.requests)

    def add_run(self, cause: str, statuses: list[int]) -> dict[str, Any]:
        """Adds a run, as the API or somebody else would."""
        number = 1000 + len(self.runs)
        self.runs[number] = {
            "id": number,
            "href": f"https://{self.tenant}/deploy/{ACCOUNT}/runs/{number}/",
            "status": statuses[0],
            "status_message": None,
            "trigger": {"cause": cause},
            "run_steps": [{"index": index, "name": f"step {index}"} for index in self.artifacts],
        }
        self._left[number] = list(statuses)
        return self.runs[number]

    def look(self, number: int) -> dict[str, Any]:
        """One look at a run: time goes on by one status."""
        run, left = self.runs[number], self._left[number]
        run["status"] = left.pop(0) if len(left) > 1 else left[0]
        run["status_message"] = self.status_message if run["status"] == ERROR else None
        return run

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Returns status and data of the answer; bytes are sent as they are."""
        place = path.removeprefix(f"/api/v2/accounts/{ACCOUNT}/").strip("/").split("/")
        match (method, *place):
            case ("POST", "jobs", job, "run") if job == str(JOB):
                return 200, self.add_run(body["cause"], self.statuses)
            case ("GET", "runs"):
                ours = query["job_definition_id"] == [str(JOB)]
                newest_first = query.get("order_by") == ["-id"]
                numbers = sorted(self.runs, reverse=newest_first) if ours else []
                shown = [dict(self.runs[number]) for number in numbers]
                if query.get("include_related") != ["trigger"]:
                    shown = [{**run, "trigger": None} for run in shown]
                return 200, shown
            case ("GET", "runs", number) if int(number) in self.runs:
                run = dict(self.look(int(number)))
                if query.get("include_related") != ["run_steps"]:
                    run["run_steps"] = []
                return 200, run
            case ("POST", "runs", number, "cancel") if int(number) in self.runs:
                self._left[int(number)] = [CANCELLED]
                return 200, self.look(int(number))
            case ("GET", "runs", number, "artifacts", name) if int(number) in self.runs:
                step = int(query.get("step", [str(max(self.artifacts))])[0])
                content = self.artifacts[step].get(name)
                return (404, None) if content is None else (200, content)
        return 404, None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                url = urlsplit(self.path)
                asked = f"{self.command} {url.path}"
                cloud.requests.append(asked)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = next(
                    (codes for end, codes in cloud.faults.items() if asked.endswith(end) and codes), []
                )
                if self.headers.get("Authorization") != f"Token {TOKEN}":
                    status, data = 401, None
                elif fault:
                    status, data = fault.pop(0), None
                else:
                    status, data = cloud.answer(
                        self.command, url.path, parse_qs(url.query), json.loads(body or b"null")
                    )
                content = data if isinstance(data, bytes) else json.dumps({"data": data}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET: Callable[..., None] = handle_one
            do_POST: Callable[..., None] = handle_one

            def log_message(self, *_: Any) -> None:
                """Says nothing: what was asked stands in `requests`."""

        return Handler

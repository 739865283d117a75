"""The emulator is nobody's way to other hosts: it answers loopback names only, and goes nowhere itself."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.cloud import ROLE, Cloud
from tests.local.emulator.test_server import _post

METADATA = "169.254.169.254"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:5055"},
        {"Host": METADATA},
        {"Host": "s3.amazonaws.com"},
    ],
)
def test_neither_a_browser_nor_another_hosts_name_is_answered(cloud: Cloud, headers: dict[str, str]) -> None:
    for path in ("/", "/moto-api/reset", "/endpoints/e/invocations"):
        status, answer, response = _post(cloud, headers, path=path)
        assert (status, answer["__type"]) == (403, "AccessDenied")
        assert "Access-Control-Allow-Origin" not in response.headers


def test_it_listens_on_loopback_only(cloud: Cloud) -> None:
    port = int(cloud.url.rsplit(":", 1)[1])
    listening = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if Path("/proc/net/tcp").exists() else []:
        address, state = line.split()[1], line.split()[3]
        if state == "0A" and int(address.split(":")[1], 16) == port:
            listening.append(address.split(":")[0])
    assert listening in (["0100007F"], [])
    with socket.socket() as probe, pytest.raises(OSError):  # another loopback address is not ours
        probe.settimeout(2)
        probe.connect(("127.0.0.2", port))


@pytest.mark.parametrize(
    "target", [f"http://{METADATA}/latest/meta-data/", f"//{METADATA}/latest/", "http://s3.amazonaws.com/x"]
)
def test_it_is_no_proxy(cloud: Cloud, target: str) -> None:
    connection = http.client.HTTPConnection(cloud.url.removeprefix("http://"), timeout=10)
    connection.putrequest("GET", target, skip_host=True)
    connection.putheader("Host", target.split("/")[2])
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["__type"]) == (403, "AccessDenied")
    connection.close()


@pytest.mark.parametrize("uri", [f"http://{METADATA}/model.tar.gz", "https://evil.example/model.tar.gz"])
def test_a_model_from_another_host_is_not_fetched(
    cloud: Cloud, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        asked.append(address)
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(ClientError):
        cloud.sagemaker.create_model(
            ModelName=cloud.name("model"),
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": "registry/serving:1", "ModelDataUrl": uri},
        )
    assert {address[0] for address in asked if isinstance(address, tuple)} <= {"127.0.0.1"}

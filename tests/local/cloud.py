"""An emulator with its clients for tests; every SageMaker answer is held against botocore's shapes."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import sys
import tarfile
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from include.local.emulator.server import Emulator
from include.local.emulator.wire.shapes import violations

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
BUCKET = "shop-bucket"
# SageMaker gives no name to a version of a package group, though its own model requires one.
DEPARTS = {
    "DescribeModelPackage": [
        "Value null at 'modelPackageName' failed to satisfy constraint: Member must not be null"
    ]
}
_numbers = itertools.count(1)

MODEL_SERVER = '''
"""A model server of the standard library; what the model folder holds decides how it behaves."""
import argparse, http.server, json, os, pathlib, subprocess, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("--model-dir", type=pathlib.Path)
parser.add_argument("--port", type=int)
options = parser.parse_args()
behaviour = (options.model_dir / "behaviour").read_text()
if behaviour == "crash":
    sys.exit("cannot read the weights")
if behaviour == "stubborn":
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(503 if behaviour == "sick" else 200, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if body.startswith("sleep"):
            time.sleep(float(body.split()[1]))
        told = behaviour if behaviour.startswith("status") else body
        status = int(told.split()[1]) if told.startswith("status") else 200
        told = {name: self.headers.get(name) for name in ("Content-Type", "Accept")}
        told["Custom"] = self.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        told["predictions"] = [{"skus": ["the same", behaviour]}]
        self.answer(status, {"model": behaviour, "body": body, "pids": [os.getpid(), child.pid],
                             "environment": dict(os.environ), **told})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Amzn-SageMaker-Custom-Attributes", "trace=7")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64


Server(("127.0.0.1", options.port), Handler).serve_forever()
'''


def tar_of(files: dict[str, str]) -> bytes:
    """A tar.gz of small text files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    return state != "Z"


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of a condition; fails where it stays false."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"still false after {seconds} s")


def clients_of(url: str) -> Callable[..., Any]:
    """A maker of boto3 clients whose SageMaker answers are checked."""

    @functools.cache
    def make(service: str, region: str = "us-east-1") -> Any:
        client = boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=url,
            region_name=region,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            # A retry would hide a request that failed.
            config=Config(retries={"total_max_attempts": 1}),
        )
        if service == "sagemaker":
            client.meta.events.register("before-parse.sagemaker", _check_answer)
        return client

    return make


def _check_answer(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    if operation_model.output_shape is None:
        return
    if response_dict["status_code"] == 200:
        answer = json.loads(response_dict["body"])
        found = list(violations(operation_model.output_shape, answer, closed=True))
        assert found == DEPARTS.get(operation_model.name, []), f"{operation_model.name}: {found}"


class Shop:
    """Clients that invoke all the time, from entry to exit; no request may fail.

    Attributes:
        said: The models that answered, in order.
        faults: What went wrong.
    """

    def __init__(self, cloud: Cloud, endpoint: str, *, clients: int = 2, tolerant: bool = False) -> None:
        self.said: list[str] = []
        self.faults: list[str] = []
        self._cloud = cloud
        self._endpoint = endpoint
        self._tolerant = tolerant
        self._over = threading.Event()
        self._clients = [threading.Thread(target=self._buy, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Shop:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join()
        if kind is None and not self._tolerant:
            assert self.faults == []

    def _buy(self) -> None:
        while not self._over.is_set():
            try:
                self.said.append(self._cloud.invoke(self._endpoint, "sleep 0.01")["model"])
            except Exception as error:
                self.faults.append(repr(error))


@dataclass(frozen=True)
class Cloud:
    """An emulator with its clients, and short ways to make what tests need."""

    url: str
    state_dir: Path
    client: Callable[..., Any]

    @property
    def sagemaker(self) -> Any:
        return self.client("sagemaker")

    @property
    def s3(self) -> Any:
        return self.client("s3")

    def set_faults(self, method: str, rules: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Adds (POST) or clears (DELETE) fault rules; returns those that are left."""
        body = None if rules is None else json.dumps(rules).encode()
        request = urllib.request.Request(f"{self.url}/_emulator/faults", body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            rules_left: list[dict[str, Any]] = json.loads(answer.read())
        return rules_left

    def faults(self) -> list[dict[str, Any]]:
        """The fault rules that are left."""
        return self.set_faults("GET")

    def name(self, stem: str = "thing") -> str:
        return f"{stem}-{next(_numbers)}"

    def put(self, key: str, body: bytes) -> str:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        return f"s3://{BUCKET}/{key}"

    def job_request(self, script: str, name: str | None = None, **changes: Any) -> dict[str, Any]:
        """A CreateTrainingJob request for a script; top-level members and hyper-parameters can be changed."""
        name = name or self.name("job")
        code = self.put(f"code/{name}/sourcedir.tar.gz", tar_of({"train.py": textwrap.dedent(script)}))
        hyper_parameters = {
            "sagemaker_program": '"train.py"',
            "sagemaker_submit_directory": json.dumps(code),
            **changes.pop("hyper_parameters", {}),
        }
        return {
            "TrainingJobName": name,
            "RoleArn": ROLE,
            "AlgorithmSpecification": {"TrainingImage": "registry/tensorflow:1", "TrainingInputMode": "File"},
            "HyperParameters": hyper_parameters,
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models"},
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            **changes,
        }

    def run_job(self, script: str, **changes: Any) -> dict[str, Any]:
        """Runs a job to its end and returns its description."""
        request = self.job_request(script, **changes)
        self.sagemaker.create_training_job(**request)
        return self.finished(request["TrainingJobName"])

    def finished(self, job: str, seconds: float = 40) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            told: dict[str, Any] = self.sagemaker.describe_training_job(TrainingJobName=job)
            return told if told["TrainingJobStatus"] in ("Completed", "Failed", "Stopped") else None

        return eventually(ended, seconds)

    def wait_status(self, job: str, secondary: str) -> None:
        eventually(
            lambda: self.sagemaker.describe_training_job(TrainingJobName=job)["SecondaryStatus"] == secondary
        )

    def model(self, behaviour: str | bytes, **container: Any) -> str:
        """Creates a model whose server behaves so (bytes: the artefact itself) and returns its name."""
        name = self.name("model")
        body = behaviour if isinstance(behaviour, bytes) else tar_of({"behaviour": behaviour})
        uri = self.put(f"models/{name}/model.tar.gz", body)
        self.sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": "registry/serving:1", "ModelDataUrl": uri, **container},
        )
        return name

    def variant(self, behaviour: str | bytes, **changes: Any) -> dict[str, Any]:
        """A variant for such a model."""
        size = {"InitialInstanceCount": 1, "InstanceType": "ml.m5.large", "InitialVariantWeight": 1}
        return {"VariantName": "AllTraffic", "ModelName": self.model(behaviour)} | size | changes

    def config(self, behaviour: str | bytes, *, instances: int = 1, **members: Any) -> str:
        """Creates an endpoint config for such a model and returns its name."""
        name = self.name("config")
        variants = [self.variant(behaviour, InitialInstanceCount=instances)]
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants, **members)
        return name

    def endpoint(self, behaviour: str | bytes, **members: Any) -> str:
        """Creates an endpoint on such a model, waits until it is settled and returns its name."""
        name = self.name("endpoint")
        config = self.config(behaviour, **members)
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        self.settled(name)
        return name

    def settled(self, endpoint: str) -> dict[str, Any]:
        def at_rest() -> dict[str, Any] | None:
            told: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=endpoint)
            return told if told["EndpointStatus"] in ("InService", "Failed") else None

        return eventually(at_rest, 40)

    def invoke(self, endpoint: str, body: str | bytes = "hello", **options: Any) -> dict[str, Any]:
        """Invokes and decodes what the fake model server answers."""
        answer = self.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint, Body=body, ContentType="application/json", **options
        )
        decoded: dict[str, Any] = json.loads(answer.pop("Body").read())
        return decoded | {"variant": answer["InvokedProductionVariant"], "answer": answer}


@contextmanager
def started(state_dir: Path, ml_python: Path | str = sys.executable, **options: Any) -> Iterator[Cloud]:
    """An emulator with the bucket; its endpoints run the fake model server unless told otherwise."""
    server = state_dir / "fake_model_server.py"
    server.write_text(MODEL_SERVER, encoding="utf-8")
    usual: dict[str, Any] = {
        "server_command": [sys.executable, str(server)],
        "startup_seconds": 6,
        "stop_grace_seconds": 1,
        "faults": True,
    }
    with Emulator(state_dir, ml_python, **(usual | options)) as emulator:
        cloud = Cloud(emulator.url, state_dir, clients_of(emulator.url))
        cloud.s3.create_bucket(Bucket=BUCKET)
        yield cloud

"""An emulator that enforces IAM, and the roles of `aws.yaml` in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from include.local import aws_template
from include.local.emulator.server import Emulator
from include.settings import Settings
from tests.local.cloud import clients_of

AIRFLOW, SAGEMAKER = "post-modern-stack-airflow", "post-modern-stack-sagemaker"

RECOMMENDS = '''
"""A model server that recommends the same to everybody."""
import argparse, http.server, json

parser = argparse.ArgumentParser()
parser.add_argument("--model-dir")
parser.add_argument("--port", type=int)
ANSWER = json.dumps({"predictions": [{"skus": ["a", "b"], "scores": [2, 1], "fallback": "none"}]}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"{}")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(ANSWER)

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler).serve_forever()
'''


@dataclass(frozen=True)
class Guarded:
    """Where it answers, and clients of its administrator."""

    url: str
    client: Callable[..., Any]

    def role_without(self, statement: str) -> str:
        """Makes a role like Airflow's that lacks one statement of its policies; returns its name."""
        iam, name = self.client("iam"), f"without-{statement}"
        trust = {"Version": "2012-10-17", "Statement": []}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        for policy in iam.list_role_policies(RoleName=AIRFLOW)["PolicyNames"]:
            document = iam.get_role_policy(RoleName=AIRFLOW, PolicyName=policy)["PolicyDocument"]
            kept = [part for part in document["Statement"] if part["Sid"] != statement]
            changed = json.dumps({**document, "Statement": kept})
            iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=changed)
        return name

    def assume(self, role: str) -> dict[str, str]:
        """Arguments of boto3 for a session of the role."""
        arn = f"arn:aws:iam::123456789012:role/{role}"
        made = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return {
            "aws_access_key_id": made["AccessKeyId"],
            "aws_secret_access_key": made["SecretAccessKey"],
            "aws_session_token": made["SessionToken"],
        }

    def client_as(self, role: str, service: str) -> Any:
        """A client with such a session."""
        config = Config(retries={"total_max_attempts": 1})
        return boto3.client(  # type: ignore[call-overload]
            service, endpoint_url=self.url, region_name="us-east-1", config=config, **self.assume(role)
        )

    def connect(self, role: str) -> str:
        """An Airflow connection with such a session."""
        keys = self.assume(role)
        return json.dumps(
            {
                "conn_type": "aws",
                "login": keys["aws_access_key_id"],
                "password": keys["aws_secret_access_key"],
                "extra": {
                    "aws_session_token": keys["aws_session_token"],
                    "endpoint_url": self.url,
                    "region_name": "us-east-1",
                },
            }
        )


@contextmanager
def guarding(folder: Path) -> Iterator[Guarded]:
    """An emulator that holds callers to their policies, with `aws.yaml` deployed."""
    server = folder / "server.py"
    server.write_text(RECOMMENDS, encoding="utf-8")
    command = [sys.executable, str(server)]
    with Emulator(folder / "state", sys.executable, server_command=command, enforce_iam=True) as emulator:
        aws_template.deploy(emulator.url, aws_template.parameters(Settings()))
        yield Guarded(emulator.url, clients_of(emulator.url))

"""What the pages' tests share: a reader whom Airflow lets in, and AWS without AWS."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.api_fastapi.core_api.security import get_user
from botocore.exceptions import ClientError
from fastapi.testclient import TestClient

from include.pages import app as pages
from include.pages import stored
from include.sagemaker.registry import Package
from include.sagemaker.rollback import files_of

# Names that a shop's log may hold, each with what a page that forgot about it would do.
NASTY_SKUS = {
    "script": "<script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x="',
    "quote": 'it\'s <b>"bold"</b>',
    "ends the text area": "</textarea><script>alert(1)</script>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "address": "?a=b&c=d#e/../%2e%2e",
    "direction": "\u202egnp.exe",
    "control": "a\x00b\x1bc",
    "lines": "one\ntwo\r\nthree",
    "half a surrogate": "\ud83d",
    "emoji": "\U0001f6d2",
    "long": "x" * 5000,
    "spaces": "  a  b  ",
}


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client whose user may read every DAG."""

    class AllowAll:
        def is_authorized_dag(self, **_: Any) -> bool:
            return True

    monkeypatch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", AllowAll)
    monkeypatch.setattr("airflow.api_fastapi.core_api.security.DagModel.get_team_name", lambda *_, **__: None)
    pages.app.dependency_overrides[get_user] = lambda: object()
    yield TestClient(pages.app)
    pages.app.dependency_overrides.clear()


class Cloud:
    """S3, the endpoint and its model, as far as the pages ask.

    Attributes:
        objects: URI to content.
        live: The `model.tar.gz` behind the endpoint; None for no endpoint.
        answer: Body of the endpoint's answer, given the session.
        fault: Raised by every call, where set.
        asked: Sessions that the endpoint was asked for.
    """

    def __init__(self) -> None:
        self.meta = SimpleNamespace(region_name="us-east-1")
        self.objects: dict[str, str] = {}
        self.live: str | None = None
        self.answer: Callable[[list[str]], bytes] = lambda session: recommendations(["b", "a"])
        self.fault: Exception | None = None
        self.asked: list[list[str]] = []

    def keep(self, package: Package) -> None:
        """Has all that a roll-back to a version needs."""
        self.objects |= {uri: "files" for uri in files_of(package).values()}

    def _call(self, operation: str, there: bool = True, code: str = "ValidationException") -> None:
        if self.fault:
            raise self.fault
        if not there:
            raise ClientError({"Error": {"Code": code, "Message": "Could not find it"}}, operation)

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # boto3's names
        content = self.objects.get(f"s3://{Bucket}/{Key}")
        self._call("GetObject", content is not None, "NoSuchKey")
        body = (content or "").encode()
        return {"Body": io.BytesIO(body), "ContentLength": len(body)}

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        self._call("HeadObject", f"s3://{Bucket}/{Key}" in self.objects, "404")
        return {}

    def describe_endpoint(self, EndpointName: str) -> dict[str, Any]:
        self._call("DescribeEndpoint", self.live is not None)
        return {"EndpointConfigName": "config", "EndpointStatus": "InService"}

    def describe_endpoint_config(self, EndpointConfigName: str) -> dict[str, Any]:
        self._call("DescribeEndpointConfig")
        return {"ProductionVariants": [{"ModelName": "model"}]}

    def describe_model(self, ModelName: str) -> dict[str, Any]:
        self._call("DescribeModel")
        return {"ModelArn": "arn:model", "PrimaryContainer": {"ModelDataUrl": self.live}}

    def list_tags(self, ResourceArn: str) -> dict[str, Any]:
        self._call("ListTags")
        return {"Tags": []}

    def invoke_endpoint(self, EndpointName: str, Body: str, **_: str) -> dict[str, Any]:
        self._call("InvokeEndpoint", self.live is not None, "ValidationError")
        [instance] = json.loads(Body)["instances"]
        self.asked.append(instance["session"])
        return {"Body": io.BytesIO(self.answer(instance["session"]))}


def recommendations(skus: list[str], fallback: str = "none") -> bytes:
    scores = [1 / (place + 2) for place in range(len(skus))]
    return json.dumps({"predictions": [{"skus": skus, "scores": scores, "fallback": fallback}]}).encode()


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    made = Cloud()
    monkeypatch.setattr(stored, "client", lambda kind: made)
    return made


def package(version: int, **changes: Any) -> Package:
    """The version that was registered on that day of the month, approved and with a card."""
    job = f"pms-{version}"
    return Package(
        **{
            "arn": f"arn:aws:sagemaker:us-east-1:123456789012:model-package/shop-recommender/{version}",
            "version": version,
            "created": datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=version),
            "approval": "Approved",
            "job_name": job,
            "model_name": f"pms-model-{version}",
            "snapshot_id": f"snap-{version}",
            "model_uri": f"s3://post-modern-stack/shop/models/{job}/output/model.tar.gz",
            "report_uri": f"s3://post-modern-stack/shop/reports/{job}/0123456789ab/report.json",
            "metrics": {"hit_rate@20": 0.4 + version / 100, "mrr@20": 0.1 + version / 100},
            "card_uri": f"s3://post-modern-stack/shop/reports/{job}/0123456789ab/card.html",
            **changes,
        }
    )

"""The gate rejects a model of shuffled weights: what is live stays, to the byte, and answers throughout."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from include.contracts import Verdict
from include.operators.gate_model import GateModelOperator, ModelRejectedError
from include.settings import Settings
from tests.gate.measuring import MODELS, TRAINED, packages
from tests.gate.planted import leave, queries
from tests.local.cloud import BUCKET, Cloud
from tests.operators.emulated import connect

RUN = "manual__2026-02-01"


class Ti:
    """The part of a task instance that the gate uses."""

    try_number, max_tries = 1, 2

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, **_: Any) -> list[Any]:
        return []


class Customers:
    """Ask the endpoint without a pause, from a thread of their own."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.failures: list[Exception] = []

    @contextmanager
    def asking(self, cloud: Cloud, endpoint: str) -> Iterator[None]:
        over = threading.Event()

        def ask() -> None:
            while not over.wait(0.05):
                try:
                    answer = cloud.client("sagemaker-runtime").invoke_endpoint(
                        EndpointName=endpoint, Body=b"hello", ContentType="application/json"
                    )
                    self.answers.append(answer["Body"].read())
                except Exception as error:
                    self.failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _archive(folder: Path, name: str, **texts: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as made:
        made.add(folder, arcname=name)
        for text_name, text in texts.items():
            member = tarfile.TarInfo(text_name)
            member.size = len(text)
            made.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def _live(cloud: Cloud, endpoint: str) -> dict[str, Any]:
    """Returns everything that makes the endpoint what it is, down to its artefact's digest."""
    told = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    config = cloud.sagemaker.describe_endpoint_config(EndpointConfigName=told["EndpointConfigName"])
    [variant] = config["ProductionVariants"]
    model = cloud.sagemaker.describe_model(ModelName=variant["ModelName"])
    key = model["PrimaryContainer"]["ModelDataUrl"].removeprefix(f"s3://{BUCKET}/")
    artefact = cloud.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    described = [{k: v for k, v in part.items() if k != "ResponseMetadata"} for part in (told, config, model)]
    return {"described": described, "artefact": hashlib.sha256(artefact).hexdigest()}


def _names(cloud: Cloud) -> list[Any]:
    client = cloud.sagemaker
    return [client.list_endpoint_configs()["EndpointConfigs"], client.list_models()["Models"]]


def _read(cloud: Cloud, uri: str) -> str:
    key = uri.removeprefix(f"s3://{BUCKET}/")
    return cloud.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


@pytest.fixture
def endpoint(cloud: Cloud, settings: Settings, monkeypatch: pytest.MonkeyPatch, ml_python: Path) -> str:
    """The live endpoint: its server is quick to start, its artefact is that of the good model."""
    name = cloud.endpoint(_archive(packages(ml_python) / "good" / "1", "1", behaviour="live"))
    connect(cloud, monkeypatch, endpoint_name=name, ml_python=ml_python)
    return name


def test_a_rejected_model_changes_nothing_for_customers(
    cloud: Cloud, endpoint: str, ml_python: Path, tmp_path: Path
) -> None:
    evaluation = leave(tmp_path / "evaluation", queries(MODELS["shuffled_weights"]))
    artefact = packages(ml_python) / "shuffled_weights" / "1"
    trained = TRAINED.model_copy(
        update={
            "model_uri": cloud.put("new/model.tar.gz", _archive(artefact, "1")),
            "evaluation_uri": cloud.put("new/output.tar.gz", _archive(evaluation, "evaluation")),
        }
    )
    gate = GateModelOperator(task_id="gate_model", trained_model=trained.to_xcom())
    before, existing, customers, ti = _live(cloud, endpoint), _names(cloud), Customers(), Ti()

    with customers.asking(cloud, endpoint), pytest.raises(ModelRejectedError) as rejected:
        gate.execute({"ti": ti, "run_id": RUN})  # type: ignore[arg-type,typeddict-item]

    assert customers.failures == []
    assert len(customers.answers) > 20
    assert len(set(customers.answers)) == 1, "one and the same model answered"
    assert _live(cloud, endpoint) == before
    assert _names(cloud) == existing, "nothing was even made"
    # The run is red, without a retry, and says why; Airflow runs nothing after it.
    reason = str(rejected.value)
    assert "The gate rejected" in reason and "the live endpoint is untouched" in reason
    assert "hit_rate_beats_covisitation" in reason and "hit_rate_not_worse_than_live" in reason
    # The verdict and its reports are kept.
    verdict = Verdict.model_validate(ti.pushed["return_value"])
    assert not verdict.approved and verdict.failures
    folder = verdict.report_uri.rsplit("/", 1)[0]
    assert Verdict.model_validate_json(_read(cloud, f"{folder}/verdict.json")) == verdict
    assert json.loads(_read(cloud, verdict.report_uri))["checks"]
    assert verdict.card_uri and "rejected" in _read(cloud, verdict.card_uri)

"""Cleaning up, against the emulator: what stays, what goes, and two at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from include.contracts import Snapshot
from include.operators import clean_up
from include.operators.clean_up import CleanUpOperator
from include.settings import get_settings
from include.snapshots import MANIFEST
from tests.local.cloud import BUCKET, Cloud, started
from tests.operators.emulated import connect, make_config, make_endpoint, make_model, names, wipe
from tests.operators.fake_sagemaker import refusal
from tests.test_snapshot_retention import a_manifest

SNAPSHOTS = [f"snap-{digit * 16}" for digit in "0123"]
FOREIGN = [{"Key": "project", "Value": "another"}]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with started(tmp_path_factory.mktemp("state")) as cloud:
        yield cloud


@pytest.fixture
def cloud(emulator: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """The emulator with settings that keep two of everything."""
    connect(emulator, monkeypatch, keep_versions=2, keep_snapshots=2)
    yield emulator
    wipe(emulator)
    get_settings.cache_clear()


@pytest.fixture
def days_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the test made is young any more."""
    monkeypatch.setattr(clean_up, "_now", lambda: datetime.now(UTC) + timedelta(days=2))


def export(cloud: Cloud, name: str, end: str) -> Snapshot:
    manifest = a_manifest(name)
    manifest = manifest.model_copy(update={"interval": manifest.interval.model_copy(update={"end": end})})
    cloud.put(f"shop/snapshots/{name}/train/part-0.parquet", b"rows")
    cloud.put(f"shop/snapshots/{name}/{MANIFEST}", manifest.to_bytes())
    return manifest.claim(f"s3://{BUCKET}/shop/snapshots/{name}/")


def clean(snapshot: Snapshot) -> Any:
    return CleanUpOperator(task_id="clean_up", snapshot=snapshot.to_xcom()).execute({})  # type: ignore[typeddict-item]


def left(cloud: Cloud) -> set[str]:
    """The objects that are there."""
    return {entry["Key"] for entry in cloud.s3.list_objects_v2(Bucket=BUCKET)["Contents"]}


def test_the_newest_and_what_is_live_stay(cloud: Cloud, days_later: None) -> None:
    configs = [make_model(cloud, f"pms-{number}") for number in range(4)]
    make_endpoint(cloud, "shop-recommender", configs[0])
    # Not ours, by tag, by place, by no tag at all.
    make_model(cloud, "pms-foreign", tags=FOREIGN)
    make_model(cloud, "pms-other-shop", key="elsewhere/models/pms-other-shop/model.tar.gz")
    make_model(cloud, "pms-untagged", tags=[])
    taken = [export(cloud, name, f"2026-12-0{n}") for n, name in enumerate(SNAPSHOTS, 1)]
    gone = clean(taken[0])
    # Two of each by number; the other shop's count as nobody's.
    assert gone == {"endpoint_configs": ["pms-1-config"], "models": ["pms-1"], "snapshots": [SNAPSHOTS[1]]}
    there = names(cloud)
    assert there["models"] == {"pms-0", "pms-2", "pms-3", "pms-foreign", "pms-other-shop", "pms-untagged"}
    assert there["configs"] == {f"{name}-config" for name in there["models"]}
    assert {key.split("/")[2] for key in left(cloud) if "/snapshots/" in key} == set(SNAPSHOTS) - {
        SNAPSHOTS[1]
    }
    assert cloud.invoke("shop-recommender")["model"] == "fine"
    assert clean(taken[0]) == {"endpoint_configs": [], "models": [], "snapshots": []}


def test_nothing_young_goes(cloud: Cloud) -> None:
    for number in range(4):
        make_model(cloud, f"pms-{number}")
    taken = [export(cloud, name, f"2026-12-0{n}") for n, name in enumerate(SNAPSHOTS, 1)]
    assert clean(taken[0]) == {"endpoint_configs": [], "models": [], "snapshots": []}


def test_what_an_endpoint_moves_to_and_a_running_job_reads_stay(
    cloud: Cloud, days_later: None, tmp_path: Path
) -> None:
    configs = [make_model(cloud, f"pms-{number}") for number in range(4)]
    slow = make_config(cloud, "theirs", "pms-1", tags=FOREIGN)
    make_endpoint(cloud, "theirs", slow, [])
    taken = [export(cloud, name, f"2026-12-0{n}") for n, name in enumerate(SNAPSHOTS, 1)]
    source = {"S3DataType": "S3Prefix", "S3Uri": taken[1].uri}
    request = cloud.job_request(
        "import time; time.sleep(60)",
        InputDataConfig=[{"ChannelName": "snapshot", "DataSource": {"S3DataSource": source}}],
    )
    cloud.sagemaker.create_training_job(**request)
    try:
        gone = clean(taken[2])
    finally:
        cloud.sagemaker.stop_training_job(TrainingJobName=request["TrainingJobName"])
    # Another person's endpoint serves `pms-1`, so that its configuration of ours stays as well.
    assert gone == {"endpoint_configs": [configs[0]], "models": ["pms-0"], "snapshots": [SNAPSHOTS[0]]}


def test_a_thing_that_another_clean_up_took_is_no_fault(
    cloud: Cloud, days_later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        make_model(cloud, f"pms-{number}")
    own = export(cloud, SNAPSHOTS[3], "2026-12-04")
    stock = clean_up.take_stock

    def then_another_cleans(client: Any, settings: Any) -> Any:
        found = stock(client, settings)
        client.delete_endpoint_config(EndpointConfigName="pms-0-config")
        client.delete_model(ModelName="pms-0")
        return found

    monkeypatch.setattr(clean_up, "take_stock", then_another_cleans)
    assert clean(own) == {"endpoint_configs": ["pms-1-config"], "models": ["pms-1"], "snapshots": []}


def patched(monkeypatch: pytest.MonkeyPatch, cloud: Cloud, around: Callable[..., Any]) -> None:
    """Has every call of a client go through a function that is given the one to call."""
    passed_on = type(cloud.sagemaker)._make_api_call

    def call(client: Any, operation: str, request: Any) -> Any:
        return around(partial(passed_on, client, operation, request), operation, request)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", call)


@pytest.mark.parametrize("operation", ["DeleteEndpointConfig", "DeleteModel"])
def test_what_goes_live_while_others_are_deleted_stays(
    cloud: Cloud, days_later: None, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """A roll-back chooses what is next to go, after the first of its kind went."""
    for number in range(4):
        make_model(cloud, f"pms-{number}")
    own = export(cloud, SNAPSHOTS[3], "2026-12-04")
    begun: list[str] = []

    def roll_back(call: Callable[[], Any], asked: str, request: Any) -> Any:
        answer = call()
        if asked == operation and not begun:
            begun.append(asked)
            if operation == "DeleteModel":
                make_config(cloud, "pms-0-config", "pms-0")
            make_endpoint(cloud, "shop-recommender", "pms-0-config")
        return answer

    with monkeypatch.context() as meanwhile:
        patched(meanwhile, cloud, roll_back)
        gone = clean(own)
    assert begun and "pms-0" in names(cloud)["models"] and "pms-0-config" in names(cloud)["configs"]
    assert "pms-0" not in gone["models"]
    assert cloud.invoke("shop-recommender")["model"] == "fine"


@pytest.mark.parametrize("operation", ["DescribeEndpoint", "DescribeEndpointConfig"])
def test_an_endpoint_that_may_not_be_looked_at_stops_the_clean_up(
    cloud: Cloud, days_later: None, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    for number in range(4):
        make_model(cloud, f"pms-{number}")
    make_endpoint(cloud, "theirs", make_config(cloud, "theirs", "pms-0", tags=FOREIGN), FOREIGN)
    own = export(cloud, SNAPSHOTS[3], "2026-12-04")

    def denied(call: Callable[[], Any], asked: str, request: Any) -> Any:
        if asked == operation and "theirs" in request.values():
            raise refusal(operation, "AccessDeniedException", "not authorized")
        return call()

    patched(monkeypatch, cloud, denied)
    assert clean(own) == {"endpoint_configs": [], "models": [], "snapshots": []}
    assert "pms-0" in names(cloud)["models"]


def test_an_endpoint_that_cannot_be_known_stops_the_clean_up(cloud: Cloud, days_later: None) -> None:
    configs = [make_model(cloud, f"pms-{number}") for number in range(4)]
    make_endpoint(cloud, "shop-recommender", configs[0])
    cloud.sagemaker.delete_endpoint_config(EndpointConfigName=configs[0])
    own = export(cloud, SNAPSHOTS[3], "2026-12-04")
    assert clean(own)["models"] == []
    assert "pms-1" in names(cloud)["models"]

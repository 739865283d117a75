from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from include.contracts import BadInputError, Champion
from include.gate.rival import NOTHING_LIVE, Rival
from include.sagemaker.champion import fetch_champion, find_champion
from include.tags import tags
from tests.operators.fake_sagemaker import FakeSageMaker, refusal

ENDPOINT, CONFIG, MODEL = "shop-recommender", "pms-config", "pms-model"
URI = "s3://shop/models/pms-1/output/model.tar.gz"
LIVE = Champion(model_name=MODEL, model_uri=URI, job_name="pms-1", snapshot_id="snap-1")
OUR_TAGS = tags(training_job="pms-1", snapshot_id="snap-1")
VARIANT = {"VariantName": "AllTraffic", "ModelName": MODEL, "InitialVariantWeight": 1.0}


@pytest.fixture
def sagemaker(monkeypatch: pytest.MonkeyPatch) -> FakeSageMaker:
    """A scripted SageMaker behind every boto3 client of this process."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fake = FakeSageMaker()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def live(sagemaker: FakeSageMaker) -> FakeSageMaker:
    """A SageMaker where one of our models is live."""
    sagemaker._CreateModel(MODEL, PrimaryContainer={"Image": "i", "ModelDataUrl": URI}, Tags=OUR_TAGS)
    sagemaker.configs[CONFIG] = {"EndpointConfigName": CONFIG, "ProductionVariants": [VARIANT]}
    sagemaker.endpoints[ENDPOINT] = [{"EndpointStatus": "InService", "EndpointConfigName": CONFIG}]
    return sagemaker


def find() -> Rival:
    return find_champion(
        boto3.client("sagemaker", aws_access_key_id="x", aws_secret_access_key="x"), ENDPOINT
    )


def test_the_live_model_is_found_with_its_making(live: FakeSageMaker) -> None:
    assert find() == Rival(champion=LIVE)


def test_nothing_is_live_before_the_first_deploy(sagemaker: FakeSageMaker) -> None:
    assert find() == NOTHING_LIVE


@pytest.mark.parametrize("status", ["Updating", "RollingBack", "SystemUpdating", "UpdateRollbackFailed"])
def test_an_endpoint_on_its_way_still_serves(live: FakeSageMaker, status: str) -> None:
    live.endpoints[ENDPOINT][0]["EndpointStatus"] = status
    assert find().champion == LIVE


@pytest.mark.parametrize("status", ["Creating", "Deleting", "Failed"])
def test_an_endpoint_that_serves_nobody_has_no_live_model(live: FakeSageMaker, status: str) -> None:
    live.endpoints[ENDPOINT][0]["EndpointStatus"] = status
    rival = find()
    assert rival.champion is None and "Nothing is live" in str(rival.absent)


def test_the_variant_with_most_traffic_counts(live: FakeSageMaker) -> None:
    shadow = {"VariantName": "b", "ModelName": "other", "InitialVariantWeight": 0.1}
    live.configs[CONFIG]["ProductionVariants"] = [shadow, VARIANT]
    assert find().champion == LIVE


CONTAINERS: dict[str, dict[str, Any]] = {
    "pipeline": {"Containers": [{"ModelDataUrl": URI}]},
    "data_source": {
        "PrimaryContainer": {
            "ModelDataSource": {"S3DataSource": {"S3Uri": URI, "CompressionType": "Gzip"}},
        }
    },
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_an_artefact_is_found_wherever_a_model_names_it(live: FakeSageMaker, name: str) -> None:
    live.models[MODEL] = {"ModelName": MODEL, "ModelArn": "arn", "Tags": OUR_TAGS, **CONTAINERS[name]}
    assert find().champion == LIVE


def test_a_live_model_of_others_has_no_job(live: FakeSageMaker) -> None:
    live.models[MODEL]["Tags"] = []
    assert find().champion == LIVE.model_copy(update={"job_name": None, "snapshot_id": None})


def test_tags_that_may_not_be_read_are_done_without(
    live: FakeSageMaker, caplog: pytest.LogCaptureFixture
) -> None:
    live.faults["ListTags"] = refusal("ListTags", "AccessDeniedException", "no", 403)
    champion = find().champion
    assert champion is not None and champion.model_uri == URI and champion.job_name is None
    assert "Allow ListTags" in caplog.text


@pytest.mark.parametrize("gone", ["configs", "models"])
def test_what_was_deleted_under_a_live_endpoint_closes_the_gate(live: FakeSageMaker, gone: str) -> None:
    getattr(live, gone).clear()
    rival = find()
    assert rival.absent is None and "was deleted" in str(rival.fault)


FAULTY: dict[str, dict[str, Any]] = {
    "model_package": {"PrimaryContainer": {"ModelPackageName": "arn"}},
    "folder_of_files": {
        "PrimaryContainer": {
            "ModelDataSource": {"S3DataSource": {"S3Uri": "s3://b/f/", "CompressionType": "None"}}
        }
    },
    "nothing": {},
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_live_model_without_an_archive_closes_the_gate(live: FakeSageMaker, name: str) -> None:
    live.models[MODEL] = {"ModelName": MODEL, "ModelArn": "arn", **FAULTY[name]}
    rival = find()
    assert rival.absent is None and "model.tar.gz" in str(rival.fault)


def test_a_configuration_without_a_model_closes_the_gate(live: FakeSageMaker) -> None:
    live.configs[CONFIG]["ProductionVariants"] = [{"VariantName": "components"}]
    assert "names no model" in str(find().fault)


@pytest.mark.parametrize("operation", ["DescribeEndpoint", "DescribeEndpointConfig", "DescribeModel"])
def test_a_refusal_to_say_is_not_a_first_deploy(live: FakeSageMaker, operation: str) -> None:
    live.faults[operation] = refusal(operation, "AccessDeniedException", "no", 403)
    with pytest.raises(ClientError):
        find()


# What fetching the artefact ends with, and the rival's fault.
FETCHED: dict[str, tuple[Exception | None, str | None]] = {
    "fetched": (None, None),
    "gone": (BadInputError("does not exist"), "does not exist"),
    "damaged": (BadInputError("cannot be unpacked"), "cannot be unpacked"),
    "denied": (refusal("HeadObject", "403", "Forbidden", 403), "Allow HeadObject"),
}


@pytest.mark.parametrize("name", FETCHED)
def test_an_artefact_that_cannot_be_had(name: str) -> None:
    error, fault = FETCHED[name]

    def fetch(uri: str) -> None:
        assert uri == URI
        if error is not None:
            raise error

    rival = fetch_champion(Rival(champion=LIVE), fetch)
    assert rival.champion == LIVE, "it is live all the same"
    assert rival.is_measurable is (error is None)
    assert rival.absent is None and (fault or "None") in str(rival.fault)


def test_a_fault_of_the_transport_is_for_a_retry() -> None:
    def fetch(uri: str) -> None:
        raise refusal("GetObject", "SlowDown", "later", 503)

    with pytest.raises(ClientError):
        fetch_champion(Rival(champion=LIVE), fetch)


def test_nothing_is_fetched_where_nothing_is_live() -> None:
    def fetch(uri: str) -> None:
        raise AssertionError(uri)

    assert fetch_champion(NOTHING_LIVE, fetch) == NOTHING_LIVE

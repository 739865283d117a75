from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from include.contracts import BadInputError
from include.sagemaker.prices import cost_sentence, load_prices
from include.sagemaker.results import moment_of, spot_saving, trained_model
from tests.sagemaker.test_training import SNAPSHOT


def described(**changes: Any) -> dict[str, Any]:
    return {
        "TrainingJobName": "pms-x",
        "TrainingJobArn": "arn:aws:sagemaker:us-east-1:123456789012:training-job/pms-x",
        "TrainingJobStatus": "Completed",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/p/models/pms-x/output/model.tar.gz"},
        "OutputDataConfig": {"S3OutputPath": "s3://b/p/models/"},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
        "CreationTime": datetime(2026, 11, 24, 9, 30, tzinfo=timezone(timedelta(hours=1))),
        "TrainingTimeInSeconds": 30,
        **changes,
    }


SPOT = {"EnableManagedSpotTraining": True, "TrainingTimeInSeconds": 500, "BillableTimeInSeconds": 100}


def test_claim_check_of_a_completed_job() -> None:
    trained = trained_model(described(), SNAPSHOT)
    assert trained.model_uri == "s3://b/p/models/pms-x/output/model.tar.gz"
    assert trained.evaluation_uri == "s3://b/p/models/pms-x/output/output.tar.gz"
    assert (trained.data_until, trained.trained_at) == ("2026-02-01", "2026-11-24T08:30:00+00:00")
    assert trained.billable_seconds == 30
    assert trained_model(described(BillableTimeInSeconds=42), SNAPSHOT).billable_seconds == 42


def test_every_instance_is_billed() -> None:
    two = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 2}
    trained = trained_model(described(BillableTimeInSeconds=1800, ResourceConfig=two), SNAPSHOT)
    assert trained.billable_seconds == 3600
    assert trained.cost_usd == pytest.approx(load_prices().training["ml.m5.xlarge"])
    assert trained.spot_saving is None
    assert cost_sentence(trained) == (
        "The training is billed 3600 instance-seconds: 0.23 US dollars at list price."
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"ResourceConfig": {"InstanceType": "ml.unheard.of", "InstanceCount": 1}},
        {"TrainingJobArn": "arn:aws:sagemaker:eu-north-1:123456789012:training-job/pms-x"},
    ],
    ids=["instance", "region"],
)
def test_without_a_price_there_is_no_cost(changes: dict[str, Any]) -> None:
    trained = trained_model(described(**changes), SNAPSHOT)
    assert trained.cost_usd is None
    assert "no price known" in cost_sentence(trained)


def test_spare_capacity_saves_what_is_not_billed() -> None:
    trained = trained_model(described(**SPOT), SNAPSHOT)
    assert trained.spot_saving == pytest.approx(0.8)
    assert trained.billable_seconds == 100
    assert cost_sentence(trained).endswith("spare capacity saved 80%.")
    # Half of the time of both was billed.
    other = described(**{**SPOT, "TrainingTimeInSeconds": 100, "BillableTimeInSeconds": 200})
    assert spot_saving([described(**SPOT), other]) == pytest.approx(0.5)
    assert spot_saving([described(EnableManagedSpotTraining=True, TrainingTimeInSeconds=0)]) is None


def test_a_moment_that_is_not_told_is_not_made_up() -> None:
    assert moment_of({}) is None
    assert moment_of({"CreationTime": datetime(2026, 1, 1, tzinfo=UTC)}) == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("changes", [{"TrainingJobStatus": "Stopped"}, {"ModelArtifacts": {}}])
def test_unfinished_job_has_no_claim_check(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        trained_model(described(**changes), SNAPSHOT)

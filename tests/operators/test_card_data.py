from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator
from moto import mock_aws
from moto.sagemaker.models import sagemaker_backends

from include import snapshots
from include.assets import RAW_EVENTS
from include.cards.card import Card
from include.operators import card_data
from include.operators.card_data import CONTENT_TYPES, draw_card
from include.settings import Settings
from tests.cards.cards import CHAMPION, TRAINED, TRAINING, report, verdict

BUCKET, SNAPSHOT = "shop-bucket", "snap-0123456789abcdef"
SETTINGS = Settings(_env_file=None, bucket=BUCKET, prefix="shop")  # type: ignore[call-arg]
MODEL = TRAINED.model_copy(update={"snapshot_id": SNAPSHOT})
MANIFEST = snapshots.Manifest(
    snapshot_id=SNAPSHOT,
    tenant="t",
    interval=snapshots.Interval(start="2026-01-01", end="2026-02-01"),
    split=snapshots.Split(validation_start="2026-01-20T00:00:00Z", test_start="2026-01-25T00:00:00Z"),
    counts={"train": 4321, "validation": 500, "test": 501, "catalog": 9},
    files=(),
    sql_sha256="",
    dbt_manifest_sha256="",
    high_water_mark="",
    profile={},
)


class Events(list[Any]):
    """What Airflow hands out: asked for the newest first, it has the newest first."""

    def ascending(self, ascending: bool) -> Events:
        return self if ascending else Events(self[::-1])

    def before(self, moment: str) -> Events:
        return Events(event for event in self if event.timestamp <= datetime.fromisoformat(moment))

    def limit(self, most: int) -> Events:
        return Events(self[:most])


class Night:
    """A run, with S3, SageMaker and the folder that the training job's evaluation was unpacked into."""

    def __init__(self, s3: Any, sagemaker: Any, evaluation: Path) -> None:
        self.s3, self.sagemaker, self.evaluation = s3, sagemaker, evaluation
        with DAG("shop", schedule=None):
            self.task: BaseOperator = EmptyOperator(task_id="gate_model", inlets=[RAW_EVENTS])
        self.context: dict[str, Any] = {"run_id": "run", "ti": None}
        self.trained = MODEL
        self.report: str | None = json.dumps(report())
        self.verdict = verdict(snapshot_id=SNAPSHOT, champion=None)

    def draw(self) -> dict[str, str]:
        return draw_card(
            self.task,
            self.context,  # type: ignore[arg-type]
            SETTINGS,
            self.s3,
            self.trained,
            self.verdict,
            self.evaluation,
            self.report,
        )

    def card(self) -> Card:
        return Card.model_validate_json(self.draw()["card.json"])


@pytest.fixture
def night(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Night]:
    connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": {"region_name": "us-east-1"}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    with mock_aws():
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        s3 = boto3.client("s3", "us-east-1", **keys)
        s3.create_bucket(Bucket=BUCKET)
        (tmp_path / "metrics.json").write_text(json.dumps(TRAINING))
        yield Night(s3, boto3.client("sagemaker", "us-east-1", **keys), tmp_path)


def put_endpoint(sagemaker: Any) -> None:
    role = "arn:aws:iam::123456789012:role/r"
    sagemaker.create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
    variant = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="pms-before", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=SETTINGS.endpoint_name, EndpointConfigName="pms-before")


def put_items(night: Night, **columns: Any) -> None:
    pq.write_table(
        pa.table({"product_sku": ["c", "a", "unseen"], **columns}), night.evaluation / "items.parquet"
    )


def test_every_form_is_drawn_with_the_page_last(night: Night) -> None:
    pages = night.draw()
    assert list(pages) == [*CONTENT_TYPES] and list(pages)[-1] == "card.html"
    assert "<!doctype html>" in pages["card.html"] and "# Model Card" in pages["card.md"]


def test_what_was_asked_and_what_it_costs_are_those_of_the_run(night: Night) -> None:
    night.context["params"] = {"training_instance_type": "ml.m5.xlarge", "epochs": 3}
    night.trained = night.trained.model_copy(update={"cost_usd": 1.23, "spot_saving": 0.6})
    night.context["dag_run"] = SimpleNamespace(conf={"epochs": 3})
    card = night.card()
    assert {asked.name: (asked.text, asked.chosen) for asked in card.asked} == {
        "training_instance_type": ("ml.m5.xlarge", False),
        "epochs": ("3", True),
    }
    assert card.cost is not None and card.cost.training_instance == "ml.m5.xlarge"
    assert (card.cost.training_usd, card.cost.training_saving) == (1.23, 0.6)
    assert card.run_id == "run" and card.judged_at is not None


def test_an_instance_without_a_price_has_no_cost(night: Night) -> None:
    night.context["params"] = {"training_instance_type": "ml.m7i.large"}
    cost = night.card().cost
    assert cost is not None and cost.training_usd is None and cost.endpoint_usd_per_hour is not None


def test_the_way_back_is_the_configuration_that_is_live(night: Night) -> None:
    put_endpoint(night.sagemaker)
    night.verdict = verdict(snapshot_id=SNAPSHOT, champion=CHAMPION)
    rollback = night.card().rollback
    assert rollback is not None
    assert rollback.commands[0] == (
        "aws sagemaker update-endpoint --endpoint-name shop-recommender --region us-east-1 "
        "--endpoint-config-name pms-before"
    )


@pytest.mark.parametrize(
    ("status", "champion", "said"),
    [
        ("Creating", None, "Nothing was live"),
        ("Failed", None, "Nothing was live"),
        ("Updating", CHAMPION, "could not be read"),
        ("RollingBack", CHAMPION, "could not be read"),
    ],
)
def test_only_a_configuration_that_answers_is_a_way_back(
    night: Night, monkeypatch: pytest.MonkeyPatch, status: str, champion: Any, said: str
) -> None:
    put_endpoint(night.sagemaker)
    [region] = sagemaker_backends["123456789012"]["us-east-1"].endpoints.values()
    monkeypatch.setattr(region, "endpoint_status", status)
    night.verdict = verdict(snapshot_id=SNAPSHOT, champion=champion)
    rollback = night.card().rollback
    assert rollback is not None and said in rollback.text
    assert not any("pms-before" in line for line in rollback.commands)


def test_a_first_deploy_has_nothing_to_go_back_to(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    rollback = night.card().rollback
    assert rollback is not None and "Nothing was live" in rollback.text
    assert "live endpoint" not in caplog.text, "that there is none is no fault"


def test_an_endpoint_that_cannot_be_asked_is_not_taken_for_none(
    night: Night, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", "not a connection")
    rollback = night.card().rollback
    assert rollback is not None and "could not be read" in rollback.text
    assert "goes without the live endpoint" in caplog.text


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"category": ["pans", None, "x"], "price_bucket": [6.0, 1.0, 2.0]}, [("pans", 6.0), (None, 1.0)]),
        ({"category": ["pans", None, "x"]}, [("pans", None), (None, None)]),
        ({"train_count": [1, 2, 3]}, [(None, None), (None, None)]),
    ],
    ids=["both", "no prices", "an older evaluation"],
)
def test_example_products_carry_what_the_catalogue_knows(
    night: Night, columns: dict[str, Any], expected: list[tuple[Any, Any]]
) -> None:
    put_items(night, **columns)
    example = night.card().examples[0]
    shown = (example.target, example.session[0])
    assert [(product.category, product.price_bucket) for product in shown] == expected


def test_the_raw_loads_of_the_snapshots_days_open_the_chain(night: Night) -> None:
    snapshots.publish(night.s3, snapshots.snapshot_uri(BUCKET, "shop", SNAPSHOT), MANIFEST)
    now = datetime.now(UTC)
    days = [
        ("etl-1", "2026-01-03", "t", now - timedelta(hours=2)),
        ("etl-2", "2026-01-04", "t", now - timedelta(hours=1)),
        ("etl-3", "2026-01-04", "u", now - timedelta(hours=1)),
        ("landed after the snapshot", "2026-01-04", "t", now + timedelta(hours=1)),
    ]
    night.context["inlet_events"] = {
        RAW_EVENTS: Events(
            SimpleNamespace(
                extra={"tenant": tenant, "etl_id": name, "first_event_date": day, "last_event_date": day},
                timestamp=landed,
            )
            for name, day, tenant, landed in days
        )
    }
    loads, snapshot, *_ = night.card().lineage
    assert loads.name == "2 loads" and "newest etl-2" in loads.details
    assert snapshot.details == ("2026-01-01 to before 2026-02-01", "5,322 sessions")


def test_what_cannot_be_read_leaves_a_gap_and_a_line_in_the_log(
    night: Night, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (night.evaluation / "items.parquet").write_bytes(b"PAR1 rubbish")

    def broken(*_: object) -> None:
        raise RuntimeError("no answer")

    monkeypatch.setattr(card_data, "_results", broken)
    assert list(night.draw()) == [*CONTENT_TYPES]
    for what in ("the products", "dbt's tests"):
        assert f"The card goes without {what}" in caplog.text


@pytest.mark.parametrize("content", [None, "", "[1]", '{"history": NaN}', "[" * 200_000], ids=str)
def test_a_broken_metrics_file_does_not_cost_the_card(night: Night, content: str | None) -> None:
    path = night.evaluation / "metrics.json"
    path.unlink() if content is None else path.write_text(content)
    assert night.card().facts == ()


def test_one_form_that_cannot_be_drawn_does_not_cost_the_others(
    night: Night, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(card: Card) -> str:
        raise RuntimeError("out of ink")

    monkeypatch.setitem(card_data._RENDERERS, "card.md", broken)
    assert list(night.draw()) == ["card.json", "card.html"]
    assert "out of ink" in caplog.text


def test_a_card_that_cannot_be_made_is_none(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Card:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(card_data, "compose", broken)
    assert night.draw() == {}

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, chain
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from moto import mock_aws

from include import drift, snapshots
from include.cards.card import Card
from include.contracts import BadInputError, Verdict
from include.dbt_artifacts import XCOM_KEY
from include.operators import card_data, gate_model
from include.operators.gate_model import GateModelOperator, ModelRejectedError, run_suite, unpack_evaluation
from include.runs import write_record
from include.settings import Settings
from tests.gate.evaluations import Row, build, write

BUCKET, JOB = "shop-bucket", "pms-0123456789ab"
SNAPSHOT, PREVIOUS = "snap-0123456789abcdef", "snap-fedcba9876543210"
TRAINED = {
    "job_name": JOB,
    "job_arn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{JOB}",
    "snapshot_id": SNAPSHOT,
    "model_uri": f"s3://{BUCKET}/shop/models/{JOB}/output/model.tar.gz",
    "evaluation_uri": f"s3://{BUCKET}/shop/models/{JOB}/output/output.tar.gz",
    "billable_seconds": 60,
}
REPORTS = f"shop/reports/{JOB}"
CARD = ["card.html", "card.json", "card.md"]


class Ti:
    """Keeps what is pushed to XCom, and hands over what other tasks left."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        self.left: dict[tuple[str, str], Any] = {}

    def xcom_pull(self, *, task_ids: list[str], key: str) -> list[Any]:
        return [self.left.get((name, key)) for name in task_ids]

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value, allow_nan=False))


class Cloud:
    """S3 with a training job's output, and the gate's task."""

    def __init__(self, client: Any, folder: Path) -> None:
        self.client, self.folder, self.ti = client, folder, Ti()

    def put(self, rows: list[Row], counts: Row) -> None:
        write(self.folder / "evaluation", rows, counts)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            tar.add(self.folder / "evaluation", arcname="evaluation")
        self.put_archive(archive.getvalue())

    def put_archive(self, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=TRAINED["evaluation_uri"].split("/", 3)[3], Body=content)

    def run(self, trained: object = TRAINED, override: object = "") -> dict[str, Any]:
        with DAG("shop", schedule=None):
            operator = GateModelOperator(
                task_id="gate_model",
                trained_model=trained,
                override_reason=override,  # type: ignore[arg-type]
            )
            before = [EmptyOperator(task_id=name) for name in ("transform.a", "transform.b", "export")]
            chain(*before, operator)
        return operator.execute({"ti": self.ti, "run_id": "run"})  # type: ignore[arg-type,typeddict-item]

    def put_data(self) -> None:
        """What export and transform left: manifest, drift, record, and the results of dbt's tests."""
        uri = snapshots.snapshot_uri(BUCKET, "shop", SNAPSHOT)
        manifest = snapshots.Manifest(
            snapshot_id=SNAPSHOT,
            tenant="t",
            interval=snapshots.Interval(start="2026-01-01", end="2026-02-01"),
            split=snapshots.Split(validation_start="2026-01-20T00:00:00Z", test_start="2026-01-25T00:00:00Z"),
            counts={"train": 4321, "validation": 500, "test": 501, "catalog": 9},
            files=(),
            sql_sha256="",
            dbt_manifest_sha256="",
            high_water_mark="",
            profile={"splits": {"train": {"interactions": 20123}}, "test_unknown_share": 0.034},
        )
        snapshots.publish(self.client, uri, manifest)
        level = {"lengths": drift.Measure(value=0.3, level="large")}
        moved = drift.Drift(snapshot_id=SNAPSHOT, previous_snapshot_id=PREVIOUS, measures=level)
        where = drift.write(self.client, BUCKET, "shop", moved)
        claim = manifest.claim(uri).model_copy(update={"drift_uri": where, "previous_snapshot_id": PREVIOUS})
        write_record(self.client, BUCKET, "shop", "run", claim)
        for task, name, status in (("a", "unique_sessions", "pass"), ("b", "<few>_bots", "warn")):
            body = {"results": [{"unique_id": f"test.shop.{name}.1", "status": status}]}
            self.client.put_object(Bucket=BUCKET, Key=f"dbt/{task}.json", Body=json.dumps(body))
            left = {"run_results_uri": f"s3://{BUCKET}/dbt/{task}.json"}
            self.ti.left[f"transform.{task}", XCOM_KEY] = left

    def read(self, name: str) -> str:
        return self.client.get_object(Bucket=BUCKET, Key=f"{REPORTS}/{name}")["Body"].read().decode()

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=REPORTS).get("Contents", [])
        return sorted(item["Key"].rsplit("/", 1)[1] for item in found)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, root: Path) -> Settings:
    chosen = Settings(
        _env_file=None, bucket=BUCKET, prefix="shop", ml_python=root / ".venv-ml" / "bin" / "python"
    )  # type: ignore[call-arg]
    monkeypatch.setattr(gate_model, "get_settings", lambda: chosen)
    connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": {"region_name": "us-east-1"}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    return chosen


@pytest.fixture
def cloud(settings: Settings, tmp_path: Path) -> Iterator[Cloud]:
    with mock_aws():
        client = boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket=BUCKET)
        yield Cloud(client, tmp_path)


def test_a_good_model_is_approved_and_its_reports_are_written(cloud: Cloud, ml_python: Path) -> None:
    cloud.put(*build())
    returned = cloud.run()
    verdict = Verdict.model_validate(returned)
    assert verdict.approved
    assert cloud.keys() == [*CARD, "report.json", "verdict.json"]
    assert json.loads(cloud.read("verdict.json")) == returned
    assert verdict.card_uri == f"s3://{BUCKET}/{REPORTS}/card.html"
    assert verdict.report_uri == f"s3://{BUCKET}/{REPORTS}/report.json"
    page = cloud.read("card.html")
    assert "<polyline" in page and "What it recommends" in page and "covisitation" in page
    assert Card.model_validate_json(cloud.read("card.json")).outcome == "approved"
    assert "# Model Card for" in cloud.read("card.md")
    heads = [cloud.client.head_object(Bucket=BUCKET, Key=f"{REPORTS}/{name}") for name in CARD]
    assert [head["ContentType"].split(";")[0] for head in heads] == [
        "text/html",
        "application/json",
        "text/markdown",
    ]


def test_a_rejected_model_stops_the_run_and_leaves_its_verdict_in_xcom(cloud: Cloud, ml_python: Path) -> None:
    cloud.put(*build(learnable=False))
    with pytest.raises(ModelRejectedError, match=f"rejected {JOB}.*hit_rate.*popularity") as caught:
        cloud.run()
    assert isinstance(caught.value, AirflowFailException), "a retry would measure the same model again"
    verdict = Verdict.model_validate(cloud.ti.pushed["return_value"])
    assert not verdict.approved and verdict.failures
    assert json.loads(cloud.read("verdict.json"))["approved"] is False
    kept = cloud.client.get_object(Bucket=BUCKET, Key="shop/runs/run/verdict.json")["Body"].read()
    assert Verdict.model_validate_json(kept) == verdict
    assert "rejected" in cloud.read("card.html")


def test_an_override_with_a_reason_goes_through(cloud: Cloud, ml_python: Path) -> None:
    cloud.put(*build(learnable=False))
    verdict = Verdict.model_validate(cloud.run(override="A rehearsal."))
    assert verdict.approved and verdict.override_reason == "A rehearsal."
    assert "A rehearsal." in cloud.read("card.html")


@pytest.mark.parametrize("blank", ["", "   ", None])
def test_a_blank_override_is_none(cloud: Cloud, ml_python: Path, blank: object) -> None:
    cloud.put(*build(learnable=False))
    with pytest.raises(ModelRejectedError):
        cloud.run(override=blank)


def test_a_card_that_cannot_be_drawn_does_not_decide(
    cloud: Cloud, ml_python: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(card_data, "compose", broken)
    cloud.put(*build())
    verdict = Verdict.model_validate(cloud.run())
    assert verdict.approved and verdict.card_uri is None
    assert cloud.keys() == ["report.json", "verdict.json"]


SHOWN = {
    "snapshot": ("4,321", "manifest could not be read"),
    "drift": (PREVIOUS, "no comparison"),
    "tests": (">1 passed<", "left no results"),
}


def card_after(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> str:
    """Draws the card of a model whose report is empty: the suite does not matter here."""
    monkeypatch.setattr(gate_model, "run_suite", lambda *_: "")
    cloud.put(*build(queries=30))
    with pytest.raises(ModelRejectedError):
        cloud.run()
    return cloud.read("card.html")


def test_the_card_shows_snapshot_drift_and_the_tests_of_every_dbt_task(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.put_data()
    page = card_after(cloud, monkeypatch)
    for there, missing in SHOWN.values():
        assert there in page and missing not in page
    assert "&lt;few&gt;_bots" in page and "<few>" not in page


def test_a_run_without_transform_has_a_card_that_says_so(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.put_data()
    cloud.ti.left.clear()
    page = card_after(cloud, monkeypatch)
    assert "left no results" in page and "4,321" in page
    assert "The card goes without" not in caplog.text, "nothing is amiss"


def test_the_drift_of_another_snapshot_is_not_shown(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.put_data()
    record = json.loads(
        cloud.client.get_object(Bucket=BUCKET, Key="shop/runs/run/snapshot.json")["Body"].read()
    )
    body = json.dumps(record | {"snapshot_id": PREVIOUS})
    cloud.client.put_object(Bucket=BUCKET, Key="shop/runs/run/snapshot.json", Body=body)
    assert "no comparison" in card_after(cloud, monkeypatch)


DRIFT_KEY = f"shop/drift/{SNAPSHOT}/{PREVIOUS}.json"


@pytest.mark.parametrize(
    ("missing", "key", "body"),
    [
        ("snapshot", f"shop/snapshots/{SNAPSHOT}/manifest.json", b"{"),
        ("drift", DRIFT_KEY, None),
        ("drift", DRIFT_KEY, b'{"measures": "<script>"}'),
        ("drift", "shop/runs/run/snapshot.json", b"{}"),
        ("tests", "dbt/a.json", None),
        ("tests", "dbt/a.json", b"\xff{"),
    ],
)
def test_data_that_cannot_be_read_leave_a_gap_and_do_not_fail_the_gate(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, missing: str, key: str, body: bytes | None
) -> None:
    cloud.put_data()
    where = {"Bucket": BUCKET, "Key": key}
    cloud.client.delete_object(**where) if body is None else cloud.client.put_object(Body=body, **where)
    page = card_after(cloud, monkeypatch)
    for name, (there, gap) in SHOWN.items():
        assert (gap if name == missing else there) in page


def test_xcom_that_does_not_answer_does_not_fail_the_gate(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(**_: object) -> None:
        raise RuntimeError("no answer")

    cloud.put_data()
    monkeypatch.setattr(cloud.ti, "xcom_pull", down)
    assert "left no results" in card_after(cloud, monkeypatch)
    assert "The card goes without dbt's tests" in caplog.text


def test_a_missing_ml_environment_says_how_to_build_it(
    cloud: Cloud, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = settings.model_copy(update={"ml_python": tmp_path / "no" / "python"})
    monkeypatch.setattr(gate_model, "get_settings", lambda: missing)
    cloud.put(*build(queries=30))
    with pytest.raises(AirflowException, match="make setup"):
        cloud.run()
    assert cloud.keys() == [], "nothing was decided"


@pytest.mark.parametrize("report", ["", '{"schema_version": 1, "che'], ids=["empty", "truncated"])
def test_a_truncated_report_rejects(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, report: str) -> None:
    def suite(python: Path, evaluation: Path, out: Path) -> str:
        out.write_text(report)
        return ""

    monkeypatch.setattr(gate_model, "run_suite", suite)
    cloud.put(*build(queries=30))
    with pytest.raises(ModelRejectedError, match="cannot be read"):
        cloud.run()
    assert cloud.keys() == [*CARD, "report.json", "verdict.json"]


@pytest.mark.parametrize("trained", [None, {}, "pms-1", {**TRAINED, "surprise": 1}], ids=str)
def test_a_wrong_claim_check_is_not_retried(cloud: Cloud, trained: object) -> None:
    with pytest.raises(AirflowFailException, match="handed over no TrainedModel"):
        cloud.run(trained)


def test_a_missing_output_is_named(cloud: Cloud) -> None:
    with pytest.raises(AirflowFailException, match=r"output\.tar\.gz does not exist"):
        cloud.run()


def _tar(*members: tuple[str, bytes, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = (len(content), kind) if kind == tarfile.REGTYPE else (0, kind)
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


DAMAGED = {
    "empty": b"",
    "not_gzip": b"PK\x03\x04 rubbish",
    "gzip_of_rubbish": gzip.compress(b"rubbish" * 500),
    "truncated": _tar(("evaluation/metrics.json", bytes(range(256)) * 400, tarfile.REGTYPE))[:-300],
    "bit_flip": (lambda raw: raw[:60] + bytes([raw[60] ^ 0xFF]) + raw[61:])(
        _tar(("evaluation/metrics.json", bytes(range(256)) * 400, tarfile.REGTYPE))
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_archive_is_bad_input(cloud: Cloud, name: str) -> None:
    cloud.put_archive(DAMAGED[name])
    with pytest.raises(AirflowFailException, match="cannot be unpacked"):
        cloud.run()


def test_only_the_files_of_the_evaluation_leave_the_archive(tmp_path: Path) -> None:
    regular = tarfile.REGTYPE
    archive = tmp_path / "output.tar.gz"
    archive.write_bytes(
        _tar(
            ("./evaluation/metrics.json", b"{}", regular),
            ("evaluation/smoke.json", b"[]", regular),
            ("../../escaped.json", b"x", regular),
            ("/evaluation/../absolute.json", b"x", regular),
            ("evaluation/items.parquet", b"", tarfile.SYMTYPE),
            ("evaluation/predictions.parquet", b"", tarfile.LNKTYPE),
        )
    )
    folder = tmp_path / "inner" / "evaluation"
    folder.mkdir(parents=True)
    unpack_evaluation(archive, folder)
    assert [path.name for path in folder.iterdir()] == ["metrics.json"]
    found = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["metrics.json", "output.tar.gz"]


def test_an_archive_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_model, "MAX_UNPACKED_BYTES", 1000)
    archive = tmp_path / "output.tar.gz"
    archive.write_bytes(_tar(("evaluation/metrics.json", b"0" * 1001, tarfile.REGTYPE)))
    with pytest.raises(BadInputError, match="too large"):
        unpack_evaluation(archive, tmp_path)


def _script(tmp_path: Path, body: str) -> Path:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return python


def test_the_suite_does_not_see_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "hush")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    printed = run_suite(_script(tmp_path, "env; pwd"), tmp_path, tmp_path / "report.json")
    assert "hush" not in printed and "PYTHONPATH" not in printed
    assert str(tmp_path) in printed.splitlines()


def test_a_crashed_suite_shows_its_last_words(tmp_path: Path) -> None:
    python = _script(tmp_path, "echo 'No module named reclist' >&2; exit 1")
    with pytest.raises(AirflowException, match="exit status 1.*\n.*No module named reclist") as caught:
        run_suite(python, tmp_path, tmp_path / "report.json")
    assert not isinstance(caught.value, AirflowFailException), "a retry may help"


def test_a_hanging_suite_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(AirflowException, match="longer than 0.5 s") as caught:
        run_suite(_script(tmp_path, "exec sleep 60"), tmp_path, tmp_path / "report.json", timeout=0.5)
    assert isinstance(caught.value.__cause__, subprocess.TimeoutExpired)

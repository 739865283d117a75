from __future__ import annotations

import hashlib
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
from include.contracts import Verdict
from include.dbt_artifacts import XCOM_KEY
from include.gate.rules import load_rules
from include.operators import card_data, gate_model
from include.operators.gate_model import (
    GateModelOperator,
    ModelRejectedError,
    Subject,
    SuiteError,
    reports_uri,
    run_suite,
)
from include.runs import write_record
from include.settings import Settings
from tests.gate.evaluations import Row, build, write
from tests.gate.planted import Model, leave, queries, table
from tests.gate.tars import Member, tar
from tests.operators.fake_sagemaker import FakeSageMaker

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
REPORTS = f"shop/reports/{JOB}/{hashlib.sha256(b'run').hexdigest()[:12]}"
CARD = ["card.html", "card.json", "card.md"]
ENDPOINT, LIVE_URI = "shop-recommender", f"s3://{BUCKET}/shop/models/pms-live/output/model.tar.gz"
GOOD = Model(table("head", "tail"))
PACKAGE = tar(Member("1/saved_model.pb", b"challenger"), Member("code/inference.py"))


NOTHING_MEASURED = '{"schema_version": 1, "checks": []}'


class Ti:
    """Keeps what is pushed to XCom, and hands over what other tasks left."""

    try_number, max_tries = 1, 2

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        self.left: dict[tuple[str, str], Any] = {}

    def xcom_pull(self, *, task_ids: list[str], key: str) -> list[Any]:
        return [self.left.get((name, key)) for name in task_ids]

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value, allow_nan=False))


class Cloud:
    """S3 with a training job's output, and the gate's task."""

    def __init__(self, client: Any, folder: Path, sagemaker: FakeSageMaker) -> None:
        self.client, self.folder, self.ti, self.sagemaker = client, folder, Ti(), sagemaker
        self.put_object(str(TRAINED["model_uri"]), PACKAGE)

    def put_object(self, uri: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=uri.split("/", 3)[3], Body=content)

    def go_live(self, archive: bytes | None) -> None:
        """Puts a model behind the endpoint, with its artefact or without."""
        if archive is not None:
            self.put_object(LIVE_URI, archive)
        live = self.sagemaker
        live._CreateModel("pms-model", PrimaryContainer={"Image": "i", "ModelDataUrl": LIVE_URI})
        live._CreateEndpointConfig("pms-config", ProductionVariants=[{"ModelName": "pms-model"}])
        live.endpoints[ENDPOINT] = [{"EndpointStatus": "InService", "EndpointConfigName": "pms-config"}]

    def put(self, rows: list[Row], counts: Row) -> None:
        self.put_evaluation(write(self.folder / "evaluation", rows, counts))

    def put_evaluation(self, folder: Path) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as made:
            made.add(folder, arcname="evaluation")
        self.put_archive(archive.getvalue())

    def put_archive(self, content: bytes) -> None:
        self.put_object(str(TRAINED["evaluation_uri"]), content)

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

    def files(self) -> list[str]:
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
def cloud(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with mock_aws():
        client = boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket=BUCKET)
        sagemaker = FakeSageMaker()
        sagemaker.install(monkeypatch)
        yield Cloud(client, tmp_path, sagemaker)


def suite_reports(monkeypatch: pytest.MonkeyPatch, report: str) -> list[dict[str, str]]:
    """Puts a report in the suite's place; returns, for each run, which model lay in which folder."""
    seen: list[dict[str, str]] = []

    def suite(python: Path, subject: Subject, out: Path) -> str:
        folders = {"model": subject.model, "champion": subject.champion}
        seen.append(
            {name: (path / "1" / "saved_model.pb").read_text() for name, path in folders.items() if path}
        )
        assert subject.package_bytes == len(PACKAGE)
        out.write_text(report)
        return ""

    monkeypatch.setattr(gate_model, "run_suite", suite)
    return seen


def packed(ml_python: Path, folder: Path) -> bytes:
    """The artefact of a planted model, as its training job would upload it."""
    (folder / "tables.json").write_text(json.dumps({"good": GOOD.answers}))
    script = Path(__file__).resolve().parents[1] / "gate" / "packages.py"
    command = [ml_python, "-I", script, folder / "tables.json", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as made:
        made.add(folder / "good" / "1", arcname="1")
    return archive.getvalue()


def test_a_good_model_is_approved_and_its_reports_are_written(cloud: Cloud, ml_python: Path) -> None:
    package = packed(ml_python, cloud.folder)
    cloud.put_object(str(TRAINED["model_uri"]), package)
    cloud.put_evaluation(leave(cloud.folder / "evaluation", queries(GOOD)))
    cloud.go_live(package)
    returned = cloud.run()
    verdict = Verdict.model_validate(returned)
    assert verdict.approved, verdict.failures
    assert verdict.baselines["champion"]["hit_rate@20"] == verdict.metrics["hit_rate@20"]
    assert cloud.files() == [*CARD, "report.json", "verdict.json"]
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


def test_a_rejected_model_stops_the_run_and_leaves_its_verdict_in_xcom(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite_reports(monkeypatch, NOTHING_MEASURED)
    cloud.put(*build(queries=30))
    with pytest.raises(ModelRejectedError, match=f"rejected {JOB}.*hit_rate.*popularity") as caught:
        cloud.run()
    assert isinstance(caught.value, AirflowFailException), "a retry would measure the same model again"
    verdict = Verdict.model_validate(cloud.ti.pushed["return_value"])
    assert not verdict.approved and verdict.failures
    assert json.loads(cloud.read("verdict.json"))["approved"] is False
    kept = cloud.client.get_object(Bucket=BUCKET, Key="shop/runs/run/verdict.json")["Body"].read()
    assert Verdict.model_validate_json(kept) == verdict
    assert "rejected" in cloud.read("card.html")


def test_an_override_with_a_reason_goes_through(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    suite_reports(monkeypatch, NOTHING_MEASURED)
    cloud.put(*build(queries=30))
    verdict = Verdict.model_validate(cloud.run(override="A rehearsal."))
    assert verdict.approved and verdict.override_reason == "A rehearsal."
    assert "A rehearsal." in cloud.read("card.html")


@pytest.mark.parametrize("blank", ["", "   ", None])
def test_a_blank_override_is_none(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, blank: object) -> None:
    suite_reports(monkeypatch, NOTHING_MEASURED)
    cloud.put(*build(queries=30))
    with pytest.raises(ModelRejectedError):
        cloud.run(override=blank)


def test_a_card_that_cannot_be_drawn_does_not_decide(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, one_rule: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(card_data, "compose", broken)
    suite_reports(monkeypatch, NOTHING_MEASURED)
    cloud.put(*build(queries=30))
    verdict = Verdict.model_validate(cloud.run())
    assert verdict.approved and verdict.card_uri is None
    assert cloud.files() == ["report.json", "verdict.json"]


SHOWN = {
    "snapshot": ("4,321", "manifest could not be read"),
    "drift": (PREVIOUS, "no comparison"),
    "tests": (">1 passed<", "left no results"),
}


def card_after(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> str:
    """Draws the card of a model whose report is empty: the suite does not matter here."""
    suite_reports(monkeypatch, "")
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
    assert cloud.files() == [], "nothing was decided"


@pytest.mark.parametrize("report", ["", '{"schema_version": 1, "che'], ids=["empty", "truncated"])
def test_a_truncated_report_rejects(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, report: str) -> None:
    suite_reports(monkeypatch, report)
    cloud.put(*build(queries=30))
    with pytest.raises(ModelRejectedError, match="cannot be read"):
        cloud.run()
    assert cloud.files() == [*CARD, "report.json", "verdict.json"]


LOSS = {"name": "loss", "value": -0.2, "sample_size": 900}
RULES = """
version: 1
comparable: {check: knows, at_least: 0.5}
rules: [{name: not_worse, check: loss, needs: champion, at_least: -0.1, why: Because.}]
"""


@pytest.fixture
def one_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Leaves of the rules only one that holds the model against the live one."""
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    monkeypatch.setattr(gate_model, "load_rules", lambda: load_rules(file))
    return file


# What lies where the live model's artefact should, and words of the reason why the rule fails.
LIVE: dict[str, tuple[bytes | None, str]] = {
    "sound": (tar(Member("1/saved_model.pb", b"live")), "loss is -0.2"),
    "gone": (None, "does not exist"),
    "damaged": (PACKAGE[:-20], "cannot be unpacked"),
    "hostile": (tar(Member("1/saved_model.pb", kind=tarfile.SYMTYPE)), "no plain file"),
}


@pytest.mark.parametrize("name", LIVE)
def test_the_model_is_held_against_the_live_one(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, one_rule: Path, name: str
) -> None:
    archive, words = LIVE[name]
    seen = suite_reports(monkeypatch, json.dumps({"schema_version": 1, "checks": [LOSS]}))
    cloud.put(*build(queries=30))
    cloud.go_live(archive)
    with pytest.raises(ModelRejectedError):
        cloud.run()
    verdict = Verdict.model_validate_json(cloud.read("verdict.json"))
    (check,) = verdict.checks
    assert check.status == "failed" and words in check.reason
    assert verdict.champion is not None and verdict.champion.model_uri == LIVE_URI
    assert seen == [{"model": "challenger"} | ({"champion": "live"} if name == "sound" else {})]


def test_the_first_deploy_has_nothing_to_be_held_against(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, one_rule: Path
) -> None:
    suite_reports(monkeypatch, NOTHING_MEASURED)
    cloud.put(*build(queries=30))
    verdict = Verdict.model_validate(cloud.run())
    assert verdict.champion is None and "first deploy" in verdict.checks[0].reason


@pytest.mark.parametrize("content", [None, b"", PACKAGE[:-20]], ids=["gone", "empty", "truncated"])
def test_a_model_that_cannot_be_unpacked_is_rejected_and_may_be_overridden(
    cloud: Cloud, content: bytes | None
) -> None:
    cloud.put(*build(queries=30))
    key = str(TRAINED["model_uri"]).split("/", 3)[3]
    if content is None:
        cloud.client.delete_object(Bucket=BUCKET, Key=key)
    else:
        cloud.put_object(str(TRAINED["model_uri"]), content)
    with pytest.raises(ModelRejectedError, match="does not exist|cannot be unpacked"):
        cloud.run()
    assert cloud.files() == [*CARD, "report.json", "verdict.json"]
    verdict = Verdict.model_validate(cloud.ti.pushed["return_value"])
    assert len(verdict.failures) == len(verdict.checks) == len(load_rules().rules)
    assert Verdict.model_validate(cloud.run(override="It is a rehearsal.")).approved


def dies(monkeypatch: pytest.MonkeyPatch, when: str) -> list[bool]:
    """Has the suite die beside the live model alone, or always; returns whether each run was beside it."""
    seen: list[bool] = []

    def suite(python: Path, subject: Subject, out: Path) -> str:
        seen.append(subject.champion is not None)
        if when == "always" or subject.champion is not None:
            raise SuiteError("It crashed (exit status -9).", "Traceback\nKilled: out of memory")
        out.write_text(NOTHING_MEASURED)
        return ""

    monkeypatch.setattr(gate_model, "run_suite", suite)
    return seen


def test_a_suite_that_dies_of_the_live_model_measures_without_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, one_rule: Path
) -> None:
    seen = dies(monkeypatch, "beside")
    cloud.put(*build(queries=30))
    cloud.go_live(PACKAGE)
    with pytest.raises(ModelRejectedError, match="Beside the live model: It crashed.*out of memory"):
        cloud.run()
    assert seen == [True, False]
    assert Verdict.model_validate(cloud.run(override="We know.")).champion is not None


@pytest.mark.parametrize("live", [False, True])
def test_a_suite_that_always_dies_is_retried_and_rejects_at_last(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, one_rule: Path, live: bool
) -> None:
    seen = dies(monkeypatch, "always")
    cloud.put(*build(queries=30))
    if live:
        cloud.go_live(PACKAGE)
    for number in (1, 2):
        cloud.ti.try_number = number
        with pytest.raises(SuiteError) as caught:
            cloud.run()
        assert not isinstance(caught.value, AirflowFailException) and cloud.files() == []
    cloud.ti.try_number = 3
    with pytest.raises(ModelRejectedError, match="It crashed.*out of memory"):
        cloud.run()
    assert seen == [True, False] * 3 if live else [False] * 3
    assert cloud.files() == [*CARD, "report.json", "verdict.json"]


def test_an_earlier_verdict_does_not_outlive_a_failure(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, one_rule: Path
) -> None:
    suite_reports(monkeypatch, NOTHING_MEASURED)
    cloud.put(*build(queries=30))
    cloud.run()
    dies(monkeypatch, "always")
    with pytest.raises(SuiteError):
        cloud.run()
    assert "verdict.json" not in cloud.files()
    kept = cloud.client.list_objects_v2(Bucket=BUCKET, Prefix="shop/runs/run/").get("Contents", [])
    assert [item["Key"] for item in kept] == []


def test_another_run_keeps_its_own_reports(settings: Settings) -> None:
    uris = {reports_uri(settings, JOB, run) for run in ("run", "scheduled__2026-01-01", "../../run")}
    assert len(uris) == 3
    assert all(uri.startswith(f"s3://{BUCKET}/shop/reports/{JOB}/") and ".." not in uri for uri in uris)


def test_a_verdict_never_stands_beside_another_report(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, one_rule: Path
) -> None:
    suite_reports(monkeypatch, NOTHING_MEASURED)
    cloud.put(*build(queries=30))
    cloud.run()
    assert "verdict.json" in cloud.files()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gate_model, "draw_card", killed)
    with pytest.raises(KeyboardInterrupt):
        cloud.run()
    assert "report.json" in cloud.files() and "verdict.json" not in cloud.files()


@pytest.mark.parametrize("trained", [None, {}, "pms-1", {**TRAINED, "surprise": 1}], ids=str)
def test_a_wrong_claim_check_is_not_retried(cloud: Cloud, trained: object) -> None:
    with pytest.raises(AirflowFailException, match="handed over no TrainedModel"):
        cloud.run(trained)


def test_a_missing_output_is_named(cloud: Cloud) -> None:
    with pytest.raises(ModelRejectedError, match=r"output\.tar\.gz does not exist"):
        cloud.run()


def _script(tmp_path: Path, body: str) -> Path:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return python


def subject(folder: Path, champion: Path | None = None) -> Subject:
    return Subject(folder / "evaluation", folder / "model", 1234, champion)


@pytest.mark.parametrize("live", [False, True])
def test_the_suite_is_told_what_to_measure(tmp_path: Path, live: bool) -> None:
    chosen = subject(tmp_path, tmp_path / "champion" if live else None)
    words = run_suite(_script(tmp_path, 'echo "$@"'), chosen, tmp_path / "report.json").split()
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[0] == "-I" and words[1].endswith("gate/suite.py")
    assert options == {
        "--evaluation": str(tmp_path / "evaluation"),
        "--out": str(tmp_path / "report.json"),
        "--model": str(tmp_path / "model"),
        "--package-bytes": "1234",
        **({"--champion": str(tmp_path / "champion")} if live else {}),
    }


def test_the_suite_does_not_see_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "hush")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    printed = run_suite(_script(tmp_path, "env; pwd"), subject(tmp_path), tmp_path / "report.json")
    assert "hush" not in printed and "PYTHONPATH" not in printed
    assert str(tmp_path) in printed.splitlines()


def test_a_crashed_suite_shows_its_last_words(tmp_path: Path) -> None:
    python = _script(tmp_path, "echo 'No module named reclist' >&2; exit 1")
    with pytest.raises(AirflowException, match="exit status 1.*\n.*No module named reclist") as caught:
        run_suite(python, subject(tmp_path), tmp_path / "report.json")
    assert not isinstance(caught.value, AirflowFailException), "a retry may help"


def test_a_hanging_suite_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(AirflowException, match="longer than 0.5 s") as caught:
        run_suite(
            _script(tmp_path, "exec sleep 60"), subject(tmp_path), tmp_path / "report.json", timeout=0.5
        )
    assert isinstance(caught.value.__cause__, subprocess.TimeoutExpired)

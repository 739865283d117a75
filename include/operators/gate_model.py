"""Decides whether a trained model may be deployed, and stops the run where it may not."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.cards.card import Bar, Card, Example, draw
from include.cards.data import Data
from include.contracts import TrainedModel, Verdict
from include.gate.archives import unpack_evaluation, unpack_model
from include.gate.report import Report, ReportError, parse_report
from include.gate.rival import Rival
from include.gate.rules import load_rules
from include.gate.verdict import as_table, decide
from include.operators.artefacts import fetch_archive
from include.operators.card_data import gather_data
from include.operators.champion import fetch_champion, find_champion
from include.operators.guard import aws_faults, read_claim
from include.operators.links import CardLink
from include.operators.records import leave_record
from include.sagemaker.storage import parse_s3_uri
from include.settings import Settings, get_settings

SUITE = Path(__file__).resolve().parents[1] / "gate" / "suite.py"
SUITE_SECONDS = 900
SLICED = {
    "hit_rate@20_by_session_length": "items seen so far",
    "hit_rate@20_by_popularity": "popularity of the next item",
}


class ModelRejectedError(AirflowFailException):
    """The gate said no. Not retried: the same model would be measured again."""


class Subject(NamedTuple):
    """What the suite measures, unpacked.

    Attributes:
        evaluation: Folder with the job's evaluation files.
        model: Folder of the artefact that would be deployed.
        package_bytes: Size of the artefact as it is downloaded by an endpoint.
        champion: Folder of the live model's artefact; None where there is none to be held against.
    """

    evaluation: Path
    model: Path
    package_bytes: int
    champion: Path | None = None


def run_suite(python: Path, subject: Subject, out: Path, timeout: float = SUITE_SECONDS) -> str:
    """Runs the RecList suite in the ML environment.

    Args:
        python: Interpreter of the ML environment.
        subject: What is measured.
        out: Report to write; its folder is the suite's working folder.
        timeout: Seconds after which the suite is stopped.

    Returns:
        What the suite printed, for the log.

    Raises:
        AirflowException: The environment is missing, or the suite crashed or took too long.
    """
    # `-I`: neither the caller's PYTHON* variables nor this folder's modules leak into the ML environment.
    command = [str(python), "-I", str(SUITE), "--evaluation", str(subject.evaluation), "--out", str(out)]
    command += ["--model", str(subject.model), "--package-bytes", str(subject.package_bytes)]
    if subject.champion is not None:
        command += ["--champion", str(subject.champion)]
    # Nothing of Airflow's environment either: it holds the connections' secrets.
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(out.parent), "TMPDIR": str(out.parent), "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(
            command,
            cwd=out.parent,
            env={**clean, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise AirflowException(
            f"The ML environment's Python {python} cannot be started ({error.strerror}); "
            "build it with `make setup` or set PMS_ML_PYTHON."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise AirflowException(f"The gate's suite took longer than {timeout:g} s and was stopped.") from error
    if done.returncode != 0:
        raise AirflowException(
            f"The gate's suite crashed (exit status {done.returncode}); nothing was decided. "
            f"Its last words:\n{done.stderr[-2000:].strip()}"
        )
    return done.stdout


def card_of(verdict: Verdict, metrics: Mapping[str, object], report: Report | None, data: Data) -> Card:
    """Collects what the card shows from the verdict, the job's metrics, the suite's report and the data."""
    if report is None:
        return Card(verdict, metrics, data=data)
    bars = [
        Bar(group, name, part.read("value"), part.sample_size)
        for check, group in SLICED.items()
        if (found := report.find(check)) is not None
        for name, part in found.slices.items()
    ]
    examples = [Example(item.session, item.target, item.predictions, item.rank) for item in report.examples]
    return Card(verdict, metrics, bars, examples, data)


def reports_uri(settings: Settings, job_name: str, run_id: str) -> str:
    """Returns the folder of one run's reports on a job: another run judges beside another live model."""
    root = "/".join(part for part in (settings.bucket, settings.prefix.strip("/"), "reports") if part)
    return f"s3://{root}/{job_name}/{hashlib.sha256(run_id.encode()).hexdigest()[:12]}"


def _read_metrics(path: Path) -> dict[str, object]:
    """Reads the job's own metrics for the card; a missing or broken file is the suite's to report."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: math.nan)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class GateModelOperator(BaseOperator):
    """Measures a trained model with the RecList suite and holds it against the rules.

    The live model is measured on the same queries. Writes `report.json`, `card.html` and, last,
    `verdict.json` under the project's `reports/<job>/<digest of the run>/`, and returns the verdict. A
    rejected model fails the task without retries, so that nothing after it runs; its verdict is in XCom all
    the same.

    Args:
        trained_model: Claim check of the training job, a `TrainedModel` as dictionary.
        override_reason: Why a rejected model is to be deployed all the same; blank for no override.
    """

    template_fields: Sequence[str] = ("trained_model", "override_reason")
    ui_color = "#f3e3b3"
    operator_extra_links = (CardLink(),)

    def __init__(self, *, trained_model: Any, override_reason: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trained_model = trained_model
        self.override_reason = override_reason

    def execute(self, context: Context) -> dict[str, object]:
        """Measures, decides, writes the reports.

        Returns:
            The verdict, JSON-ready.

        Raises:
            ModelRejectedError: A rule failed and there is no override.
            AirflowFailException: The claim check or the job's output cannot be used.
            AirflowException: The suite could not run; a retry may help.
        """
        trained = read_claim(TrainedModel, self.trained_model)
        with aws_faults(f"Gate of {trained.job_name}"):
            verdict = self._judge(trained, context)
            settings = get_settings()
            leave_record(context, S3Hook(settings.aws_conn_id).get_conn(), settings, verdict)
        self.log.info(
            "Gate of %s, rules version %d:\n%s", verdict.job_name, verdict.rules_version, as_table(verdict)
        )
        if not verdict.approved:
            # A failing task returns nothing, and the verdict is most wanted just then.
            context["ti"].xcom_push(key="return_value", value=verdict.to_xcom())
            reasons = "; ".join(f"{check.name}: {check.reason}" for check in verdict.failures)
            raise ModelRejectedError(
                f"The gate rejected {verdict.job_name}; the live endpoint is untouched. {reasons} "
                f"Report: {verdict.report_uri}"
            )
        if verdict.override_reason:
            self.log.warning("Deployed against the gate, because: %s", verdict.override_reason)
        return verdict.to_xcom()

    def _judge(self, trained: TrainedModel, context: Context) -> Verdict:
        settings = get_settings()
        rules = load_rules()
        folder_uri = reports_uri(settings, trained.job_name, context["run_id"])
        hook = S3Hook(aws_conn_id=settings.aws_conn_id)
        # Native template rendering makes None of "None" and a number of "42".
        override = "" if self.override_reason is None else str(self.override_reason)
        with tempfile.TemporaryDirectory(prefix="gate-") as name:
            out = Path(name) / "report.json"
            subject, rival = self._gather(hook, settings, trained, Path(name))
            self.log.debug("%s", run_suite(settings.ml_python, subject, out))
            text = out.read_text(encoding="utf-8", errors="replace") if out.is_file() else None
            metrics = _read_metrics(subject.evaluation / "metrics.json")
        verdict = decide(text, rules, trained, f"{folder_uri}/report.json", override, rival)
        # Where this run was judged before, its verdict must not stand beside another report.
        self._delete(hook, f"{folder_uri}/verdict.json")
        self._upload(hook, verdict.report_uri, text or "", "application/json")
        card_uri = f"{folder_uri}/card.html"
        data = gather_data(self, context, hook.get_conn(), settings, trained.snapshot_id)
        page = self._draw(verdict, metrics, text, data)
        if page is not None:
            self._upload(hook, card_uri, page, "text/html; charset=utf-8")
            verdict = verdict.model_copy(update={"card_uri": card_uri})
        content = json.dumps(verdict.to_xcom(), indent=1, allow_nan=False)
        self._upload(hook, f"{folder_uri}/verdict.json", content, "application/json")
        return verdict

    def _gather(
        self, hook: S3Hook, settings: Settings, trained: TrainedModel, work: Path
    ) -> tuple[Subject, Rival]:
        """Fetches what is measured, and the live model beside it."""
        evaluation, model, champion = work / "evaluation", work / "model", work / "champion"
        fetch_archive(hook, trained.evaluation_uri, evaluation, unpack_evaluation)
        package_bytes = fetch_archive(hook, trained.model_uri, model, unpack_model)
        sagemaker: SageMakerHook = SageMakerHook(aws_conn_id=settings.aws_conn_id)  # type: ignore[no-untyped-call]
        rival = fetch_champion(
            find_champion(sagemaker.get_conn(), settings.endpoint_name),
            lambda uri: fetch_archive(hook, uri, champion, unpack_model),
        )
        self.log.info("The live model: %s", rival.sentence)
        return Subject(evaluation, model, package_bytes, champion if rival.is_measurable else None), rival

    def _draw(
        self, verdict: Verdict, metrics: Mapping[str, object], text: str | None, data: Data
    ) -> str | None:
        """Draws the card, or says why not: a picture never decides over a model."""
        try:
            report: Report | None = parse_report(text or "")
        except ReportError:
            report = None  # the verdict says so already, on every rule
        try:
            return draw(card_of(verdict, metrics, report, data))
        except Exception:
            self.log.warning("The card could not be drawn; the verdict stands without it.", exc_info=True)
            return None

    @staticmethod
    def _delete(hook: S3Hook, uri: str) -> None:
        bucket, key = parse_s3_uri(uri)
        client: Any = hook.get_conn()
        client.delete_object(Bucket=bucket, Key=key)

    @staticmethod
    def _upload(hook: S3Hook, uri: str, content: str, content_type: str) -> None:
        bucket, key = parse_s3_uri(uri)
        client: Any = hook.get_conn()
        client.put_object(Bucket=bucket, Key=key, Body=content.encode(), ContentType=content_type)

"""Decides whether a trained model may be deployed, and stops the run where it may not."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.cards.card import Bar, Card, Example, draw
from include.cards.data import Data
from include.contracts import BadInputError, TrainedModel, Verdict
from include.gate.verdict import Report, ReportError, as_table, decide, load_rules, parse_report
from include.operators.card_data import gather_data
from include.operators.guard import aws_faults, read_claim
from include.operators.links import CardLink
from include.operators.records import leave_record
from include.settings import get_settings

SUITE = Path(__file__).resolve().parents[1] / "gate" / "suite.py"
FILES = ("metrics.json", "predictions.parquet", "items.parquet")
MAX_ARCHIVE_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 4 << 30
MAX_MEMBERS = 10_000
SUITE_SECONDS = 900
SLICED = {
    "hit_rate@20_by_session_length": "items seen so far",
    "hit_rate@20_by_popularity": "popularity of the next item",
}


class ModelRejectedError(AirflowFailException):
    """The gate said no. Not retried: the same model would be measured again."""


def unpack_evaluation(archive: Path, folder: Path) -> None:
    """Unpacks the files that the suite reads from a training job's output, and nothing else.

    Args:
        archive: `output.tar.gz` with `evaluation/…`.
        folder: Receives the files, without their folder. A file that the job did not write stays missing;
            the checks that need it then fail with its name.

    Raises:
        BadInputError: The archive is damaged, or larger than an evaluation ever is.
    """
    total = 0
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for place, member in enumerate(tar):
                total += member.size
                if place >= MAX_MEMBERS or total > MAX_UNPACKED_BYTES:
                    raise BadInputError("The training job's output is too large to be an evaluation.")
                path = PurePosixPath(member.name)
                if member.isfile() and path.parent.name == "evaluation" and path.name in FILES:
                    tar.extract(member.replace(name=path.name), folder, filter="data")
            # tarfile stops before gzip's checksum, which is read only at the very end.
            while chunk := stream.read(1 << 20):
                total += len(chunk)
                if total > MAX_UNPACKED_BYTES:
                    raise BadInputError("The training job's output is too large to be an evaluation.")
    # A damaged stream surfaces as any of these, depending on where it is damaged.
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BadInputError(f"The training job's output cannot be unpacked: {error}") from error


def run_suite(python: Path, evaluation: Path, out: Path, timeout: float = SUITE_SECONDS) -> str:
    """Runs the RecList suite in the ML environment.

    Args:
        python: Interpreter of the ML environment.
        evaluation: Folder with the job's evaluation files.
        out: Report to write; its folder is the suite's working folder.
        timeout: Seconds after which the suite is stopped.

    Returns:
        What the suite printed, for the log.

    Raises:
        AirflowException: The environment is missing, or the suite crashed or took too long.
    """
    # `-I`: neither the caller's PYTHON* variables nor this folder's modules leak into the ML environment.
    command = [str(python), "-I", str(SUITE), "--evaluation", str(evaluation), "--out", str(out)]
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


def _read_metrics(path: Path) -> dict[str, object]:
    """Reads the job's own metrics for the card; a missing or broken file is the suite's to report."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: math.nan)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class GateModelOperator(BaseOperator):
    """Measures a trained model with the RecList suite and holds it against the rules.

    Writes `report.json`, `card.html` and, last, `verdict.json` under the project's `reports/<job>/`, and
    returns the verdict. A rejected model fails the task without retries, so that nothing after it runs; its
    verdict is in XCom all the same.

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
        folder_uri = f"s3://{settings.bucket}/{settings.prefix}/reports/{trained.job_name}"
        hook = S3Hook(aws_conn_id=settings.aws_conn_id)
        # Native template rendering makes None of "None" and a number of "42".
        override = "" if self.override_reason is None else str(self.override_reason)
        with tempfile.TemporaryDirectory(prefix="gate-") as name:
            work = Path(name)
            evaluation, out = work / "evaluation", work / "report.json"
            evaluation.mkdir()
            self._download(hook, trained.evaluation_uri, work / "output.tar.gz")
            unpack_evaluation(work / "output.tar.gz", evaluation)
            self.log.debug("%s", run_suite(settings.ml_python, evaluation, out))
            text = out.read_text(encoding="utf-8", errors="replace") if out.is_file() else None
            metrics = _read_metrics(evaluation / "metrics.json")
        verdict = decide(text, rules, trained, f"{folder_uri}/report.json", override)
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
    def _download(hook: S3Hook, uri: str, path: Path) -> None:
        bucket, key = S3Hook.parse_s3_url(uri)
        size = hook.head_object(key, bucket)
        if size is None:
            raise BadInputError(f"The training job's output {uri} does not exist.")
        if size["ContentLength"] > MAX_ARCHIVE_BYTES:
            raise BadInputError(f"The training job's output {uri} is too large to be an evaluation.")
        client: Any = hook.get_conn()
        client.download_file(bucket, key, str(path))

    @staticmethod
    def _upload(hook: S3Hook, uri: str, content: str, content_type: str) -> None:
        bucket, key = S3Hook.parse_s3_url(uri)
        client: Any = hook.get_conn()
        client.put_object(Bucket=bucket, Key=key, Body=content.encode(), ContentType=content_type)

"""Decides whether a trained model may be deployed, and stops the run where it may not."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.assets import RAW_EVENTS
from include.contracts import BadInputError, TrainedModel, Verdict
from include.gate.archives import unpack_evaluation, unpack_model
from include.gate.rival import Rival
from include.gate.rules import load_rules
from include.gate.verdict import as_table, decide
from include.operators.artefacts import fetch_archive
from include.operators.card_data import CONTENT_TYPES, draw_card
from include.operators.guard import aws_faults, read_claim
from include.operators.links import CardLink
from include.operators.records import leave_record
from include.runs import delete_record
from include.sagemaker.champion import fetch_champion, find_champion
from include.sagemaker.storage import parse_s3_uri
from include.settings import Settings, get_settings

SUITE = Path(__file__).resolve().parents[1] / "gate" / "suite.py"
SUITE_SECONDS = 900
LONGEST_FAULT = 500
EVALUATION = "evaluation"


class ModelRejectedError(AirflowFailException):
    """The gate said no. Not retried: the same model would be measured again."""


class SuiteError(AirflowException):
    """The suite crashed or took too long. A retry may help, where the machine was short of something.

    Attributes:
        brief: One line, for the verdict.
    """

    def __init__(self, happened: str, last_words: str = "") -> None:
        super().__init__(f"{happened} Its last words:\n{last_words}" if last_words else happened)
        self.brief = " ".join([happened, *last_words.splitlines()[-1:]])[:LONGEST_FAULT]


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


class Measured(NamedTuple):
    """What came of measuring: the suite's report, the live model, and why nothing was measured, if so."""

    report: str | None
    rival: Rival
    fault: str | None = None


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
        AirflowException: The environment is missing.
        SuiteError: The suite crashed or took too long.
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
        raise SuiteError(f"The gate's suite took longer than {timeout:g} s and was stopped.") from error
    if done.returncode != 0:
        raise SuiteError(
            f"The gate's suite crashed (exit status {done.returncode}).", done.stderr[-2000:].strip()
        )
    return done.stdout


def reports_uri(settings: Settings, job_name: str, run_id: str) -> str:
    """Returns the folder of one run's reports on a job: another run judges beside another live model."""
    root = "/".join(part for part in (settings.bucket, settings.prefix.strip("/"), "reports") if part)
    return f"s3://{root}/{job_name}/{hashlib.sha256(run_id.encode()).hexdigest()[:12]}"


class GateModelOperator(BaseOperator):
    """Measures a trained model with the RecList suite and holds it against the rules.

    The live model is measured on the same queries. Writes `report.json`, the card and, last,
    `verdict.json` under the project's `reports/<job>/<digest of the run>/`, and returns the verdict. A
    rejected model fails the task without retries, so that nothing after it runs; its verdict is in XCom all
    the same. So is that of a model that cannot be measured: its files are damaged, or the suite dies of it
    to the last try.

    Args:
        trained_model: Claim check of the training job, a `TrainedModel` as dictionary.
        override_reason: Why a rejected model is to be deployed all the same; blank for no override.
    """

    template_fields: Sequence[str] = ("trained_model", "override_reason")
    ui_color = "#f3e3b3"
    operator_extra_links = (CardLink(),)

    def __init__(self, *, trained_model: Any, override_reason: str = "", **kwargs: Any) -> None:
        # The card names the loads that the model comes from.
        kwargs.setdefault("inlets", [RAW_EVENTS])
        super().__init__(**kwargs)
        self.trained_model = trained_model
        self.override_reason = override_reason

    def execute(self, context: Context) -> dict[str, object]:
        """Measures, decides, writes the reports.

        Returns:
            The verdict, JSON-ready.

        Raises:
            ModelRejectedError: A rule failed and there is no override.
            AirflowFailException: The claim check cannot be used.
            AirflowException: The suite could not run, or died, and a retry may help.
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
            named: dict[str, list[str]] = {}
            for check in verdict.failures:
                named.setdefault(check.reason, []).append(check.name)
            reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in named.items())
            raise ModelRejectedError(
                f"The gate rejected {verdict.job_name}; the live endpoint is untouched. {reasons} "
                f"Report: {verdict.report_uri}"
            )
        if verdict.override_reason:
            self.log.warning("Gate overridden, because: %s", verdict.override_reason)
        return verdict.to_xcom()

    def _judge(self, trained: TrainedModel, context: Context) -> Verdict:
        settings = get_settings()
        rules = load_rules()
        folder_uri = reports_uri(settings, trained.job_name, context["run_id"])
        hook = S3Hook(aws_conn_id=settings.aws_conn_id)
        # Native template rendering makes None of "None" and a number of "42".
        override = "" if self.override_reason is None else str(self.override_reason)
        client: Any = hook.get_conn()
        # Where this run was judged before, that verdict must outlive neither its report nor a failure now.
        bucket, key = parse_s3_uri(f"{folder_uri}/verdict.json")
        client.delete_object(Bucket=bucket, Key=key)
        delete_record(client, settings.bucket, settings.prefix, context["run_id"], Verdict)
        last_try = context["ti"].try_number > context["ti"].max_tries
        with tempfile.TemporaryDirectory(prefix="gate-") as name:
            work = Path(name)
            text, rival, fault = self._measure(hook, settings, trained, work, last_try)
            verdict = decide(text, rules, trained, f"{folder_uri}/report.json", override, rival, fault)
            pages = draw_card(self, context, settings, client, trained, verdict, work / EVALUATION, text)
        self._upload(hook, verdict.report_uri, text or "", "application/json")
        for page, drawn in pages.items():
            self._upload(hook, f"{folder_uri}/{page}", drawn, CONTENT_TYPES[page])
        if "card.html" in pages:
            verdict = verdict.model_copy(update={"card_uri": f"{folder_uri}/card.html"})
        content = json.dumps(verdict.to_xcom(), indent=1, allow_nan=False)
        self._upload(hook, f"{folder_uri}/verdict.json", content, "application/json")
        return verdict

    def _measure(
        self, hook: S3Hook, settings: Settings, trained: TrainedModel, work: Path, last_try: bool
    ) -> Measured:
        """Fetches the model and the live one, and has the suite measure them."""
        evaluation, model, champion = work / EVALUATION, work / "model", work / "champion"
        sagemaker: SageMakerHook = SageMakerHook(aws_conn_id=settings.aws_conn_id)  # type: ignore[no-untyped-call]
        rival = find_champion(sagemaker.get_conn(), settings.endpoint_name)
        try:
            fetch_archive(hook, trained.evaluation_uri, evaluation, unpack_evaluation)
            package_bytes = fetch_archive(hook, trained.model_uri, model, unpack_model)
        except BadInputError as error:
            return Measured(None, rival, f"The model cannot be measured: {error}"[:LONGEST_FAULT])
        rival = fetch_champion(rival, lambda uri: fetch_archive(hook, uri, champion, unpack_model))
        self.log.info("The live model: %s", rival.sentence)
        subject = Subject(evaluation, model, package_bytes, champion if rival.is_measurable else None)
        try:
            return Measured(self._report(settings, subject, work), rival)
        except SuiteError as error:
            died = error
        if subject.champion is not None:
            # It may have died of the live model, which must not keep every challenger out without a verdict.
            self.log.warning("%s\nIt measures once more, without the live model.", died)
            blamed = rival.model_copy(update={"fault": f"Beside the live model: {died.brief}"})
            try:
                return Measured(self._report(settings, subject._replace(champion=None), work), blamed)
            except SuiteError as error:
                died = error
        if not last_try:
            raise died
        self.log.error("%s", died)
        return Measured(None, rival, died.brief)

    def _report(self, settings: Settings, subject: Subject, work: Path) -> str | None:
        out = work / "report.json"
        out.unlink(missing_ok=True)
        self.log.debug("%s", run_suite(settings.ml_python, subject, out))
        return out.read_text(encoding="utf-8", errors="replace") if out.is_file() else None

    @staticmethod
    def _upload(hook: S3Hook, uri: str, content: str, content_type: str) -> None:
        bucket, key = parse_s3_uri(uri)
        client: Any = hook.get_conn()
        client.put_object(Bucket=bucket, Key=key, Body=content.encode(), ContentType=content_type)

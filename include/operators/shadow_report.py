"""What came of a shadow test: both variants measured and compared, and the report of it on S3."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from include.contracts import ShadowReport, ShadowVariant, TrainedModel, Verdict
from include.operators.card_data import draw_shadow
from include.operators.shadow_move import Live
from include.sagemaker.captured import compare, read_exchanges
from include.sagemaker.errors import is_missing
from include.sagemaker.shadow import FOLDER, SHADOW, judge, measure
from include.sagemaker.storage import parse_s3_uri
from include.settings import get_settings

# CloudWatch is asked as long at least where it has told less of the challenger than of the live model.
LATE_SECONDS = 120


class Plan(NamedTuple):
    """What is tested, as far as it does not change while it is."""

    trained: TrainedModel
    verdict: Verdict
    live: Live
    described: dict[str, Any]
    model: str
    request: dict[str, Any]

    @property
    def config(self) -> str:
        """Configuration of the test."""
        return str(self.request["EndpointConfigName"])

    @property
    def folder(self) -> str:
        """Where on S3 report and card lie: beside the gate's report."""
        return f"{self.verdict.report_uri.rpartition('/')[0]}/shadow-{self.config}"

    @property
    def report_uri(self) -> str:
        """Where the report is, once there is one."""
        return f"{self.folder}/shadow.json"


def stored_report(s3: Any, plan: Plan) -> ShadowReport | None:
    """Returns the report, None where the test has not come to one."""
    bucket, key = parse_s3_uri(plan.report_uri)
    try:
        return ShadowReport.model_validate_json(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def compare_variants(plan: Plan, s3: Any, cloudwatch: Any, start: datetime, end: datetime) -> ShadowReport:
    """Measures the two variants, compares what they answered, and judges the challenger."""
    settings = get_settings()
    endpoint, [production] = settings.endpoint_name, plan.described["ProductionVariants"]
    variants = (str(production["VariantName"]), SHADOW)
    folders = [f"{settings.home}/{FOLDER}/{endpoint}/{variant}" for variant in variants]
    compared = compare(*(read_exchanges(s3, folder, start, end) for folder in folders))
    live, challenger = measure_both(cloudwatch, endpoint, variants, start, end, compared.pairs)
    if compared.pairs < challenger.requests:  # what is captured comes late, too
        compared = compare(*(read_exchanges(s3, folder, start, end) for folder in folders))
    passed, reason = judge(live, challenger)
    return ShadowReport(
        endpoint_name=endpoint,
        shadow_config=plan.config,
        live_config=plan.live.before,
        live_model=str(production["ModelName"]),
        model_name=plan.model,
        job_name=plan.trained.job_name,
        snapshot_id=plan.trained.snapshot_id,
        started_at=start.isoformat(timespec="seconds"),
        ended_at=end.isoformat(timespec="seconds"),
        live=live,
        challenger=challenger,
        **compared.model_dump(),
        passed=passed,
        reason=reason,
        report_uri=plan.report_uri,
    )


def keep_report(plan: Plan, s3: Any, report: ShadowReport) -> ShadowReport:
    """Draws the card anew and writes the report, last; returns it with the card's address."""
    card = draw_shadow(s3, plan.verdict, report)
    report = report.model_copy(update={"card_uri": card})
    bucket, key = parse_s3_uri(report.report_uri)
    s3.put_object(
        Bucket=bucket,
        Key=key,
        Body=report.model_dump_json(indent=1).encode(),
        ContentType="application/json",
    )
    return report


def measure_both(
    cloudwatch: Any,
    endpoint: str,
    variants: tuple[str, str],
    start: datetime,
    end: datetime,
    captured: int,
) -> tuple[ShadowVariant, ShadowVariant]:
    """Asks CloudWatch of both until it is late no more.

    That is when it knows of as many copies as requests, or of no more than a look before: the count of
    the requests begins with the whole minute, and a copy may be dropped. But either is so, too, where it has
    yet to hear of most requests: then it knows of few copies beside those that were captured.
    """
    before: tuple[ShadowVariant, ...] = ()
    while True:
        live, copied = (measure(cloudwatch, endpoint, variant, start, end) for variant in variants)
        heard = 2 * copied.requests >= captured
        told = copied.requests >= live.requests or (copied.requests and (live, copied) == before)
        if (heard and told) or datetime.now(UTC) >= end + timedelta(seconds=LATE_SECONDS):
            return live, copied
        before = live, copied
        time.sleep(get_settings().poll_seconds)

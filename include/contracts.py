"""Frozen types that travel between rooms.

Every one of them is a *claim check*: ids, URIs, hashes and counts, small enough for XCom and made of
JSON types alone. The goods stay in the warehouse or on S3.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PipelineError(Exception):
    """Base of the errors that a retry cannot mend; the message says what to do."""


class BadInputError(PipelineError):
    """The data handed in cannot be used as it is."""


class SettingsError(PipelineError):
    """A setting, connection or Param is wrong or missing."""


class Contract(BaseModel):
    """Immutable, strict base: unknown fields are an error, so rooms cannot drift apart unnoticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_xcom(self) -> dict[str, object]:
        """Returns the JSON-ready dictionary that goes through XCom."""
        return self.model_dump(mode="json")


class LoadReport(Contract):
    """What one load landed in the raw log.

    Attributes:
        etl_id: Derives from tenant and file content; the same file twice has the same id.
        first_event_date: ISO date (UTC) of the earliest landed event.
        last_event_date: ISO date (UTC) of the latest landed event.
        rejected_by_reason: Reject reason to row count; those of another file than the events' carry its name.
        extra_columns: Columns that no model knows, named alike; they are kept in `raw_data`.
        already_loaded: True where this content had landed before and nothing was written.
    """

    etl_id: str
    tenant: str
    source: str
    first_event_date: str
    last_event_date: str
    events_read: int = Field(ge=0)
    events_landed: int = Field(ge=0)
    events_rejected: int = Field(ge=0)
    rejected_by_reason: dict[str, int] = Field(default_factory=dict)
    products_landed: int = Field(default=0, ge=0)
    searches_landed: int = Field(default=0, ge=0)
    extra_columns: tuple[str, ...] = ()
    already_loaded: bool = False


class DbtArtifacts(Contract):
    """Where one attempt of a dbt task left its files; None for a file that it does not write.

    Attributes:
        manifest_uri: The project as dbt saw it.
        run_results_uri: What became of each model and test.
        docs_uri: dbt's documentation as one page.
    """

    manifest_uri: str | None = None
    run_results_uri: str | None = None
    docs_uri: str | None = None


class Snapshot(Contract):
    """Claim check of an immutable data set on S3.

    Attributes:
        uri: `s3://bucket/prefix/snapshots/<snapshot_id>/`; holds `train/`, `validation/`, `test/`,
            `catalog/` and, written last, `manifest.json`.
        manifest_sha256: Hex digest of `manifest.json`.
        previous_snapshot_id: The tenant's snapshot of as many days and the same limits that ends latest
            before this one; None for the first.
        drift_uri: `s3://…/drift/<snapshot_id>/<previous_snapshot_id>.json`, where there is a previous one.
    """

    snapshot_id: str
    uri: str
    manifest_sha256: str
    train_sessions: int = Field(ge=0)
    validation_sessions: int = Field(ge=0)
    test_sessions: int = Field(ge=0)
    products: int = Field(ge=0)
    start_date: str
    end_date: str
    previous_snapshot_id: str | None = None
    drift_uri: str | None = None


class Tuning(Contract):
    """The search that a model won.

    Attributes:
        job_name: The tuning job.
        trials: Number of trainings that were compared.
        val_mrr: The winner's MRR@20 on validation sessions.
        hyperparameters: What the winner was given, of that which was searched.
    """

    job_name: str
    trials: int = Field(ge=1)
    val_mrr: float
    hyperparameters: dict[str, str]


class TrainedModel(Contract):
    """Claim check of a finished training job.

    Attributes:
        job_name: Function of snapshot, code, hyper-parameters and image; SageMaker names a search's trials.
        model_uri: `s3://…/model.tar.gz`, the artefact that is gated and deployed byte for byte.
        evaluation_uri: `s3://…/output.tar.gz`, holds `evaluation/` (metrics, predictions, smoke cases).
        billable_seconds: Of this job, on all instances; of all trials where there was a search.
        cost_usd: Those seconds at list price; None where the instance or the region has none.
        spot_saving: Share of the time that spare capacity left unbilled, 0 to 1; None on demand.
        data_until: ISO date; the day after the last that it learned from. None where it is not known.
        trained_at: ISO moment (UTC) at which its job, or its search, was created. None where it is not known.
        tuning: The search that it won; None where there was none.
    """

    job_name: str
    job_arn: str
    snapshot_id: str
    model_uri: str
    evaluation_uri: str
    billable_seconds: int = Field(ge=0)
    cost_usd: float | None = Field(default=None, ge=0)
    spot_saving: float | None = Field(default=None, ge=0, le=1)
    data_until: str | None = None
    trained_at: str | None = None
    tuning: Tuning | None = None


CheckStatus = Literal["passed", "failed", "warned", "skipped"]
IntervalKind = Literal["confidence", "percentiles"]


class Check(Contract):
    """One rule of the gate, applied.

    Attributes:
        name: Rule name, as in `rules.yaml`.
        status: `warned` is a failure that does not decide, for a person to look at.
        value: The measured value; None where it is missing or not a finite number (then it failed).
        comparison: `>=` or `<=`.
        bound: What the value was held against; None where the bound itself could not be computed.
        sample_size: Number of test queries behind the value.
        interval: [low, high] around the value, None where it has none.
        interval_kind: A 95 % confidence interval, or the 10th and 90th percentile of what was measured.
        reason: A sentence a person can act on.
    """

    name: str
    status: CheckStatus
    value: float | None
    comparison: Literal[">=", "<="]
    bound: float | None
    sample_size: int = Field(ge=0)
    interval: tuple[float, float] | None = None
    interval_kind: IntervalKind = "confidence"
    reason: str


class Champion(Contract):
    """The model that was live when a challenger was judged.

    Attributes:
        model_name: SageMaker's model behind the endpoint.
        model_uri: Its `model.tar.gz`.
        job_name: The training job that made it; None where the endpoint's model is not the project's.
        snapshot_id: What it was trained on; None as above.
    """

    model_name: str
    model_uri: str
    job_name: str | None = None
    snapshot_id: str | None = None


class Verdict(Contract):
    """The gate's decision. `approved` is True only where no check failed, or an override has a reason.

    Attributes:
        metrics: The model's headline metrics.
        baselines: The same of each baseline on the same queries, and of the live model as `champion`.
        champion: The live model that it was held against; None where nothing was live.
        report_uri: `s3://…/report.json`, all that was measured.
        card_uri: `s3://…/card.html`; `card.json` and `card.md` lie beside it. None where drawing failed.
    """

    approved: bool
    job_name: str
    snapshot_id: str
    rules_version: int
    checks: tuple[Check, ...]
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    champion: Champion | None = None
    override_reason: str | None = None
    report_uri: str
    card_uri: str | None = None

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")


Approval = Literal["Approved", "Rejected", "PendingManualApproval"]


class Registered(Contract):
    """A model's entry in the registry.

    Attributes:
        package_arn: The model package; names group and version.
        version: Number within the group, from 1.
        approval: SageMaker's approval status.
    """

    package_arn: str
    group_name: str
    version: int = Field(ge=1)
    approval: Approval
    job_name: str
    snapshot_id: str


class ShadowVariant(Contract):
    """What one variant did during a shadow test, as CloudWatch counted it.

    Attributes:
        requests: Copies, for the challenger.
        errors: Answers of the model that were not 2xx, or of the endpoint that were 5xx.
        latency_ms: The model's time for an answer, on average; None without requests.
        slowest_ms: Its longest.
    """

    requests: int = Field(ge=0)
    errors: int = Field(ge=0)
    latency_ms: float | None = None
    slowest_ms: float | None = None

    @property
    def error_share(self) -> float:
        """Share of the requests that ended with an error."""
        return self.errors / self.requests if self.requests else 0.0


class ShadowReport(Contract):
    """How a challenger answered a copy of the live traffic, beside the live model.

    Attributes:
        shadow_config: Configuration of the test; a function of the two models.
        live_config: Configuration that was live before it, and after it.
        started_at: ISO moment (UTC) from which both variants were in service.
        ended_at: The same of the end of what is compared.
        pairs: Requests of which both answers were captured.
        compared: Sessions in them.
        overlap: Share of the live model's products that the challenger recommends, too, on average.
        same_first: Share of the sessions with the same first product.
        passed: Whether the challenger may go live.
        reason: A sentence about it.
        report_uri: `s3://…/shadow.json`, this report.
        card_uri: The card with the test on it; None where it could not be drawn.
    """

    endpoint_name: str
    shadow_config: str
    live_config: str
    live_model: str
    model_name: str
    job_name: str
    snapshot_id: str
    started_at: str
    ended_at: str
    live: ShadowVariant
    challenger: ShadowVariant
    pairs: int = Field(ge=0)
    compared: int = Field(ge=0)
    overlap: float | None = Field(default=None, ge=0, le=1)
    same_first: float | None = Field(default=None, ge=0, le=1)
    passed: bool
    reason: str
    report_uri: str
    card_uri: str | None = None


class SmokeCase(Contract):
    """One request of the smoke test, with the answer that the gate saw for it."""

    session: tuple[str, ...]
    skus: tuple[str, ...]


class Deployment(Contract):
    """What is live after a deploy, confirmed against what was asked for.

    Attributes:
        replaced: Endpoint configuration that was live before; None for the first.
        ephemeral: The endpoint was made for this test alone and is deleted after it.
    """

    endpoint_name: str
    endpoint_config_name: str
    model_name: str
    job_name: str
    snapshot_id: str
    smoke_cases: int = Field(ge=0)
    replaced: str | None = None
    ephemeral: bool = False

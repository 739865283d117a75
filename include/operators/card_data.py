"""Draws the card of a run: reads what it shows from S3, SageMaker and Airflow, as much as can be had."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import BaseOperator, Context
from botocore.exceptions import ClientError

from include import snapshots
from include.assets import RAW_EVENTS
from include.cards.around import Live, Load, lineage_of, loads_of, rollback_of
from include.cards.card import Card, Cost, render_json
from include.cards.compose import Surroundings, compose, example_skus, read_report
from include.cards.data import data_of
from include.cards.html import render_html
from include.cards.markdown import render_markdown
from include.contracts import DbtArtifacts, ShadowReport, Snapshot, TrainedModel, Verdict
from include.dbt_artifacts import XCOM_KEY
from include.drift import Drift
from include.operators.create_serving import wanted_config, wanted_model
from include.runs import read_record
from include.sagemaker.errors import is_missing
from include.sagemaker.prices import HOURS_A_MONTH, load_prices
from include.sagemaker.storage import parse_s3_uri
from include.settings import Settings

log = logging.getLogger(__name__)
FoundT = TypeVar("FoundT")
TRANSFORM = "transform."
CONTENT_TYPES = {
    "card.json": "application/json",
    "card.md": "text/markdown; charset=utf-8",
    "card.html": "text/html; charset=utf-8",
}
# The page last, for it is the one that a verdict names.
_RENDERERS: dict[str, Callable[[Card], str]] = {
    "card.json": render_json,
    "card.md": render_markdown,
    "card.html": render_html,
}
_MOST_LOADS = 500
# Something was live in these states, but what it will be, or is, is not what the description names.
_UNSETTLED = {"Updating", "SystemUpdating", "RollingBack", "UpdateRollbackFailed", "OutOfService"}


def draw_card(
    task: BaseOperator,
    context: Context,
    settings: Settings,
    client: Any,
    trained: TrainedModel,
    verdict: Verdict,
    evaluation: Path,
    report: str | None,
) -> dict[str, str]:
    """Draws the card in every form, or says why not: a picture never decides over a model.

    Args:
        task: The task that draws; dbt's tasks lie before it, and the raw events among its inlets.
        context: Its context.
        settings: Bucket, prefix, endpoint and the like.
        client: boto3 S3 client.
        trained: The model.
        verdict: The gate's decision.
        evaluation: Folder with the job's evaluation files.
        report: The suite's report as text.

    Returns:
        Content by name of file, the page last; what could not be drawn is missing.
    """
    read = partial(_card, task, context, settings, client, trained, verdict, evaluation, report)
    card = _if_possible("be made", read)
    if card is None:
        return {}
    drawn = {
        name: _if_possible(f"be drawn as {name}", partial(render, card))
        for name, render in _RENDERERS.items()
    }
    return {name: content for name, content in drawn.items() if content is not None}


def draw_shadow(client: Any, verdict: Verdict, report: ShadowReport) -> str | None:
    """Draws a run's card anew with the shadow test on it; the gate's own stays as it was.

    Args:
        client: boto3 S3 client.
        verdict: Says where the gate's card lies.
        report: What came of the test; its own place is the new card's, too.

    Returns:
        The new page's address; None where it could not be drawn.
    """
    before, folder = verdict.card_uri, report.report_uri.rpartition("/")[0]
    if before is None:
        return None

    def draw() -> str:
        content = _read(client, f"{before.removesuffix('html')}json")
        card = Card.model_validate_json(content).model_copy(update={"shadow": report})
        for name, render in _RENDERERS.items():
            bucket, key = parse_s3_uri(f"{folder}/{name}")
            body, kind = render(card).encode(), CONTENT_TYPES[name]
            client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=kind)
        return f"{folder}/card.html"

    return _if_possible("tell of the shadow test", draw)


def _card(
    task: BaseOperator,
    context: Context,
    settings: Settings,
    client: Any,
    trained: TrainedModel,
    verdict: Verdict,
    evaluation: Path,
    report: str | None,
) -> Card:
    manifest = _without("the snapshot", lambda: _manifest(client, settings, trained.snapshot_id))
    data = data_of(
        manifest,
        _without("its drift", lambda: _drift(context, client, settings, trained.snapshot_id)),
        _without("dbt's tests", lambda: _results(task, context, client)),
    )
    params = dict(context.get("params") or {})
    instance = str(params.get("training_instance_type") or settings.training_instance_type)
    live = _without("the live endpoint", lambda: _live(settings, trained)) or Live(
        endpoint=settings.endpoint_name, instance=settings.endpoint_instance_type, known=False
    )
    loads = _without("the raw loads", lambda: _loads(task, context, client, settings, manifest)) or []
    chosen = getattr(context.get("dag_run"), "conf", None) or {}
    around = Surroundings(
        run_id=context.get("run_id"),
        judged_at=datetime.now(UTC).isoformat(timespec="seconds"),
        params=params,
        chosen=frozenset(chosen),
        products=_without("the products", lambda: _products(evaluation, report)) or {},
        data=data,
        lineage=lineage_of(verdict, trained, manifest, loads, settings.model_package_group, instance, live),
        cost=_without("its cost", lambda: _cost(trained, instance, live)),
        rollback=rollback_of(verdict, live),
    )
    return compose(verdict, report, _training(evaluation), around)


def _if_possible(what: str, act: Callable[[], FoundT]) -> FoundT | None:
    try:
        return act()
    except Exception:
        log.warning("The card cannot %s; the verdict stands without it.", what, exc_info=True)
        return None


def _without(what: str, read: Callable[[], FoundT]) -> FoundT | None:
    try:
        return read()
    except Exception:
        log.warning("The card goes without %s.", what, exc_info=True)
        return None


def _manifest(client: Any, settings: Settings, snapshot_id: str) -> Mapping[str, object] | None:
    uri = snapshots.snapshot_uri(settings.bucket, settings.prefix, snapshot_id)
    manifest = snapshots.read_manifest(client, uri)
    return None if manifest is None else manifest.model_dump(mode="json")


def _drift(
    context: Context, client: Any, settings: Settings, snapshot_id: str
) -> Mapping[str, object] | None:
    """The comparison that this run made: the record of its export says where it lies."""
    claim = read_record(client, settings.bucket, settings.prefix, context["run_id"], Snapshot)
    if claim is None or claim.snapshot_id != snapshot_id or not claim.drift_uri:
        return None
    return Drift.model_validate_json(_read(client, claim.drift_uri)).model_dump(mode="json")


def _results(task: BaseOperator, context: Context, client: Any) -> list[Mapping[str, object]]:
    before = task.get_flat_relatives(upstream=True)
    names = sorted(other.task_id for other in before if other.task_id.startswith(TRANSFORM))
    # A list of names gives a list of values, with None for a task that left nothing.
    left = context["ti"].xcom_pull(task_ids=names, key=XCOM_KEY) if names else []
    uris = [DbtArtifacts.model_validate(value).run_results_uri for value in left if value]
    return [json.loads(_read(client, uri)) for uri in uris if uri]


def _training(evaluation: Path) -> dict[str, object]:
    """Reads the job's own metrics; a missing or broken file is the suite's to report."""
    try:
        text = (evaluation / "metrics.json").read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=lambda _: math.nan)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _products(evaluation: Path, report: str | None) -> dict[str, tuple[object, object]]:
    """What the catalogue knows of the products in the card's example sessions."""
    import pyarrow.parquet as pq

    wanted, path = example_skus(read_report(report)[0]), evaluation / "items.parquet"
    columns = [name for name in ("category", "price_bucket") if name in pq.read_schema(path).names]
    if not wanted or not columns:
        return {}
    table = pq.read_table(
        path, columns=["product_sku", *columns], filters=[("product_sku", "in", sorted(wanted))]
    )
    return {row["product_sku"]: (row.get("category"), row.get("price_bucket")) for row in table.to_pylist()}


def _live(settings: Settings, trained: TrainedModel) -> Live:
    client: Any = AwsBaseHook(aws_conn_id=settings.aws_conn_id, client_type="sagemaker").get_conn()
    config, known = None, True
    try:
        endpoint = client.describe_endpoint(EndpointName=settings.endpoint_name)
    except ClientError as error:
        if not is_missing(error):
            raise
    else:
        status = str(endpoint["EndpointStatus"])
        # The configuration of one that is being created, or has failed, never answered anybody.
        config = endpoint.get("EndpointConfigName") if status == "InService" else None
        known = status not in _UNSETTLED
    return Live(
        endpoint=settings.endpoint_name,
        instance=settings.endpoint_instance_type,
        region=client.meta.region_name,
        config=config,
        known=known,
        model_name=str(wanted_model(trained, settings, client.meta.region_name)["ModelName"]),
        wanted=str(wanted_config(trained, settings, client.meta.region_name)["EndpointConfigName"]),
    )


def _loads(
    task: BaseOperator,
    context: Context,
    client: Any,
    settings: Settings,
    manifest: Mapping[str, Any] | None,
) -> list[Load]:
    events: Any = context.get("inlet_events")
    if manifest is None or events is None or RAW_EVENTS not in task.inlets:
        return []
    folder = snapshots.snapshot_uri(settings.bucket, settings.prefix, manifest["snapshot_id"])
    bucket, key = parse_s3_uri(f"{folder}{snapshots.MANIFEST}")
    written: datetime = client.head_object(Bucket=bucket, Key=key)["LastModified"]
    # What landed after the snapshot is not in it.
    newest = events[RAW_EVENTS].ascending(False).before(written.isoformat()).limit(_MOST_LOADS)
    interval = manifest["interval"]
    extras = [event.extra or {} for event in newest][::-1]
    return loads_of(extras, manifest["tenant"], interval["start"], interval["end"])


def _cost(trained: TrainedModel, instance: str, live: Live) -> Cost:
    prices = load_prices()
    hour = prices.of_hosting(live.region, live.instance)
    return Cost(
        training_seconds=trained.billable_seconds,
        training_instance=instance,
        training_usd=trained.cost_usd,
        training_saving=trained.spot_saving,
        endpoint_instance=live.instance,
        endpoint_usd_per_hour=hour,
        endpoint_usd_per_month=None if hour is None else hour * HOURS_A_MONTH,
        region=live.region or "an unknown region",
        prices_of=prices.date.isoformat() if live.region == prices.region else None,
    )


def _read(client: Any, uri: str) -> bytes:
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return content

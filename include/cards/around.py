"""Where a model comes from, where it goes, and the way back: the card's lineage and roll-back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from include.cards.card import Rollback, Stage
from include.cards.headline import outcome_of
from include.cards.text import duration, finite, mapping, shorten
from include.contracts import Contract, TrainedModel, Verdict


class Load(Contract):
    """A load of raw events, as it announced itself."""

    etl_id: str
    first_day: str
    last_day: str
    rows: int | None = None


class Live(Contract):
    """What the endpoint is and will be.

    Attributes:
        config: Configuration that was live when the model was judged; None where none answered anybody.
        model_name: The SageMaker model that a deploy of the judged one makes.
        wanted: The configuration that it makes.
        known: False where the endpoint could not be asked.
    """

    endpoint: str
    instance: str
    region: str | None = None
    config: str | None = None
    model_name: str | None = None
    wanted: str | None = None
    known: bool = True


def loads_of(extras: Sequence[Mapping[str, object]], tenant: str, start: str, end: str) -> list[Load]:
    """Returns the loads of a shop with rows of the days from `start` to before `end`; the newest first.

    Args:
        extras: What the loads' asset events say, oldest first; an event that somebody made by hand, without
            a load's name and days, is left out.
        tenant: The shop.
        start: First day, ISO.
        end: Day after the last, ISO.
    """
    found: dict[str, Load] = {}
    for extra in extras:
        first, last = str(extra.get("first_event_date", "")), str(extra.get("last_event_date", ""))
        if extra.get("tenant") != tenant or not extra.get("etl_id") or not first or not last:
            continue
        if first < end and last >= start:
            rows = finite(extra.get("rows"))
            load = Load(
                etl_id=shorten(extra["etl_id"]),
                first_day=shorten(first, 10),
                last_day=shorten(last, 10),
                rows=None if rows is None else int(rows),
            )
            found.pop(load.etl_id, None)
            found[load.etl_id] = load
    return list(found.values())[::-1]


def lineage_of(
    verdict: Verdict,
    trained: TrainedModel,
    manifest: Mapping[str, object] | None,
    loads: Sequence[Load],
    group: str,
    instance: str,
    live: Live,
) -> tuple[Stage, ...]:
    """Returns the chain from raw loads to the endpoint.

    Args:
        verdict: The gate's decision.
        trained: The model.
        manifest: The snapshot's manifest, where it could be read.
        loads: From `loads_of`.
        group: Model package group in which the model is registered.
        instance: Instance of the training job.
        live: The endpoint.
    """
    made = mapping(manifest)
    days, counts = mapping(made.get("interval")), mapping(made.get("counts"))
    span = (
        [f"{shorten(days['start'], 10)} to before {shorten(days['end'], 10)}"]
        if {"start", "end"} <= set(days)
        else []
    )
    sessions = sum(int(finite(counts.get(name)) or 0) for name in ("train", "validation", "test"))
    search = (
        [f"best of {trained.tuning.trials} trials of {trained.tuning.job_name}"] if trained.tuning else []
    )
    outcome = outcome_of(verdict)
    registered = "registered as " + (
        "Rejected" if outcome == "rejected" else "Approved, or awaiting a person"
    )
    before = verdict.champion.job_name or verdict.champion.model_name if verdict.champion else None
    goes = "stays as it is" if outcome == "rejected" else "next, where the run deploys"
    return (
        Stage(kind="Raw loads", name=_loads_name(loads), details=_load_lines(loads)),
        Stage(
            kind="Snapshot",
            name=verdict.snapshot_id,
            details=(*span, *([f"{sessions:,} sessions"] if sessions else [])),
        ),
        Stage(
            kind="Training job",
            name=verdict.job_name,
            details=(instance, f"{duration(trained.billable_seconds)} billable", *search),
        ),
        Stage(kind="Model package group", name=shorten(group), details=(registered,)),
        Stage(
            kind="Endpoint",
            name=live.endpoint,
            details=(
                goes,
                *([f"live when judged: {before}"] if before else ["nothing was live" if live.known else ""]),
            ),
        ),
    )


def rollback_of(verdict: Verdict, live: Live) -> Rollback:
    """Returns how to undo a deployment of the judged model.

    Args:
        verdict: The gate's decision.
        live: The endpoint, as it was when the model was judged.
    """
    if outcome_of(verdict) == "rejected":
        return Rollback(text="There is nothing to undo: the model was not deployed, and what is live stays.")
    if _is_live_already(verdict, live):
        return Rollback(text="This very model was live already when it was judged: the run changes nothing.")
    where = f"--endpoint-name {shlex.quote(live.endpoint)}"
    if live.region:
        where += f" --region {shlex.quote(live.region)}"
    settled = f"aws sagemaker wait endpoint-in-service {where}"
    if live.config is not None:
        return Rollback(
            text="Trigger the DAG roll_back_endpoint: it tests the model that it puts back, and keeps the "
            "reason. By hand: put the endpoint back on the configuration that was live when this model was "
            "judged. It goes on answering meanwhile. Pause the DAG first, or switch its Param Deploy off: "
            "the next run deploys again.",
            commands=(
                f"aws sagemaker update-endpoint {where} --endpoint-config-name {shlex.quote(live.config)}",
                settled,
            ),
        )
    if verdict.champion is not None or not live.known:
        return Rollback(
            text="What was live could not be read. List the configurations, put the endpoint back on the one "
            "before, and pause the DAG: the next run deploys again.",
            commands=(
                "aws sagemaker list-endpoint-configs --sort-by CreationTime --sort-order Descending"
                + (f" --region {shlex.quote(live.region)}" if live.region else ""),
                f"aws sagemaker update-endpoint {where} --endpoint-config-name NAME",
                settled,
            ),
        )
    return Rollback(
        text="Nothing was live before, so there is nothing to go back to. To take the endpoint down, and end "
        "its cost:",
        commands=(f"aws sagemaker delete-endpoint {where}",),
    )


def _is_live_already(verdict: Verdict, live: Live) -> bool:
    """The same job's model in another image, or on another instance, is another deployment."""
    if verdict.champion is None or live.config is None:
        return False
    return (verdict.champion.model_name, live.config) == (live.model_name, live.wanted)


def _loads_name(loads: Sequence[Load]) -> str:
    if not loads:
        return "not announced"
    return loads[0].etl_id if len(loads) == 1 else f"{len(loads):,} loads"


def _load_lines(loads: Sequence[Load]) -> tuple[str, ...]:
    if not loads:
        return ("no load of these days told of itself",)
    rows = [load.rows for load in loads if load.rows is not None]
    days = f"{min(load.first_day for load in loads)} to {max(load.last_day for load in loads)}"
    newest = [f"newest {loads[0].etl_id}"] if len(loads) > 1 else []
    return (days, *([f"{sum(rows):,} events"] if rows else []), *newest)

"""Scores everybody's lists alike and writes the results as JSON and as a Markdown table."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from bench.next_item import scores
from bench.next_item.catalogue import Method
from bench.next_item.shop import Ints, Shop

OURS = "ours"


def score(shop: Shop, runs: dict[str, list[dict[str, Any]]], work: Path) -> dict[str, Any]:
    """Returns each method's metrics, by seed, and how far ours is ahead of the best peer."""
    rows: dict[str, Any] = {}
    all_ranks: dict[str, list[Ints]] = {}
    for name, records in runs.items():
        if absent := next((record["absent"] for record in records if "absent" in record), ""):
            rows[name] = {"absent": absent}
            continue
        all_ranks[name] = [_ranks(shop, work / record["lists"]) for record in records]
        by_seed = [scores.summarise(shop, rank) for rank in all_ranks[name]]
        rows[name] = {
            "metrics": _over_seeds(by_seed, statistics.fmean),
            "spread": _over_seeds(by_seed, statistics.stdev) if len(by_seed) > 1 else None,
            "standard_error": {
                metric: scores.standard_error(shop, all_ranks[name][0], metric) for metric in scores.METRICS
            },
            "by_seed": by_seed,
            "runs": [{key: value for key, value in record.items() if key != "stamp"} for record in records],
        }
    return {"methods": rows, "ahead": _ahead(shop, rows, all_ranks)}


def _ranks(shop: Shop, path: Path) -> Ints:
    lists = np.load(path).astype(np.int64)
    return scores.ranks(scores.final_lists(lists, shop.viewed, shop.products), shop.targets)


def _over_seeds(by_seed: list[dict[str, dict[str, float]]], summary: Any) -> dict[str, dict[str, float]]:
    return {
        subset: {metric: summary([run[subset][metric] for run in by_seed]) for metric in metrics}
        for subset, metrics in by_seed[0].items()
    }


def _ahead(shop: Shop, rows: dict[str, Any], all_ranks: dict[str, list[Ints]]) -> dict[str, Any]:
    """Compares ours with whichever peer is best by each metric."""
    peers = [name for name in all_ranks if name != OURS]
    if OURS not in all_ranks or not peers:
        return {}
    ahead = {}
    for metric in scores.METRICS:
        best = max(peers, key=lambda name: rows[name]["metrics"]["every"][metric])
        ahead[metric] = {
            "peer": best,
            **scores.difference(shop, all_ranks[OURS], all_ranks[best], metric),
        }
    return ahead


def to_markdown(results: dict[str, Any], methods: dict[str, Method]) -> str:
    """Returns the tables, best MRR last."""
    rows = results["methods"]
    split, counts = results["split"], results["counts"]
    unknown = counts["unknown_target_share"]
    lines = [
        f"{counts['train_sessions']:,} sessions to train on, {counts['products']:,} products, "
        f"{counts['test_sessions']:,} test sessions with {counts['queries']:,} queries, "
        f"{unknown:.1%} of whose targets training never saw. Snapshot `{results['snapshot_id']}`, "
        f"from `{split['events']}`; {results['machine']['cores']} cores of {results['machine']['cpu']}.",
        *_chance(rows),
        "",
        "| model | HR@20 | MRR@20 | NDCG@20 | last item HR / MRR | targets known HR / MRR "
        "| fit s | fit CPU-s | all CPU-s | peak GiB | p50 / p90 ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    measured = {name: row for name, row in rows.items() if "metrics" in row}
    for name, row in sorted(measured.items(), key=lambda pair: pair[1]["metrics"]["every"]["mrr"]):
        lines.append(f"| {methods[name].title} | {' | '.join(_cells(row))} |")
    for name, row in rows.items():
        if "absent" in row:
            lines += ["", f"Not run: {methods[name].title}: {row['absent']}."]
    for metric, gap in results["ahead"].items():
        lines += ["", _gap(metric, gap, methods[gap["peer"]].title)]
    return "\n".join(lines) + "\n"


def _chance(rows: dict[str, Any]) -> list[str]:
    """Returns what the figures' accuracy is, by the row of the best hit rate."""
    measured = [row for row in rows.values() if "metrics" in row]
    if not measured:
        return []
    best = max(measured, key=lambda row: row["metrics"]["every"]["hit_rate"])
    errors = best["standard_error"]
    shown = ", ".join(f"{metric.replace('_', ' ')} {errors[metric]:.4f}" for metric in scores.METRICS)
    return [f"± is the standard deviation over seeds. Standard errors of the best row, by session: {shown}."]


def _cells(row: dict[str, Any]) -> list[str]:
    metrics, spread = row["metrics"], row["spread"]
    every = [
        f"{metrics['every'][metric]:.4f}" + (f" ± {spread['every'][metric]:.4f}" if spread else "")
        for metric in scores.METRICS
    ]
    pairs = [
        f"{metrics[subset]['hit_rate']:.4f} / {metrics[subset]['mrr']:.4f}" if subset in metrics else ""
        for subset in ("last", "every_known")
    ]
    runs = row["runs"]
    fit_cpu = [run["answers"]["fit_cpu_seconds"] for run in runs]
    latency = [run["answers"]["latency_ms"] for run in runs]
    return [
        *every,
        *pairs,
        f"{_mean(run['answers']['fit_seconds'] for run in runs):.1f}",
        "" if None in fit_cpu else f"{_mean(fit_cpu):.1f}",
        f"{_mean(run['cost']['cpu'] for run in runs):.1f}",
        f"{max(run['cost']['memory'] for run in runs):.2f}",
        ""
        if None in latency
        else " / ".join(f"{_mean(one[share] for one in latency):.2f}" for share in ("p50", "p90")),
    ]


def _gap(metric: str, gap: dict[str, Any], peer: str) -> str:
    relative = "" if gap["relative"] is None else f"{gap['relative']:+.1%}, "
    return (
        f"Ours − {peer}, {metric.replace('_', ' ')}@20: {relative}{gap['difference']:+.4f} "
        f"(95 % interval {gap['low']:+.4f} to {gap['high']:+.4f})."
    )


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))

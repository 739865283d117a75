"""Verdicts, reports and pages for the card's tests."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

from include.cards.card import Card, Cost
from include.cards.compose import Surroundings, compose
from include.contracts import Champion, Check, TrainedModel, Verdict

VOID = {"meta", "br"}
TRAINING: dict[str, Any] = {
    "history": [
        {"epoch": n, "loss": 6.0 / n, "val_mrr@20": 0.1 * n, "val_hit_rate@20": 0.1, "seconds": 2.0}
        for n in (1, 2, 3)
    ],
    "training": {"sessions": 4000, "interactions": 19000, "products": 300, "epochs": 7, "seconds": 72.5},
    "blend": {"shares": {"network": 0.613, "own": 0.387}, "weights": [[0.1, 0.2]], "val_mrr@20": 0.2},
    "hyperparameters": {"architecture": "gru", "embedding_dim": 128},
    "versions": {"keras": "3.15.1"},
    "seed": 42,
    "queries": 900,
    "sessions": 300,
    "unknown_target_share": 0.014,
}
NASTY = {
    "script": "<script>alert(1)</script>",
    "attribute": "'\"><img src=x onerror=alert(1)>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "style": "</style><svg onload=alert(1)>",
    "control": "&amp;<b>\x00\u202e",
    "markdown": "`|x|\n# [a](http://evil.example) ![b](//evil.example/b.png) *c* ---",
    "long": "x" * 10_000,
}
TRAINED = TrainedModel(
    job_name="pms-0123456789ab",
    job_arn="arn:aws:sagemaker:us-east-1:123456789012:training-job/pms-0123456789ab",
    snapshot_id="snap-1",
    model_uri="s3://b/model.tar.gz",
    evaluation_uri="s3://b/output.tar.gz",
    billable_seconds=412,
)
CHAMPION = Champion(model_name="pms-live", model_uri="s3://b/live.tar.gz", job_name="pms-ba9876543210")
COST = Cost(
    training_seconds=412,
    training_instance="ml.g5.xlarge",
    training_usd=0.161,
    endpoint_instance="ml.m5.large",
    endpoint_usd_per_hour=0.115,
    endpoint_usd_per_month=83.95,
    region="us-east-1",
    prices_of="2026-11-24",
)


def check(name: str, status: str = "passed", **changes: Any) -> Check:
    fields: dict[str, Any] = {
        "name": name,
        "status": status,
        "value": 0.41,
        "comparison": ">=",
        "bound": 0.02,
        "sample_size": 900,
        "interval": (0.38, 0.44),
        "reason": f"{name} says so.",
    }
    return Check(**(fields | changes))


def verdict(approved: bool = True, **changes: Any) -> Verdict:
    checks = (
        check("hit_rate_floor", "passed" if approved else "failed"),
        check("leaking_model", "warned", comparison="<=", value=0.93, bound=0.9),
        check("coverage", "skipped", value=None, bound=None, interval=None, reason="Nothing to see."),
    )
    fields: dict[str, Any] = {
        "approved": approved,
        "job_name": "pms-0123456789ab",
        "snapshot_id": "snap-1",
        "rules_version": 7,
        "checks": checks,
        "metrics": {"hit_rate@20": 0.55, "mrr@20": 0.25, "coverage@20": 0.8},
        "baselines": {
            "popularity": {"hit_rate@20": 0.22, "mrr@20": 0.08},
            "session_knn": {"hit_rate@20": 0.49},
            "champion": {"hit_rate@20": 0.53, "mrr@20": 0.24, "coverage@20": 0.79},
        },
        "champion": CHAMPION,
        "report_uri": "s3://b/report.json",
    }
    return Verdict(**(fields | changes))


def measured(name: str, value: float | None = 0.55, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": name,
        "description": f"What {name} is.",
        "value": value,
        "sample_size": 900,
        "interval": [0.5, 0.6],
        "baselines": {"popularity": 0.22},
        "champion": 0.53,
        "slices": {},
        "error": None,
    }
    return fields | changes


def report(**changes: Any) -> dict[str, Any]:
    slices = {
        "head": {
            "value": 0.6,
            "sample_size": 500,
            "interval": [0.55, 0.65],
            "champion": 0.58,
            "difference": 0.02,
            "difference_interval": [-0.01, 0.05],
        },
        "unknown": {"value": None, "sample_size": 3},
    }
    fields: dict[str, Any] = {
        "schema_version": 1,
        "checks": [
            measured("hit_rate@20"),
            measured("hit_rate@20_by_popularity", None, slices=slices, interval=None),
            measured("single_answer_ms", 4.8, interval=[4.0, 9.2]),
            measured("distance_when_wrong", None, error="It fell over."),
        ],
        "examples": [
            {"session": ["a", "b"], "target": "c", "predictions": ["d", "c"], "rank": 2},
            {"session": ["a"], "target": "z", "predictions": ["b"], "rank": 0},
        ],
    }
    return fields | changes


def full_card(around: Surroundings | None = None, **changes: Any) -> Card:
    known = around or Surroundings(
        run_id="manual__1",
        judged_at="2026-11-24T03:41:07+00:00",
        params={"epochs": 8, "tenant": None},
        chosen=frozenset({"epochs"}),
        products={"c": ("home/pans", 6.0)},
        cost=COST,
    )
    return compose(verdict(**changes), json.dumps(report()), TRAINING, known)


class Page(HTMLParser):
    """Collects tags, outside references and handlers, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

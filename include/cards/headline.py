"""The decision in a word and in a sentence."""

from __future__ import annotations

from collections.abc import Iterable

from include.cards.card import Metric, Outcome
from include.cards.text import finite, method, percent, shorten
from include.contracts import Verdict

HEADLINE = "hit_rate@20"
KNOWS = "champion_knows"
# Below this share of known products a live model's low score says more of its catalogue than of itself.
KNOWS_MOST = 0.9


def outcome_of(verdict: Verdict) -> Outcome:
    """Returns the decision in a word."""
    if verdict.override_reason:
        return "overridden"
    return "approved" if verdict.approved else "rejected"


def headline_of(verdict: Verdict, metrics: Iterable[Metric] = ()) -> str:
    """Returns the decision, and what the model finds beside the live one and the best baseline.

    Args:
        verdict: The gate's decision.
        metrics: What the suite measured, for how much of these products the live model knows.
    """
    failed, rules = len(verdict.failures), len(verdict.checks)
    decision = {
        "approved": "The model may go live.",
        "overridden": f"The gate said no on {failed} of {rules} rules; a person let the model through.",
        "rejected": f"{failed} of {rules} rules failed. The model does not go live; what is live stays.",
    }[outcome_of(verdict)]
    value = finite(verdict.metrics.get(HEADLINE))
    if value is None:
        return decision
    others = {
        name: found
        for name, values in verdict.baselines.items()
        if (found := finite(values.get(HEADLINE))) is not None
    }
    live = others.pop("champion", None)
    beside = [] if live is None else [f"the live model {percent(live)}{_stranger(metrics)}"]
    if others:
        best = max(others, key=lambda name: others[name])
        beside.append(f"the best baseline ({shorten(method(best), 30)}) {percent(others[best])}")
    compared = f"; {', '.join(beside)}" if beside else ""
    return f"{decision} It finds {percent(value)} of the next products in 20 recommendations{compared}."


def _stranger(metrics: Iterable[Metric]) -> str:
    knows = next((metric.value for metric in metrics if metric.name == KNOWS), None)
    if knows is None or knows >= KNOWS_MOST:
        return ""
    return f" (it knows the product in {percent(knows)} of the queries)"

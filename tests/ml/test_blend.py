from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime

import blend
from blend import COMPONENTS, DEFAULT_BLEND, FEATURES, TRAITS, Seen, fit_blend

NETWORK, OWN = COMPONENTS.index("network"), COMPONENTS.index("own")
AGO, RETRACED = TRAITS.index("ago"), TRAITS.index("retraced")


def _planted(queries: int) -> Seen:
    """Of every other query the network knows the target, of the rest the session's own products do."""
    features = np.zeros((queries, len(FEATURES)))
    features[:, 0] = 1.0
    features[:, 1] = np.where(np.arange(queries) % 2, 1.0, -1.0)
    probabilities = np.full((queries, len(COMPONENTS) - 1), 0.001)
    probabilities[1::2, NETWORK] = 0.5
    own, matches = np.zeros((2, queries, 3))
    own[:, 1:] = 1.0
    matches[0::2, 1] = 1.0
    traits = np.zeros((queries, 3, len(TRAITS)))
    traits[:, :, AGO] = np.arange(3)
    return Seen(features, probabilities, traits, own, matches)


def test_planted_gate_is_found() -> None:
    seen = _planted(2000)
    features, found = seen.features, fit_blend(seen)
    assert found.weights.dtype == np.float32
    assert found.shares(features[1::2])["network"] > 0.9
    assert found.shares(features[0::2])["own"] > 0.9
    both = found.shares(features)
    assert both["network"] == pytest.approx(0.5, abs=0.1)
    assert sum(both.values()) == pytest.approx(1.0, abs=1e-3)


def test_few_queries_hardly_move_the_gate() -> None:
    moved = []
    for queries in (2, 20, 200):
        seen = _planted(queries)
        found, before = (gate.shares(seen.features[1::2]) for gate in (fit_blend(seen), DEFAULT_BLEND))
        moved.append(found["network"] - before["network"])
    assert 0 < moved[0] < 0.12
    assert moved[0] < moved[1] < moved[2]


def test_no_queries_leave_the_default() -> None:
    assert fit_blend(_planted(0)) is DEFAULT_BLEND


@pytest.mark.parametrize("steps", [1, 2])
def test_own_products_are_ranked_as_they_were_chosen(steps: int) -> None:
    seen = _planted(2000)
    matches = np.zeros_like(seen.matches)
    matches[0::2, steps] = 1.0
    found = fit_blend(replace(seen, matches=matches))
    assert found.own[AGO] * (-1 if steps == 1 else 1) > 0.5
    assert abs(fit_blend(replace(seen, matches=matches)[np.arange(2000) < 4]).own[AGO]) < 0.05


def test_shoppers_who_retrace_their_steps_are_told_from_those_who_go_back() -> None:
    seen = _planted(2000)
    matches, traits = np.zeros_like(seen.matches), seen.traits.copy()
    chosen = np.random.default_rng(0).integers(1, 3, 1000)
    matches[0::2][np.arange(1000), chosen] = 1.0
    assert fit_blend(replace(seen, matches=matches)).own[RETRACED] == pytest.approx(0.0, abs=1e-6)
    traits[0::2, :, RETRACED] = matches[0::2]
    found = fit_blend(replace(seen, matches=matches, traits=traits))
    assert found.own[RETRACED] > 2
    assert abs(found.own[AGO]) < 0.1


def test_targets_that_nobody_expects_say_nothing() -> None:
    seen = _planted(500)
    nobody = replace(seen, probabilities=0 * seen.probabilities, matches=0 * seen.matches)
    found = fit_blend(nobody)
    np.testing.assert_allclose(found.own, 0.0, atol=1e-6)
    np.testing.assert_allclose(found.weights, DEFAULT_BLEND.weights, atol=1e-3)


def test_gradient_is_that_of_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    caught = []
    minimize = blend.minimize

    def catch(objective: Any, *arguments: Any, **options: Any) -> Any:
        caught.append(objective)
        return minimize(objective, *arguments, **options)

    monkeypatch.setattr(blend, "minimize", catch)
    rng = np.random.default_rng(0)
    own = rng.integers(0, 2, (30, 5)).astype(np.float64)
    matches = own * rng.integers(0, 2, (30, 5))
    features, probabilities = rng.normal(size=(30, len(FEATURES))), rng.random((30, len(COMPONENTS) - 1))
    traits = rng.normal(size=(30, 5, len(TRAITS)))
    fit_blend(Seen(features, probabilities, traits, own, matches))
    [objective] = caught
    for _ in range(3):
        point = rng.normal(size=len(FEATURES) * len(COMPONENTS) + len(TRAITS))
        point[-len(TRAITS) :] *= 0.3
        wanted = approx_fprime(point, lambda at: objective(at)[0], 1e-6)
        np.testing.assert_allclose(objective(point)[1], wanted, rtol=1e-4, atol=1e-3)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime

import blend
from blend import COMPONENTS, DEFAULT_BLEND, FEATURES, fit_blend

NETWORK, OWN = COMPONENTS.index("network"), COMPONENTS.index("own")


def _planted(queries: int) -> tuple[Any, Any]:
    """Of every other query the network knows the target, of the rest the session's own products do."""
    features = np.zeros((queries, len(FEATURES)))
    features[:, 0] = 1.0
    features[:, 1] = np.where(np.arange(queries) % 2, 1.0, -1.0)
    probabilities = np.full((queries, len(COMPONENTS)), 0.001)
    probabilities[1::2, NETWORK] = 0.5
    probabilities[0::2, OWN] = 0.5
    return features, probabilities


def test_planted_gate_is_found() -> None:
    features, probabilities = _planted(2000)
    found = fit_blend(features, probabilities)
    assert found.weights.dtype == np.float32
    assert found.shares(features[1::2])["network"] > 0.9
    assert found.shares(features[0::2])["own"] > 0.9
    both = found.shares(features)
    assert both["network"] == pytest.approx(0.5, abs=0.1)
    assert sum(both.values()) == pytest.approx(1.0, abs=1e-3)


def test_few_queries_hardly_move_the_gate() -> None:
    moved = []
    for queries in (2, 20, 200):
        features, probabilities = _planted(queries)
        found, before = (
            gate.shares(features[1::2]) for gate in (fit_blend(features, probabilities), DEFAULT_BLEND)
        )
        moved.append(found["network"] - before["network"])
    assert 0 < moved[0] < 0.12
    assert moved[0] < moved[1] < moved[2]


def test_no_queries_leave_the_default() -> None:
    features, probabilities = _planted(0)
    assert fit_blend(features, probabilities) is DEFAULT_BLEND


def test_targets_that_nobody_expects_say_nothing() -> None:
    features, probabilities = _planted(500)
    found = fit_blend(features, np.zeros_like(probabilities))
    np.testing.assert_allclose(found.weights, DEFAULT_BLEND.weights, atol=1e-3)


def test_gradient_is_that_of_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    caught = []
    minimize = blend.minimize

    def catch(objective: Any, *arguments: Any, **options: Any) -> Any:
        caught.append(objective)
        return minimize(objective, *arguments, **options)

    monkeypatch.setattr(blend, "minimize", catch)
    rng = np.random.default_rng(0)
    fit_blend(rng.normal(size=(30, len(FEATURES))), rng.random((30, len(COMPONENTS))))
    [objective] = caught
    for _ in range(3):
        point = rng.normal(size=len(FEATURES) * len(COMPONENTS))
        wanted = approx_fprime(point, lambda at: objective(at)[0], 1e-6)
        np.testing.assert_allclose(objective(point)[1], wanted, rtol=1e-4, atol=1e-3)
